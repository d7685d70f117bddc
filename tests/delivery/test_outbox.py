"""An outbox on a real socket pair: order, bounds, and the promise to call back."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import cast

import pytest
import uvloop

from kalam_notify.delivery.outbox import Outbox

LIMIT = 64 * 1024


class Buffered(asyncio.Protocol):
    """An outbox with the calls that keep it, and a note of each drain."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.drains = asyncio.Event()
        self.outbox = Outbox(self, cast(asyncio.Transport, transport), LIMIT)
        self.outbox.start(0.0)

    def direct_fd_moved(self) -> None:
        pass

    def pause_writing(self) -> None:
        self.outbox.blocked(0.0)

    def resume_writing(self) -> None:
        self.outbox.drained()
        self.drains.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.outbox.close()


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
        while buffer.outbox.offer(piece := b"%06d" % number * 1000):
            expected += piece
            number += 1
            if number % 3 == 0:
                buffer.outbox.defer(b"deferred")
                buffer.outbox.flush()
                expected += b"deferred"
        assert await read(peer, len(expected)) == expected
        async with asyncio.timeout(20):
            await buffer.drains.wait()
        assert buffer.outbox.has_room
        assert buffer.outbox.offer(b"after")
        assert await read(peer, 5) == b"after"


@on_both_loops
async def test_what_waits_is_bounded_and_a_single_piece_always_fits() -> None:
    async with connected() as (buffer, peer):
        assert buffer.outbox.offer(b"x" * 4 * 1024 * 1024)
        assert not buffer.outbox.has_room
        assert not buffer.outbox.offer(b"y")
        assert not buffer.outbox.hold(b"y")
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
            if not buffer.outbox.hold(piece):
                assert buffer.outbox.waiting, "refused, though nothing will ever drain"
                await read_some(peer)
                break
            held += piece
        buffer.outbox.flush()
        assert buffer.outbox.has_room or buffer.outbox.waiting


async def read_some(peer: socket.socket) -> None:
    await asyncio.get_running_loop().sock_recv(peer, 1)


@on_both_loops
async def test_a_small_socket_buffer_and_many_held_pieces_lose_nothing() -> None:
    async with connected() as (buffer, peer):
        expected, refused = b"", 0
        for number in range(200):
            piece = b"%04d" % number * 3000
            while not buffer.outbox.hold(piece):
                refused += 1
                buffer.drains.clear()
                got = await asyncio.get_running_loop().sock_recv(peer, 1 << 20)
                assert expected.startswith(got)
                expected = expected[len(got) :]
                if not buffer.outbox.waiting:
                    break
                await asyncio.sleep(0)
            else:
                expected += piece
                continue
            assert buffer.outbox.hold(piece)
            expected += piece
        buffer.outbox.flush()
        assert await read(peer, len(expected)) == expected
        assert refused


@on_both_loops
async def test_held_pieces_are_no_reason_to_wait_where_every_byte_takes_the_transport() -> None:
    """Under TLS: the feeder must not wait for a drain that only bytes in the transport bring."""
    async with connected() as (buffer, peer):
        buffer.outbox.close_direct()
        assert buffer.outbox.hold(b"held,")
        assert buffer.outbox.has_room
        assert buffer.outbox.offer(b"offered")
        assert await read(peer, 12) == b"held,offered"


@on_both_loops
async def test_held_pieces_go_before_what_is_offered() -> None:
    async with connected() as (buffer, peer):
        assert buffer.outbox.hold(b"held,")
        assert buffer.outbox.direct_fd < 0
        assert buffer.outbox.offer(b"offered")
        assert await read(peer, 12) == b"held,offered"


@on_both_loops
async def test_what_is_said_in_a_turn_is_one_piece_and_what_is_offered_meanwhile_comes_behind() -> (
    None
):
    async with connected() as (buffer, peer):
        outbox = buffer.outbox
        direct = outbox.direct_fd
        outbox.cork()
        outbox.say(b"a")
        outbox.say(b"b")
        assert outbox.held == 2
        assert outbox.direct_fd == direct
        assert outbox.offer(b"c")
        outbox.say(b"d")
        outbox.push(b"e")
        outbox.say(b"f")
        assert outbox.hold(b"g")
        outbox.uncork()
        outbox.say(b"h")
        assert (outbox.held, outbox.direct_fd) == (0, direct)
        assert await read(peer, 8) == b"abcdefgh"


@on_both_loops
async def test_what_was_held_before_a_turn_goes_first_and_keeps_the_direct_way_shut() -> None:
    async with connected() as (buffer, peer):
        outbox = buffer.outbox
        direct = outbox.direct_fd
        assert outbox.hold(b"a")
        outbox.cork()
        assert outbox.direct_fd == -1
        outbox.say(b"b")
        outbox.uncork()
        assert outbox.direct_fd == direct
        assert await read(peer, 2) == b"ab"


@on_both_loops
async def test_a_peer_that_is_gone_refuses_nothing_and_raises_nothing() -> None:
    async with connected() as (buffer, peer):
        peer.close()
        for _ in range(3):
            assert buffer.outbox.offer(b"x")
            buffer.outbox.hold(b"y")
            buffer.outbox.flush()
            await asyncio.sleep(0)


@on_both_loops
async def test_a_partial_write_whose_rest_goes_out_at_once_leaves_the_way_open() -> None:
    """No pause comes for it, so no resume would: nothing may wait for one."""
    async with connected() as (buffer, peer):
        outbox = buffer.outbox
        outbox.complete(b"12345", 3)
        assert await read(peer, 2) == b"45"
        assert outbox.direct_fd >= 0
        assert outbox.has_room
        assert outbox.stalled_for(1e9) == 0.0
