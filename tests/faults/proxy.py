"""A TCP proxy that fails as networks do: late, in pieces, and in the middle of a frame."""

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

# Bytes that a connection may carry before it is cut: the handshake and a few messages, or more.
SHORTEST, LONGEST = 200, 60_000


class Proxy:
    """Passes connections on to a server, each until its own bytes have run out."""

    def __init__(self, host: str, port: int, rng: random.Random) -> None:
        self._host, self._port, self._rng = host, port, rng
        self._tasks: set[asyncio.Task[None]] = set()
        # Whether connections are cut; without, they are only slow and in pieces.
        self.cuts = True
        self.cut_count = 0
        self.url = ""

    async def accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client; called by asyncio."""
        try:
            theirs = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.transport.abort()
            return
        budget = [self._rng.randint(SHORTEST, LONGEST)]
        ways = [
            asyncio.create_task(self._pump(reader, theirs[1], budget)),
            asyncio.create_task(self._pump(theirs[0], writer, budget)),
        ]
        self._tasks.update(ways)
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        # As a router does that has forgotten the connection, or as a process does that ends.
        self._end(writer, reset=self._rng.random() < 0.5)
        self._end(theirs[1], reset=self._rng.random() < 0.5)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: list[int]
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(self._rng.choice([1, 7, 100, 4096])):
                if self.cuts and budget[0] <= len(data):
                    writer.write(data[: budget[0]])
                    self.cut_count += 1
                    return
                budget[0] -= len(data)
                writer.write(data)
                if self._rng.random() < 0.05:
                    await asyncio.sleep(self._rng.random() * 0.02)
                await writer.drain()

    def _end(self, writer: asyncio.StreamWriter, *, reset: bool) -> None:
        connection = writer.get_extra_info("socket")
        if reset and connection is not None:
            with contextlib.suppress(OSError):
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.close()


@asynccontextmanager
async def proxy(url: str, rng: random.Random) -> AsyncIterator[Proxy]:
    """A proxy before the server at `url`; its own address is `ws://...` in `url`."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    it = Proxy(host, int(port), rng)
    listening = await asyncio.start_server(it.accepted, "127.0.0.1", 0)
    it.url = f"ws://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1/ws"
    try:
        yield it
    finally:
        listening.close()
