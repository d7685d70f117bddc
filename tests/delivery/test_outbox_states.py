"""An outbox by itself: every state and event, on a fake clock and a transport driven by hand."""

import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from helpers.transports import FakeTransport

from kalam_notify.delivery.outbox import Outbox, OutboxState
from kalam_notify.subscriptions.plans import NO_FD

LIMIT = 100


class Owner:
    """Keeps an outbox as a connection does, and a copy of its descriptor."""

    def __init__(
        self, *, tls: bool, pair: tuple[socket.socket, socket.socket] | None = None
    ) -> None:
        self.now = 1000.0
        self.moves: list[int] = []
        self.drains = 0
        ours, self.peer = pair or socket.socketpair()
        self.peer.setblocking(False)
        self.ours = ours
        ours.setblocking(False)
        self.transport = FakeTransport(self, None if tls else ours)
        self.outbox = Outbox(self, self.transport, LIMIT)
        self.outbox.start(self.now)

    def direct_fd_moved(self) -> None:
        self.moves.append(self.outbox.direct_fd)

    def pause_writing(self) -> None:
        self.outbox.blocked(self.now)

    def resume_writing(self) -> None:
        self.outbox.drained()
        self.drains += 1

    def arrived(self) -> bytes:
        try:
            direct = self.peer.recv(1 << 20)
        except BlockingIOError:
            direct = b""
        return direct + self.transport.sent

    def clog(self, sent: bytes = b"x") -> None:
        """From here on nothing is taken, and `sent` waits."""
        self.transport.room = 0
        self.outbox.complete(sent, 0)


@pytest.fixture(params=["plain", "tls"])
def owner(request: pytest.FixtureRequest) -> Iterator[Owner]:
    owner = Owner(tls=request.param == "tls")
    yield owner
    owner.ours.close()
    owner.peer.close()


@pytest.fixture
def plain() -> Iterator[Owner]:
    owner = Owner(tls=False)
    yield owner
    owner.ours.close()
    owner.peer.close()


def test_held_and_queued_bytes_are_told_apart(owner: Owner) -> None:
    outbox = owner.outbox
    outbox.hold(b"12345")
    assert (outbox.held, outbox.queued, outbox.waiting) == (5, 0, 5)
    owner.clog(b"678")
    assert (outbox.held, outbox.queued, outbox.waiting) == (5, 3, 8)
    outbox.flush()
    assert (outbox.held, outbox.queued, outbox.waiting) == (0, 8, 8)
    owner.transport.take()
    assert (outbox.held, outbox.queued, outbox.waiting) == (0, 0, 0)


def test_held_bytes_never_stall(owner: Owner) -> None:
    owner.outbox.hold(b"12345")
    owner.now += 1e6
    assert owner.outbox.stalled_for(owner.now) == 0.0
    assert owner.outbox.state is OutboxState.DIRECT


def test_queued_bytes_stall_from_when_they_were_queued(owner: Owner) -> None:
    owner.now += 500
    owner.clog(b"12345")
    owner.now += 7
    assert owner.outbox.stalled_for(owner.now) == 7.0


def test_any_byte_taken_begins_the_stall_anew(owner: Owner) -> None:
    owner.clog(b"12345")
    owner.now += 7
    owner.transport.take(1)
    assert owner.outbox.stalled_for(owner.now) == 0.0
    owner.now += 3
    assert owner.outbox.stalled_for(owner.now) == 3.0


def test_bytes_added_behind_stalled_ones_are_no_progress(owner: Owner) -> None:
    """Pongs, pings and answers queue up for a peer that does not read: it reads no more for it."""
    owner.clog()
    for _ in range(10):
        owner.now += 1
        owner.outbox.push(b"pong")
        owner.outbox.stalled_for(owner.now)
    assert owner.outbox.stalled_for(owner.now) == 10.0


def test_a_drain_ends_the_stall(owner: Owner) -> None:
    owner.clog()
    owner.now += 7
    owner.transport.take()
    assert owner.outbox.stalled_since is None
    owner.now += 1e6
    assert owner.outbox.stalled_for(owner.now) == 0.0


def test_what_is_offered_comes_behind_what_is_held(owner: Owner) -> None:
    owner.outbox.hold(b"held ")
    assert owner.outbox.offer(b"offered")
    assert owner.arrived() == b"held offered"


def test_an_offer_is_refused_only_while_a_drain_will_come(owner: Owner) -> None:
    assert owner.outbox.offer(b"z" * 10 * LIMIT)
    owner.clog(b"x" * LIMIT)
    assert not owner.outbox.offer(b"y")
    assert not owner.outbox.hold(b"y")
    owner.transport.take()
    assert owner.drains == 1
    assert owner.outbox.offer(b"y")


@pytest.mark.parametrize(("more", "is_taken"), [(98, True), (99, True), (100, False)])
def test_the_limit_is_met_exactly(owner: Owner, more: int, is_taken: bool) -> None:
    owner.clog(b"x")
    assert owner.outbox.offer(b"y" * more) is is_taken


def test_a_push_is_taken_whatever_waits(owner: Owner) -> None:
    owner.clog(b"x" * 2 * LIMIT)
    owner.outbox.push(b"answer")
    assert owner.outbox.is_over_limit
    owner.transport.take()
    assert owner.arrived().endswith(b"answer")
    assert not owner.outbox.is_over_limit


def test_nobody_writes_directly_while_something_is_held_or_queued(plain: Owner) -> None:
    outbox, fd = plain.outbox, plain.ours.fileno()
    assert outbox.direct_fd == fd
    outbox.hold(b"held")
    assert outbox.direct_fd == NO_FD
    outbox.flush()
    assert outbox.direct_fd == fd
    plain.clog()
    assert outbox.direct_fd == NO_FD
    outbox.hold(b"held")
    plain.transport.take()
    assert outbox.direct_fd == NO_FD
    outbox.flush()
    assert outbox.direct_fd == fd
    assert plain.moves == [NO_FD, fd, NO_FD, fd]


def test_a_partial_write_whose_rest_goes_out_at_once_changes_nothing(plain: Owner) -> None:
    plain.outbox.complete(b"12345", 3)
    assert plain.transport.sent == b"45"
    assert plain.outbox.state is OutboxState.DIRECT
    assert plain.outbox.direct_fd == plain.ours.fileno()
    assert plain.moves == []


def test_held_bytes_are_handed_over_to_be_written_only_where_they_may_be(owner: Owner) -> None:
    outbox = owner.outbox
    assert outbox.take_held() == (NO_FD, b"")
    outbox.hold(b"a")
    outbox.hold(b"b")
    fd, data = outbox.take_held()
    if owner.transport.get_extra_info("sslcontext") is None:
        assert (fd, data) == (owner.ours.fileno(), b"ab")
        os.write(fd, data)
    else:
        assert (fd, data) == (NO_FD, b"")
    assert owner.arrived() == b"ab"
    owner.clog()
    outbox.hold(b"c")
    assert outbox.take_held() == (NO_FD, b"")
    assert outbox.queued == 2


def test_a_broken_socket_is_aborted_and_never_written_to_again(plain: Owner) -> None:
    plain.outbox.complete(b"12345", -1)
    assert plain.transport.is_closed
    assert plain.outbox.direct_fd == NO_FD
    assert plain.outbox.offer(b"more")
    assert plain.arrived() == b""


def test_a_closed_outbox_takes_everything_and_writes_nothing(owner: Owner) -> None:
    owner.outbox.hold(b"held")
    owner.outbox.close()
    owner.outbox.flush()
    owner.outbox.push(b"pushed")
    assert owner.outbox.offer(b"offered")
    assert owner.outbox.state is OutboxState.CLOSED
    assert owner.outbox.direct_fd == NO_FD
    assert owner.arrived() == b""
    owner.outbox.drained()
    owner.outbox.blocked(owner.now)
    assert owner.outbox.state is OutboxState.CLOSED


def test_a_transport_that_is_closing_refuses_nobody(owner: Owner) -> None:
    """There will be no drain, so nobody may be told to wait for one."""
    owner.clog(b"x" * 2 * LIMIT)
    owner.transport.is_closed = True
    assert owner.outbox.offer(b"y")


def test_time_before_bytes_were_queued_does_not_count_though_the_transport_had_paused(
    owner: Owner,
) -> None:
    """TLS transports call for a pause while nothing waits, and may not call again."""
    owner.outbox.blocked(owner.now)
    owner.now += 1e6
    owner.transport.room = 0
    owner.transport.waiting = b""
    owner.outbox._queue(b"12345")
    owner.now += 1
    assert owner.outbox.stalled_for(owner.now) <= 1.0
    owner.now += 5
    assert 5.0 <= owner.outbox.stalled_for(owner.now) <= 6.0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="SIOCOUTQ is Linux's")
def test_a_peer_that_reads_what_the_kernel_holds_is_not_slow() -> None:
    """The transport sees nothing of it: megabytes later the kernel will ask for more."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        peer = socket.create_connection(listening.getsockname())
        ours, _ = listening.accept()
    with ours, peer:
        ours.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                ours.send(bytes(1 << 16))
        owner = Owner(tls=False, pair=(ours, peer))
        peer.settimeout(10)
        owner.transport.room = 0
        owner.outbox.push(b"12345")
        owner.now += 5
        assert owner.outbox.stalled_for(owner.now) == 5.0
        for _ in range(3):
            owner.now += 7
            _until(lambda: bool(peer.recv(1 << 18)) and owner.outbox.stalled_for(owner.now) == 0.0)
        _until(lambda: _passes(owner, 3) == 3.0)
        assert owner.outbox.queued == 5


def _passes(owner: Owner, seconds: float) -> float:
    owner.now += seconds
    return owner.outbox.stalled_for(owner.now)


def _until(condition: Callable[[], bool]) -> None:
    """The kernel acknowledges in its own time."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
