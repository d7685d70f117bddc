"""A bounded send buffer on a real socket pair: order, bounds, and the promise to call back."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import cast

import pytest
import uvloop

from kalam_notify.sockets.sendbuffer import SendBuffer

LIMIT = 64 * 1024


class Buffered(SendBuffer, asyncio.Protocol):
    """A SendBuffer with the two calls that keep it, and a note of the second."""

    __slots__ = ("drains",)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.drains = asyncio.Event()
        self.attach(cast(asyncio.Transport, transport), LIMIT)

    def pause_writing(self) -> None:
        self.blocked()

    def resume_writing(self) -> None:
        self.drained()
        self.drains.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.shut()


LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
Test = Callable[[], Coroutine[None, None, None]]


def on_both_loops(test: Test) -> Callable[[str], None]:
    """Run an async test on asyncio's own event loop and on uvloop, whose transports differ."""

    @pytest.mark.parametrize("loop", LOOPS)
    def run(loop: str) -> None:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(test())

    run.__name__ = test.__name__
    return run


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Buffered, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    loop = asyncio.get_running_loop()
    transport, buffer = await loop.create_connection(Buffered, sock=ours)
    try:
        yield buffer, theirs
    finally:
        transport.abort()
        theirs.close()


async def read(peer: socket.socket, size: int) -> bytes:
    loop, data = asyncio.get_running_loop(), b""
    async with asyncio.timeout(20):
        while len(data) < size:
            data += await loop.sock_recv(peer, 1 << 20)
    return data


@on_both_loops
async def test_bytes_arrive_in_order_whichever_way_they_went() -> None:
    async with connected() as (buffer, peer):
        expected, number = b"", 0
        while buffer.offer(piece := b"%06d" % number * 1000):
            expected += piece
            number += 1
            if number % 3 == 0:
                buffer.defer(b"deferred")
                buffer.flush()
                expected += b"deferred"
        assert await read(peer, len(expected)) == expected
        async with asyncio.timeout(20):
            await buffer.drains.wait()
        assert buffer.has_room
        assert buffer.offer(b"after")
        assert await read(peer, 5) == b"after"


@on_both_loops
async def test_what_waits_is_bounded_and_a_single_piece_always_fits() -> None:
    async with connected() as (buffer, peer):
        assert buffer.offer(b"x" * 4 * 1024 * 1024)
        assert not buffer.has_room
        assert not buffer.offer(b"y")
        assert not buffer.hold(b"y")
        await read(peer, 4 * 1024 * 1024)
        async with asyncio.timeout(20):
            await buffer.drains.wait()


@on_both_loops
async def test_nothing_is_refused_that_would_not_be_called_back_for() -> None:
    """Held pieces count against the bound only where a drain will follow."""
    async with connected() as (buffer, peer):
        held = b""
        for number in range(6):
            piece = b"%d" % number * (LIMIT // 2)
            if not buffer.hold(piece):
                assert buffer.waiting, "refused, though nothing will ever drain"
                await read_some(peer)
                break
            held += piece
        buffer.flush()
        assert buffer.has_room or buffer.waiting


async def read_some(peer: socket.socket) -> None:
    await asyncio.get_running_loop().sock_recv(peer, 1)


@on_both_loops
async def test_a_small_socket_buffer_and_many_held_pieces_lose_nothing() -> None:
    async with connected() as (buffer, peer):
        expected, refused = b"", 0
        for number in range(200):
            piece = b"%04d" % number * 3000
            while not buffer.hold(piece):
                refused += 1
                buffer.drains.clear()
                got = await asyncio.get_running_loop().sock_recv(peer, 1 << 20)
                assert expected.startswith(got)
                expected = expected[len(got) :]
                if not buffer.waiting:
                    break
                await asyncio.sleep(0)
            else:
                expected += piece
                continue
            assert buffer.hold(piece)
            expected += piece
        buffer.flush()
        assert await read(peer, len(expected)) == expected
        assert refused


@on_both_loops
async def test_held_pieces_are_no_reason_to_wait_where_every_byte_takes_the_transport() -> None:
    """Under TLS: the feeder must not wait for a drain that only bytes in the transport bring."""
    async with connected() as (buffer, peer):
        buffer.shut()
        assert buffer.hold(b"held,")
        assert buffer.has_room
        assert buffer.offer(b"offered")
        assert await read(peer, 12) == b"held,offered"


@on_both_loops
async def test_held_pieces_go_before_what_is_offered_to_an_open_door() -> None:
    async with connected() as (buffer, peer):
        assert buffer.hold(b"held,")
        assert buffer.direct_fd >= 0
        assert buffer.offer(b"offered")
        assert await read(peer, 12) == b"held,offered"


@on_both_loops
async def test_a_peer_that_is_gone_refuses_nothing_and_raises_nothing() -> None:
    async with connected() as (buffer, peer):
        peer.close()
        for _ in range(3):
            assert buffer.offer(b"x")
            buffer.hold(b"y")
            buffer.flush()
            await asyncio.sleep(0)
