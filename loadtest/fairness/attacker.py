"""Sends prepared frames on one connection or several: `python -m loadtest.fairness.attacker`.

A process of its own, so that its work does not delay those who measure. Lines on stdin: `go` begins
to send, `stop` cuts all connections at once, `report` tells

    {"event":"report","sent":N,"bytes":N,"blocked":S,"closed":{"1008":1},"heard":{"change":5},
     "last_heard":NS}

blocked: seconds that a sender waited for its socket to take more, summed over connections; a
server that throttles a sender does not read it. What the server sends is read and counted by type.
"""

import argparse
import asyncio
import json
import re
import sys
import time
from collections import Counter
from pathlib import Path

from websockets.frames import Opcode

from loadtest.fairness.frames import read

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
_TYPE = re.compile(rb'"type":"(\w+)"')
_CODE = re.compile(rb'"code":"(\w+)"')


class Tally:
    """What all connections did and heard."""

    def __init__(self) -> None:
        self.sent = self.bytes = self.last_heard = 0
        self.blocked = 0.0
        self.closed: Counter[str] = Counter()
        self.heard: Counter[str] = Counter()

    def take(self, payload: bytes) -> None:
        self.last_heard = time.monotonic_ns()
        kind = _TYPE.search(payload[:200])
        name = kind[1].decode() if kind else "other"
        code = _CODE.search(payload[:400]) if name == "error" else None
        self.heard[code[1].decode() if code else name] += 1


class Attacker:
    """One connection."""

    def __init__(self, wanted: argparse.Namespace, frames: list[bytes], tally: Tally) -> None:
        self._wanted, self._frames, self._tally = wanted, frames, tally

    async def connect(self) -> None:
        wanted = self._wanted
        self._reader, self._writer = await asyncio.open_connection(
            wanted.host, wanted.port, limit=1 << 22
        )
        extension = "Sec-WebSocket-Extensions: permessage-deflate\r\n" if wanted.deflate else ""
        head = (
            f"GET /v1/ws HTTP/1.1\r\nHost: {wanted.host}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n"
            f"Authorization: Bearer {wanted.token}\r\n{extension}\r\n"
        )
        self._writer.write(head.encode())
        answer = await self._reader.readuntil(b"\r\n\r\n")
        if b" 101 " not in answer:
            raise ConnectionError(answer.split(b"\r\n")[0].decode())
        self._listening = asyncio.create_task(self._listen())

    async def attack(self) -> None:
        """All frames in turn, `rate` a second (0: as fast as they are taken), `rounds` times."""
        begun, interval = time.monotonic(), 1 / self._wanted.rate if self._wanted.rate else 0.0
        number = 0
        try:
            for _ in range(self._wanted.rounds):
                for one in self._frames:
                    if interval:
                        due = begun + number * interval
                        await asyncio.sleep(max(0.0, due - time.monotonic()))
                    await self._send(one)
                    number += 1
        except ConnectionError:
            pass  # the server has closed; `_listen` tells how

    async def _send(self, one: bytes) -> None:
        waited = time.monotonic()
        self._writer.write(one)
        await self._writer.drain()
        self._tally.blocked += time.monotonic() - waited
        self._tally.sent += 1
        self._tally.bytes += len(one)

    async def _listen(self) -> None:
        try:
            while True:
                first, size = await self._reader.readexactly(2)
                if size == 126:
                    size = int.from_bytes(await self._reader.readexactly(2), "big")
                elif size == 127:
                    size = int.from_bytes(await self._reader.readexactly(8), "big")
                payload = await self._reader.readexactly(size)
                if first & 0x0F == Opcode.CLOSE:
                    self._tally.closed[str(int.from_bytes(payload[:2], "big"))] += 1
                    self._writer.close()
                    return
                if first & 0x0F in (Opcode.TEXT, Opcode.CONT) and not first & 0x40:
                    self._tally.take(payload)
        except (asyncio.IncompleteReadError, ConnectionError):
            self._tally.closed["cut"] += 1

    def cut(self) -> None:
        self._listening.cancel()
        if not self._writer.is_closing():
            self._writer.transport.abort()


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser()
    p.add_argument("--host")
    p.add_argument("--port", type=int)
    p.add_argument("--token")
    p.add_argument("--frames", type=Path)
    p.add_argument("--connections", type=int, default=1)
    p.add_argument("--rate", type=float, default=0.0)
    p.add_argument("--rounds", type=int, default=1)
    p.add_argument("--deflate", action="store_true")
    return p.parse_args()


def tell(event: str, **fields: object) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


async def main() -> None:
    wanted, tally = arguments(), Tally()
    frames = list(read(wanted.frames))
    crowd = [Attacker(wanted, frames, tally) for _ in range(wanted.connections)]
    await asyncio.gather(*(one.connect() for one in crowd))
    tell("connected")
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    running: list[asyncio.Task[None]] = []
    async for line in lines:
        match line.strip():
            case b"go":
                running = [asyncio.create_task(one.attack()) for one in crowd]
            case b"stop":
                for task in running:
                    task.cancel()
                for one in crowd:
                    one.cut()
                tell("stopped", ns=time.monotonic_ns())
            case b"report":
                tell("report", **vars(tally))
            case b"quit":
                return


if __name__ == "__main__":
    asyncio.run(main())
