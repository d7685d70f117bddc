"""The `websockets` library's own broadcast(), as its documentation shows it."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from loadtest.harness.lines import ROOT
from loadtest.peers.peer import free_port, until_listening


class InletPublisher:
    """Length-prefixed messages over TCP; one byte comes back for each."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writer: asyncio.StreamWriter | None = None

    async def publish(self, messages: Sequence[bytes]) -> None:
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writer.write(b"".join(len(one).to_bytes(4, "big") + one for one in messages))
        await self._reader.readexactly(len(messages))


class Broadcast:
    """A running broadcast.py."""

    name, path, protocol = "websockets", "/", "plain"

    def __init__(self, port: int, inlet: int, process: asyncio.subprocess.Process) -> None:
        self._inlet = inlet
        self.address = ("127.0.0.1", port)
        self.process, self.pid = process, process.pid

    @classmethod
    async def start(cls, directory: Path) -> "Broadcast":
        port, inlet = free_port(), free_port()
        command = (sys.executable, "-m", "loadtest.peers.broadcast", str(port), str(inlet))
        with (directory / "log").open("w") as log:
            process = await asyncio.create_subprocess_exec(
                *command, stdout=log, stderr=log, cwd=ROOT
            )
        await until_listening(inlet, process, directory / "log")
        return cls(port, inlet, process)

    def publisher(self) -> InletPublisher:
        return InletPublisher(self._inlet)
