"""What is measured beside our own server, and the producer that publishes to it."""

import asyncio
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from loadtest.client import ClientPlan
from loadtest.harness.cpu import CpuMeter, resident_bytes
from loadtest.harness.producer import Producer
from loadtest.harness.rows import RowMaker


class Absent(Exception):
    """It is not installed; the text says how it would be."""


class Publisher(Protocol):
    """One connection over which messages are published."""

    async def publish(self, messages: Sequence[bytes]) -> None:
        """Until the server has taken all of them."""


class Peer(Protocol):
    """A running server."""

    name: str
    address: tuple[str, int]
    path: str
    protocol: str  # as client.c's --peer knows it
    process: asyncio.subprocess.Process
    pid: int

    def publisher(self) -> Publisher: ...


def plan(peer: Peer, connections: int) -> ClientPlan:
    """Who is connected is subscribed; there is no SQL."""
    return ClientPlan(connections, ["-"], shape="fixed", path=peer.path, peer=peer.protocol)


def meter(peer: Peer) -> CpuMeter:
    return CpuMeter(peer.pid)


def resident(peer: Peer) -> int:
    return resident_bytes(peer.pid)


class PeerProducer(Producer):
    """Publishes every row as a message of its own, as these servers' users do.

    Over one connection: only so is there an order, and the client holds everybody to it.
    """

    def __init__(self, peer: Peer) -> None:
        super().__init__("http://none", "", ["none"], RowMaker())
        self._publisher = peer.publisher()

    async def post(self, count: int, connection: int = 0) -> None:
        await self._publisher.publish([self._message() for _ in range(count)])

    def _message(self) -> bytes:
        row = self.rows.row()
        return (
            '{"type":"change","subscription_id":"live","change_type":"insert",'
            f'"rows":[{row[:-1]},"_seq":"{self.rows.made:07d}"}}]}}'
        ).encode()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
    return port


async def until_listening(port: int, process: asyncio.subprocess.Process, log: Path) -> None:
    """Until it takes connections; raises Absent with its own words when it ends instead."""
    for _ in range(500):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            if process.returncode is not None:
                raise Absent(await asyncio.to_thread(log.read_text)) from None
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return
    raise Absent("it does not listen")
