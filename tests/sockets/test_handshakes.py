"""Handshakes that wait for their turn: what came behind them, who goes meanwhile, what fails."""

import asyncio
import logging
import socket
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers.budgets import Later
from websockets.frames import Frame, Opcode

from kalam_notify.config import Config, parse_address
from kalam_notify.endpoints import Sockets
from kalam_notify.sockets.listeners import bind
from kalam_notify.sockets.upgrade import HttpProtocol
from kalam_notify.worker import Worker

SECONDS = 20
UPGRADE = (
    b"GET /v1/ws HTTP/1.1\r\nHost: here\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
STREAM = b"GET /v1/stream?sql=SELECT+*+FROM+app.orders HTTP/1.1\r\nHost: here\r\n\r\n"


def ping(text: bytes) -> bytes:
    return Frame(Opcode.PING, text).serialize(mask=True)


def pong(text: bytes) -> bytes:
    return Frame(Opcode.PONG, text).serialize(mask=False)


class Door:
    """A worker whose budget does what it is handed when told to."""

    def __init__(self, worker: Worker) -> None:
        (listener,) = worker._listening
        self.port: int = listener._socket.getsockname()[1]
        self.shared: Any = listener._shared
        self.budget = self.shared.budget = Later()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(SECONDS):
            while not condition():
                await asyncio.sleep(0.001)

    @property
    def is_empty(self) -> bool:
        shared = self.shared
        return not (shared.open_sockets or shared.by_address or shared.half_received.total)


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    config = Config()
    server = msgspec.structs.replace(config.server, data_dir=tmp_path)
    auth = msgspec.structs.replace(config.auth, anonymous=True)
    log = msgspec.structs.replace(config.log, url="memory:")
    config = msgspec.structs.replace(config, auth=auth, log=log, server=server)
    worker = Worker(config, lambda: config)
    ready = asyncio.Event()
    address = parse_address("127.0.0.1:0")
    assert address is not None
    serving = asyncio.create_task(worker.serve(Sockets(bind(address), None), ready.set))
    async with asyncio.timeout(SECONDS):
        await ready.wait()
    yield Door(worker)
    worker.stop()
    await serving


async def test_what_came_behind_a_handshake_that_waits_is_heard_after_it(door: Door) -> None:
    reader, writer = await door.connect()
    writer.write(UPGRADE + ping(b"behind"))
    await door.until(lambda: door.budget.works)
    assert door.shared.half_received.total == len(ping(b"behind"))
    assert not door.shared.open_sockets
    writer.write(ping(b"later"))
    door.budget.do()
    assert len(door.shared.open_sockets) == 1
    async with asyncio.timeout(SECONDS):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        for text in (b"behind", b"later"):
            assert await reader.readexactly(len(pong(text))) == pong(text)
    writer.close()
    await door.until(lambda: door.is_empty)


async def test_a_stream_waits_for_its_turn_as_well(door: Door) -> None:
    reader, writer = await door.connect()
    writer.write(STREAM)
    await door.until(lambda: door.budget.works)
    assert not door.shared.open_sockets
    door.budget.do()
    async with asyncio.timeout(SECONDS):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 ")
    writer.close()
    await door.until(lambda: door.is_empty)


async def test_who_goes_while_it_waits_leaves_nothing_behind(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    for resets in (False, True):
        _, writer = await door.connect()
        writer.write(UPGRADE + ping(b"behind"))
        await door.until(lambda: door.budget.works)
        if resets:
            own: Any = writer.get_extra_info("socket")
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()
        door.budget.do()
        await door.until(lambda: door.is_empty)
    assert caplog.text == ""


async def test_a_handshake_that_fails_is_told_and_hurts_nobody_else(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(protocol: HttpProtocol, rest: bytes) -> None:
        raise ValueError("ours")

    with monkeypatch.context() as patched:
        patched.setattr(HttpProtocol, "_upgrade", fail)
        reader, writer = await door.connect()
        writer.write(UPGRADE)
        await door.until(lambda: door.budget.works)
        door.budget.do()
        async with asyncio.timeout(SECONDS):
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readuntil(b"\r\n\r\n")
        writer.close()
    assert "a handshake failed" in caplog.text
    reader, writer = await door.connect()
    writer.write(UPGRADE)
    await door.until(lambda: door.budget.works)
    door.budget.do()
    async with asyncio.timeout(SECONDS):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    writer.close()
    await door.until(lambda: door.is_empty)
