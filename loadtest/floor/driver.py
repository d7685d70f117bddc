"""Starts the bare send loop and speaks to it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from loadtest.harness import native
from loadtest.harness.cpu import CpuMeter, resident_bytes
from loadtest.harness.lines import LineProcess


@dataclass(frozen=True)
class Walk:
    """What one or more walks over all sockets cost."""

    sends: int
    cpu_ns: int
    wall_ns: int
    first_n: int
    last_n: int
    blocked: int  # sends that found a socket's buffer full


class Floor:
    """A running send loop; `address` takes the same client as the server."""

    def __init__(self, process: LineProcess, port: int) -> None:
        self.process = process
        self.address = ("127.0.0.1", port)

    @classmethod
    async def start(cls, payload: bytes, directory: Path, cores: frozenset[int]) -> Self | None:
        """None without a compiler."""
        program = native.build("floor")
        if program is None:
            return None
        path = directory / "payload"
        path.write_bytes(payload)
        process = await LineProcess.start([str(program), str(path)], cores)
        return cls(process, (await process.wait("listening", 10))["port"])

    async def send(self, messages: int, interval_us: int = 0) -> Walk:
        """Send the payload so often to every socket."""
        told = await self.process.ask(f"send {messages} {interval_us}", "sent", 600)
        return Walk(**{name: told[name] for name in Walk.__dataclass_fields__})

    def meter(self) -> CpuMeter:
        return CpuMeter(self.process.pid)

    def resident_bytes(self) -> int:
        return resident_bytes(self.process.pid)
