"""What a load test does to the server and to the way there, again and again."""

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from loadtest.harness.cpu import process_tree
from loadtest.harness.server import Server
from loadtest.soak.crowd import Crowd

EVERY = (8.0, 20.0)  # seconds from one fault to the next
PATIENCE = 20.0  # seconds of a checkpoint from which on it is left in peace
WAKE = 30.0  # seconds in which clients may be thrown out after one


class Proxy:
    """Passes bytes on to the server, until it cuts the connections that go through it."""

    def __init__(self, base: str) -> None:
        self._to = urlsplit(base)
        self._ways: set[asyncio.StreamWriter] = set()

    async def start(self) -> Self:
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()[:2]
        self.base = f"http://{host}:{port}"
        return self

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._ways.add(writer)
        try:
            there, back = await asyncio.open_connection(self._to.hostname, self._to.port)
        except OSError:
            writer.transport.abort()
            return
        self._ways.add(back)
        await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
        self._ways -= {writer, back}

    @staticmethod
    async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    def cut(self, rng: random.Random, share: float) -> None:
        """Reset so many of the connections, in the middle of whatever they carry."""
        for writer in list(self._ways):
            if rng.random() < share:
                writer.transport.abort()

    async def stop(self) -> None:
        self._server.close()
        self.cut(random.Random(0), 1.1)


def workers(server: Server) -> list[int]:
    """The process ids of its workers; none where it is one process."""
    assert server.pid is not None
    found = []
    for pid in process_tree(server.pid):
        with contextlib.suppress(OSError):
            if b"kalam_notify.supervision.child" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


async def trouble(crowd: Crowd, server: Server, proxy: Proxy, counts: Counter[str]) -> None:
    """A fault now and then, for ever."""
    rng = crowd.rng
    while True:
        await asyncio.sleep(rng.uniform(*EVERY))
        if crowd.resting_seconds > PATIENCE:
            # Where coming back takes longer than the next fault to come, nobody ever rests.
            counts["faults put off"] += 1
            continue
        crowd.excuse(WAKE)
        running = workers(server)
        if running and rng.random() < 0.5:
            counts["workers killed"] += 1
            with contextlib.suppress(ProcessLookupError):
                os.kill(rng.choice(running), signal.SIGKILL)
        else:
            counts["cuts"] += 1
            proxy.cut(rng, rng.choice([0.2, 1.0]))
