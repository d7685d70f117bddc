"""Handshakes that wait for their turn: what came behind them, who goes meanwhile, what fails."""

import asyncio
import contextlib
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
from kalam_notify.sockets.upgrade import MAX_HEAD_BYTES, HttpProtocol
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
        self.listener = listener
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
    proxies = ("127.0.0.1",)
    server = msgspec.structs.replace(config.server, data_dir=tmp_path, trusted_proxies=proxies)
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


@pytest.mark.parametrize("asks", [UPGRADE, STREAM])
async def test_behind_a_proxy_each_client_has_its_own_turn(door: Door, asks: bytes) -> None:
    clients = [b"192.0.2.1", b"192.0.2.1, 192.0.2.2", b"192.0.2.1"]
    for count, client in enumerate(clients, start=1):
        _, writer = await door.connect()
        writer.write(asks[:-2] + b"X-Forwarded-For: %b\r\n\r\n" % client)
        await door.until(lambda count=count: len(door.budget.owners) == count)
        writer.close()
    first, second, again = door.budget.owners
    assert first == again != second
    door.budget.do()
    await door.until(lambda: door.is_empty)


async def test_what_a_later_request_says_of_its_client_is_not_the_streams(door: Door) -> None:
    """Both in one read, on one connection of a proxy's."""
    _, writer = await door.connect()
    for client in (b"192.0.2.1", b"192.0.2.9"):
        writer.write(STREAM[:-2] + b"X-Forwarded-For: %b\r\n\r\n" % client)
    await door.until(lambda: door.budget.works)
    assert door.budget.owners == [("handshakes", "192.0.2.1")]
    writer.close()
    door.budget.do()
    await door.until(lambda: door.is_empty)


HEALTH = b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n"


@pytest.mark.parametrize("before", [1, 2, 5])
@pytest.mark.parametrize("asks", [UPGRADE + ping(b"behind"), STREAM])
async def test_requests_before_an_upgrade_are_answered_first(
    door: Door, monkeypatch: pytest.MonkeyPatch, before: int, asks: bytes
) -> None:
    """All in one read; and the time that a connection may be idle does not go on afterwards."""
    idle: list[object] = []
    monkeypatch.setattr(HttpProtocol, "timeout_keep_alive_handler", idle.append)
    reader, writer = await door.connect()
    writer.write(HEALTH * before + asks)
    await door.until(lambda: door.budget.works)
    door.budget.do()
    async with asyncio.timeout(SECONDS):
        for _ in range(before):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            (length,) = [line for line in head.lower().split(b"\r\n") if b"content-length" in line]
            await reader.readexactly(int(length.split(b":")[1]))
        head = await reader.readuntil(b"\r\n\r\n")
        if asks == STREAM:
            assert head.startswith(b"HTTP/1.1 ")
        else:
            assert head.startswith(b"HTTP/1.1 101 ")
            assert await reader.readexactly(len(pong(b"behind"))) == pong(b"behind")
            for _ in range(3):
                writer.write(ping(b"later"))
                assert await reader.readexactly(len(pong(b"later"))) == pong(b"later")
    assert not idle
    writer.close()
    await door.until(lambda: door.is_empty)


async def test_what_comes_while_answers_are_awaited_is_not_read_without_end(door: Door) -> None:
    """Reading is resumed for the requests before, whose answers nobody reads."""
    long = b"GET /v1/openapi.json HTTP/1.1\r\nHost: here\r\n\r\n"
    _, writer = await door.connect()
    writer.write(long * 400 + UPGRADE)
    for _ in range(64):
        writer.write(bytes(1 << 20))
        for _ in range(50):
            await asyncio.sleep(0)
    assert not door.budget.works
    assert writer.transport.get_write_buffer_size() > 32 << 20
    assert door.shared.half_received.total < 4 << 20
    writer.transport.abort()
    await door.until(lambda: door.is_empty)


async def test_who_does_not_read_its_answers_keeps_nobody_from_ending(door: Door) -> None:
    long = b"GET /v1/openapi.json HTTP/1.1\r\nHost: here\r\n\r\n"
    _, writer = await door.connect()
    writer.write(long * 400)
    await door.until(lambda: door.listener.state.tasks)
    await door.listener.stop(0.05)
    assert not door.listener.state.tasks
    assert not door.listener.state.connections
    writer.close()


async def test_who_goes_before_the_answers_are_written_leaves_nothing_behind(door: Door) -> None:
    for _ in range(20):
        _, writer = await door.connect()
        writer.write(HEALTH * 3 + UPGRADE + ping(b"behind"))
        writer.close()
    await door.until(lambda: door.is_empty)
    door.budget.do()
    await door.until(lambda: door.is_empty)


@pytest.mark.parametrize("first", [MAX_HEAD_BYTES - 200, MAX_HEAD_BYTES, 4 * MAX_HEAD_BYTES])
async def test_a_long_request_is_not_held_against_the_head_behind_it(
    door: Door, first: int
) -> None:
    """The body and part of the next head come in one read; the rest of it comes later."""
    body = b"x" * first
    post = b"POST /nowhere HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n" % len(body)
    reader, writer = await door.connect()
    writer.write(post + body + HEALTH[:20])
    async with asyncio.timeout(SECONDS):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 404 ")
        writer.write(HEALTH[20:])
        assert b"HTTP/1.1 200 " in await reader.readuntil(b"HTTP/1.1 200 OK\r\n")
    writer.close()
    await door.until(lambda: door.is_empty)


async def test_a_head_behind_another_request_is_bounded_all_the_same(door: Door) -> None:
    reader, writer = await door.connect()
    writer.write(HEALTH + HEALTH[:20])
    async with asyncio.timeout(SECONDS):
        await reader.readuntil(b"HTTP/1.1 200 OK\r\n")
        writer.write(b"x" * (MAX_HEAD_BYTES + 100))
        # Refused and closed; a reset may overtake the answer.
        with contextlib.suppress(ConnectionResetError):
            assert b"HTTP/1.1 431 " in await reader.read()
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
