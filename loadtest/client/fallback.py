"""The client in Python, for machines without a C compiler: the same flags, commands and events.

`websockets`' protocol without I/O does the framing, asyncio the sockets. About fifty times slower
than the C client, so it is the bottleneck of all but small runs, and the report says that it was
used.
"""

import argparse
import asyncio
import json
import re
import resource
import socket
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import parse_uri

from loadtest.client.reading import Subscription, Tally

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # of RFC 6455's example: the floor knows the answer to no other
_ID = re.compile(r'"subscription_id":"live(\d*)"')


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser()
    p.add_argument("--host", default="127.0.0.1")
    p.add_argument("--path", default="/v1/ws")
    p.add_argument("--options", default="null")
    for name in ("--sql-file", "--token-file"):
        p.add_argument(name, type=Path, required=True)
    numbers = ("--port", "--connections", "--subscriptions", "--ramp", "--ping-us", "--rcvbuf")
    for name in (*numbers, "--receivers"):
        p.add_argument(name, type=int, default=1)
    for name in ("--unique-ids", "--contiguous", "--deflate"):
        p.add_argument(name, action="store_true")
    return p.parse_args()


class Connection(asyncio.Protocol):
    """One subscriber."""

    def __init__(self, client: "Client", index: int) -> None:
        self.client, self.index = client, index
        self.live = 0
        self.is_open = False
        self._pieces: list[bytes] = []
        deflate = [ClientPerMessageDeflateFactory()] if client.wanted.deflate else None
        uri = parse_uri(f"ws://{client.wanted.host}:{client.wanted.port}{client.wanted.path}")
        self._ws = ClientProtocol(uri, extensions=deflate, max_size=None)
        self._ws.key = KEY

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        request = self._ws.connect()
        if self.client.tokens:
            token = self.client.tokens[self.index % len(self.client.tokens)]
            request.headers["Authorization"] = f"Bearer {token}"
        self._ws.send_request(request)
        self.flush()

    def data_received(self, data: bytes) -> None:
        self.client.tally.bytes += len(data)
        self._ws.receive_data(data)
        for event in self._ws.events_received():
            if isinstance(event, Response):
                self._upgraded()
            elif isinstance(event, Frame):
                self._take(event)
        self.flush()
        if self._ws.close_rcvd:
            self.transport.close()
        self.client.settle()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.client.connections.get(self.index) is self:
            why = self._ws.close_rcvd or exc or "the server hung up"
            self.client.tally.fault(f"connection {self.index}: closed: {why}")
            del self.client.connections[self.index]
            self.client.tell("progress")

    def _upgraded(self) -> None:
        if self._ws.state is not State.OPEN:
            self.client.tally.fault(f"connection {self.index}: {self._ws.handshake_exc}")
            return
        self.is_open = True
        self.client.deflated += bool(self._ws.extensions)
        for place in range(self.client.wanted.subscriptions):
            self.send(self.client.subscribe(self.index, place))
        if not self.client.wanted.subscriptions:
            self.now_live(0)

    def _take(self, frame: Frame) -> None:
        if frame.opcode in (Opcode.TEXT, Opcode.CONT):
            self._pieces.append(bytes(frame.data))
            if frame.fin:
                text, self._pieces = b"".join(self._pieces).decode(), []
                self.client.take(self, text)
        elif frame.opcode is Opcode.PONG:
            self.client.tally.ping.add(time.monotonic_ns() - int.from_bytes(frame.data, "little"))

    def now_live(self, count: int = 1) -> None:
        """So many more subscriptions are live; all of them: the connection is ready."""
        self.live += count
        if self.live == self.client.wanted.subscriptions:
            self.client.became_ready()

    def send(self, message: str) -> None:
        self._ws.send_text(message.encode())

    def ping(self) -> None:
        self._ws.send_ping(time.monotonic_ns().to_bytes(8, "little"))
        self.flush()

    def flush(self) -> None:
        """What the protocol wants sent goes out; an empty piece means the end of sending."""
        for piece in self._ws.data_to_send():
            if piece:
                self.transport.write(piece)


class Client:
    """All connections, and the conversation on stdin and stdout."""

    def __init__(self, wanted: argparse.Namespace) -> None:
        self.wanted = wanted
        self.sql = wanted.sql_file.read_text().splitlines()
        self.tokens = wanted.token_file.read_text().splitlines()
        total = wanted.connections * wanted.subscriptions
        self.subscriptions = [
            Subscription(is_silent=number % wanted.subscriptions >= wanted.receivers)
            for number in range(total)
        ]
        self.connections: dict[int, Connection] = {}
        self.tally = Tally()
        self.deflated = 0
        self._target: int | None = None
        self._ready = 0
        self._slots = asyncio.Semaphore()
        self._returning = False
        self._opening: asyncio.Task[None] | None = None

    def subscribe(self, index: int, place: int) -> str:
        """The message; SQL comes out of its file escaped for JSON."""
        number = index * self.wanted.subscriptions + place
        options = self.wanted.options
        if self._returning:
            options = json.dumps({"from": self.subscriptions[number].position})
        own = number if self.wanted.unique_ids else place
        bare = not self.wanted.unique_ids and self.wanted.subscriptions == 1
        return (
            f'{{"type":"subscribe","subscription":{{"id":"live{"" if bare else own}",'
            f'"sql":"{self.sql[number % len(self.sql)]}","options":{options}}}}}'
        )

    def take(self, connection: Connection, text: str) -> None:
        self.tally.messages += 1
        kind = text.partition('"type":"')[2].partition('"')[0]
        subscription = self._subject(connection, text)
        if kind == "change" and subscription:
            if subscription.is_silent:
                self.tally.fault(f"a silent subscription was told: {text[:200]}")
            self.tally.take_rows(text, subscription, contiguous=self.wanted.contiguous)
        elif kind in ("subscription_ack", "initial_data_batch") and subscription:
            self._take_control(connection, subscription, json.loads(text))
        elif kind != "auth_success":
            self.tally.fault(f"connection {connection.index} was told: {text[:200]}")

    def _subject(self, connection: Connection, text: str) -> Subscription | None:
        found = _ID.search(text[:1024])
        if found is None:
            return None
        first = connection.index * self.wanted.subscriptions
        place = int(found[1] or 0) - (first if self.wanted.unique_ids else 0)
        if not 0 <= place < self.wanted.subscriptions:
            return None
        found_there: Subscription = self.subscriptions[first + place]
        return found_there

    def _take_control(
        self, connection: Connection, subscription: Subscription, message: dict[str, Any]
    ) -> None:
        control = message["batch_control"]
        subscription.position = max(subscription.position, control["last_seq_id"])
        self.tally.not_resumed += message.get("resumed") is False
        self.tally.snapshot_rows += len(message.get("rows", ()))
        live_only = not self._returning and self.wanted.options == "null"
        is_ack = message["type"] == "subscription_ack"
        if live_only if is_ack else not control["has_more"]:
            # Once for each: after a live-only ack, which says so, an empty ready batch may follow.
            if subscription.live_on is not connection:
                subscription.live_on = connection
                connection.now_live()
        elif not is_ack:
            wanted = {"type": "next_batch", "subscription_id": message["subscription_id"]}
            connection.send(json.dumps(wanted))

    def settle(self) -> None:
        """Tell what has come true."""
        if self.tally.faults:
            self.tell("progress")
        if self._target is not None and self.tally.rows >= self._target:
            self._target = None
            self.tell("target")

    def tell(self, event: str) -> None:
        told = {
            "event": event,
            "ready": self._ready,
            "deflated": self.deflated,
            "rows": self.tally.rows,
            "faults": self.tally.faults,
            "fault_text": "".join(self.tally.fault_texts[:1]),
        }
        print(json.dumps(told), flush=True)

    async def open_all(self) -> None:
        """At most `ramp` connections are on the way at any time."""
        loop = asyncio.get_running_loop()
        self._ready, self._slots = 0, asyncio.Semaphore(self.wanted.ramp)
        for index in range(self.wanted.connections):
            await self._slots.acquire()
            sock = socket.socket()
            if self.wanted.rcvbuf:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.wanted.rcvbuf)
            sock.setblocking(False)
            try:
                await loop.sock_connect(sock, (self.wanted.host, self.wanted.port))
            except OSError as error:
                self.tally.fault(f"connection {index}: {error}")
                self.tell("progress")
                return
            self.connections[index] = Connection(self, index)
            await loop.create_connection(partial(self.connections.__getitem__, index), sock=sock)

    def became_ready(self) -> None:
        self._ready += 1
        self._slots.release()
        if self._ready == self.wanted.connections:
            self.tell("ready")

    def _reopen(self) -> None:
        self._opening = asyncio.create_task(self.open_all())

    def command(self, line: str) -> None:
        match line.split():
            case ["target", rows]:
                self._target = int(rows)
                self.settle()
            case ["report"]:
                print(
                    json.dumps(self.tally.told(self.subscriptions, self.wanted.connections)),
                    flush=True,
                )
            case [name]:
                self._change(name)
                self.tell("done")

    def _change(self, name: str) -> None:
        match name:
            case "reset":
                self.tally = Tally()
                for subscription in self.subscriptions:
                    subscription.rows = subscription.sum = 0
            case "stall":
                for connection in self.connections.values():
                    connection.transport.pause_reading()
            case "read":
                for connection in self.connections.values():
                    connection.transport.resume_reading()
            case "drop":
                gone, self.connections = self.connections, {}
                for connection in gone.values():
                    connection.transport.abort()
            case "return":
                self._returning = True
                self._reopen()

    async def run(self) -> None:
        self._reopen()
        commands = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
        pings = asyncio.create_task(self._ping()) if self.wanted.ping_us else None
        async for line in commands:
            if line.strip() == b"quit":
                break
            self.command(line.decode())
        for task in (pings, self._opening):
            if task:
                task.cancel()

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(self.wanted.ping_us / 1e6)
            first = self.connections.get(0)
            if first and first.is_open:
                first.ping()


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(Client(arguments()).run())
