"""Chunks on real sockets: with a ring and without, everybody gets the same bytes."""

import os
import socket
from collections.abc import Sequence

import pytest
from helpers.sinks import FakeConnection
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kalam_notify.delivery.chunks import ChunkSender, Job
from kalam_notify.delivery.payload import FrameSet
from kalam_notify.delivery.ring import Refused, Ring, Run
from kalam_notify.delivery.stats import FanoutStats
from kalam_notify.filters import bind
from kalam_notify.model import Identity, Role, TableDef, TableId, UserId
from kalam_notify.protocol.messages import change_head
from kalam_notify.sql import Limits, parse
from kalam_notify.subscriptions.manager import ConnectionsManager
from kalam_notify.subscriptions.plans import NO_FD, Plan, Sink

ORDERS = TableDef(TableId("app.orders"), "shared", "public", ("id",))
ALICE = Identity(UserId("alice"), Role.USER)
FULL = b"z" * (8 << 20)


class DoorConnection(FakeConnection):
    """A connection whose frames go to a socket pair; `offer` is for when it has no direct_fd."""

    def __init__(self, state: str, *, deflates: bool) -> None:
        super().__init__(ALICE)
        self.deflates = deflates
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.theirs.setblocking(False)
        self.completed: list[tuple[bytes, int]] = []
        self.earlier = b""
        if state == "full":
            self.earlier = FULL[: os.write(self.ours.fileno(), FULL)]
        elif state == "broken":
            self.theirs.close()
        self.direct_fd = NO_FD if state == "shut" else self.ours.fileno()

    def complete(self, frames: bytes, sent: int) -> None:
        self.completed.append((frames, sent))

    def received(self) -> bytes:
        """What the socket took for it, and what it was given for later."""
        got = b""
        try:
            while piece := self.theirs.recv(1 << 20):
                got += piece
        except BlockingIOError:
            pass
        assert got.startswith(self.earlier)
        rest = b"".join(frames[sent:] for frames, sent in self.completed)
        return got[len(self.earlier) :] + rest + self.written

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


def send_to(
    connections: Sequence[DoorConnection],
    names: Sequence[str],
    frames: Sequence[FrameSet],
    ring: Ring | None,
    *,
    is_storing: bool,
) -> FanoutStats:
    """Make everybody live, spread over as many plans as there are `frames`; send in one chunk."""
    manager, stats = ConnectionsManager(), FanoutStats()
    plans: dict[Plan, FrameSet] = {}
    for number, (connection, name) in enumerate(zip(connections, names, strict=True)):
        manager.connect(connection)
        kind = number % len(frames)
        query = bind(parse(f"SELECT c{kind} FROM app.orders", Limits(4096, 100)), ORDERS, ALICE)
        handle = manager.subscribe(connection, name, query, None).handle
        handle.loaded(0)
        handle.level()
        plans[handle.plan] = frames[kind]
    held: dict[Sink, None] = {}
    sender = ChunkSender(stats, ring, waiting=[1] if is_storing else [])
    sender.send([Job(plan, 0, plan.begin_scan(), of, 0) for plan, of in plans.items()], held)
    for plan in plans:
        plan.end_scan()
    assert not held
    return stats


STATES = st.sampled_from(["open"] * 12 + ["full", "broken", "shut"])
NAMES = st.sampled_from(["same"] * 6 + ["another", "a-longer-one", "ü"])


class CountingRing(Ring):
    """Counts the sends that it was given."""

    sends = 0

    def send(
        self, fds: Sequence[int], data: bytes, runs: Sequence[Run], step: int | None = None
    ) -> Refused:
        self.sends += len(fds)
        return super().send(fds, data, runs, step)


def test_a_shut_door_keeps_nobody_else_from_the_ring() -> None:
    try:
        ring = CountingRing(32)
    except OSError as fault:
        pytest.skip(f"this kernel gives no io_uring: {fault}")
    states = ["open"] * 9 + ["shut"] + ["open"] * 9
    connections = [DoorConnection(state, deflates=False) for state in states]
    frames = FrameSet([b'"rows":[7]}'], 1)
    send_to(connections, ["same"] * 19, [frames], ring, is_storing=False)
    expected = frames.for_head(change_head("same", False))
    assert [connection.received() for connection in connections] == [expected] * 19
    assert ring.sends == 18
    for connection in connections:
        connection.close()
    ring.close()


@pytest.mark.parametrize("with_ring", [True, False])
@given(
    everybody=st.lists(st.tuples(STATES, NAMES, st.booleans()), min_size=1, max_size=40),
    compression=st.booleans(),
    one_name=st.booleans(),
    is_storing=st.booleans(),
    bodies=st.lists(st.sampled_from([5, 200, 700, 5000]), min_size=1, max_size=3),
    plans=st.integers(1, 4),
)
@settings(deadline=None, max_examples=100)
@example([("shut", "same", False)] * 9, False, True, False, [5], 1)
@example([("shut", "same", False), ("open", "same", False)] * 9, False, True, False, [5], 2)
def test_everybody_is_handed_their_own_messages_whole(
    with_ring: bool,
    everybody: list[tuple[str, str, bool]],
    compression: bool,
    one_name: bool,
    is_storing: bool,
    bodies: list[int],
    plans: int,
) -> None:
    try:
        ring = Ring(64) if with_ring else None
    except OSError as fault:
        pytest.skip(f"this kernel gives no io_uring: {fault}")
    connections = [DoorConnection(s, deflates=compression and d) for s, _, d in everybody]
    names = ["same" if one_name else name for _, name, _ in everybody]
    frames = [
        FrameSet([b'"rows":[%b]}' % (b"%d," % plan * size) for size in bodies], 2)
        for plan in range(plans)
    ]
    try:
        stats = send_to(connections, names, frames, ring, is_storing=is_storing)
        total = 0
        for number, (connection, (state, _, _)) in enumerate(
            zip(connections, everybody, strict=True)
        ):
            (handle,) = connection.subscriptions.values()
            expected = frames[number % plans].for_head(handle.head)
            total += len(expected)
            if state == "broken":
                assert connection.completed == [(expected, -1)]
            else:
                assert connection.received() == expected
                assert bool(connection.completed) == (state == "full")
        assert stats.deliveries == 2 * len(connections)
        assert stats.delivery_bytes == total
    finally:
        for connection in connections:
            connection.close()
        if ring is not None:
            ring.close()
