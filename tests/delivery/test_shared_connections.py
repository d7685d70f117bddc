"""Several subscriptions on one socket: every frame whole, every subscription's in order.

Real sockets with small buffers, so that any send may be taken in part; the same connection stands
in several plans of one table and of others, and in one chunk more than once.
"""

import contextlib
import json
import os
import random
import socket
from collections import defaultdict
from collections.abc import Sequence
from typing import cast

import pytest
from helpers.sinks import FakeConnection
from helpers.transports import SocketTransport

from kalam_notify.delivery import chunks
from kalam_notify.delivery.batch import Batch
from kalam_notify.delivery.chunks import ChunkSender
from kalam_notify.delivery.outbox import Outbox
from kalam_notify.delivery.payload import FrameSet
from kalam_notify.delivery.ring import Alike, Refused, Ring, Run
from kalam_notify.delivery.service import SharedScan
from kalam_notify.delivery.stats import FanoutStats
from kalam_notify.filters import bind
from kalam_notify.model import Identity, Role, TableDef, TableId, UserId
from kalam_notify.protocol.close import Close
from kalam_notify.sql import Limits, parse
from kalam_notify.subscriptions.manager import ConnectionsManager
from kalam_notify.subscriptions.plans import Plan, Sink, SubscriptionHandle, set_direct_fd

ALICE = Identity(UserId("alice"), Role.USER)
TABLES = [TableDef(TableId(f"app.t{n}"), "shared", "public", ("id",)) for n in range(3)]
CHUNK = 32


class Kernel:
    """Takes of every send what it likes, now and then, as one does whose peers read meanwhile."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice

    def write(self, fd: int, data: bytes) -> int:
        if self.dice.random() < 0.15:
            data = data[: self.dice.randrange(len(data))]
            if not data:
                raise BlockingIOError
        return os.write(fd, data)

    def send(
        self, fds: Sequence[int], data: bytes, runs: Sequence[Run], step: int | None = None
    ) -> Refused:
        """As Ring.send."""
        sizes: list[tuple[int, int]] = []
        at = 0
        for run in runs:
            alike = isinstance(run, Alike)
            for size in [run.size] * run.times if isinstance(run, Alike) else run:
                sizes.append((at, size))
                at += 0 if alike else size
            at += run.size if isinstance(run, Alike) else 0
        refused: Refused = []
        for index, (fd, (start, size)) in enumerate(zip(fds, sizes, strict=True)):
            try:
                sent = self.write(fd, data[start : start + size])
            except BlockingIOError:
                sent = 0
            if sent != size:
                refused.append((index, sent))
        return refused


class SocketConnection(FakeConnection):
    """A connection whose outbox is the real one, over a socket pair driven by hand."""

    def __init__(self, limit: int) -> None:
        super().__init__(ALICE)
        del self.direct_fd
        self.ours, self.theirs = socket.socketpair()
        for one in (self.ours, self.theirs):
            one.setblocking(False)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.transport = SocketTransport(self, self.ours)
        self.outbox = Outbox(self, self.transport, limit)
        self.outbox.start(0.0)
        self.offer, self.hold = self.outbox.offer, self.outbox.hold
        self.flush, self.take_held = self.outbox.flush, self.outbox.take_held
        self.send_frames = self.outbox.push

    def complete(self, frames: bytes, sent: int) -> None:
        # What a socket has not taken it does not take at once.
        self.transport.is_clogged = True
        self.outbox.complete(frames, sent)

    @property
    def direct_fd(self) -> int:
        return self.outbox.direct_fd

    @direct_fd.deleter
    def direct_fd(self) -> None:
        pass

    @direct_fd.setter
    def direct_fd(self, fd: int) -> None:
        pass

    @property
    def has_room(self) -> bool:
        return self.outbox.has_room

    def direct_fd_moved(self) -> None:
        set_direct_fd(self.subscriptions.values(), self.outbox.direct_fd)

    def pause_writing(self) -> None:
        self.outbox.blocked(0.0)

    def resume_writing(self) -> None:
        self.outbox.drained()

    def read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self.written += self.theirs.recv(1 << 16)

    def read_all(self) -> None:
        """Until nothing is under way any more."""
        before = None
        while before != (len(self.written), self.outbox.queued) or self.outbox.queued:
            before = (len(self.written), self.outbox.queued)
            self.read()
            self.transport.pump()

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


class Stage:
    """Connections with several subscriptions each, and what each subscription should be told."""

    def __init__(self, dice: random.Random, ring: Ring | Kernel | None) -> None:
        self.dice = dice
        self.manager = ConnectionsManager()
        self.scan = SharedScan()
        self.sender = ChunkSender(FanoutStats(), cast(Ring, ring), write=Kernel(dice).write)
        self.held: dict[Sink, None] = {}
        self.connections = [
            SocketConnection(dice.choice([300, 5_000, 1 << 18])) for _ in range(dice.randint(4, 24))
        ]
        # What each subscription is due, None where it has fallen behind.
        self.due: dict[SubscriptionHandle, list[int]] = defaultdict(list)
        self.cut: dict[SubscriptionHandle, int] = {}
        self.under_way: list[Batch] = []
        self.position = 0
        for connection in self.connections:
            self.manager.connect(connection)
            for number in range(dice.randint(1, 5)):
                self.subscribe(connection, f"s{number}")

    def subscribe(self, connection: SocketConnection, name: str) -> None:
        table, column = self.dice.choice(TABLES), self.dice.randrange(2)
        query = bind(parse(f"SELECT c{column} FROM {table.id}", Limits(4096, 100)), table, ALICE)
        connection.flush()
        handle = self.manager.subscribe(connection, name, query, None).handle
        handle.loaded(self.position)
        handle.level()
        self.due[handle] = []

    def unsubscribe(self) -> None:
        connection = self.dice.choice(self.connections)
        if connection.subscriptions:
            connection.flush()
            name = self.dice.choice(list(connection.subscriptions))
            self.cut.setdefault(connection.subscriptions[name], self.position)
            self.manager.unsubscribe(connection, name)

    def post(self) -> None:
        """A batch that some of the plans see, siblings among them."""
        plans = [plan for of in self.manager.all_plans() for plan in of if plan.live_count]
        seeing = [plan for plan in plans if self.dice.random() < 0.7]
        if not seeing:
            return
        before, self.position = self.position, self.position + 1
        batch = Batch(before, self.position, 1, 1)
        batch.holding = frozenset(
            plan for plan in seeing if plan.siblings and self.dice.random() < 0.6
        )
        pad = "z" * self.dice.choice([1, 60, 3_000, 5_000])
        frames = FrameSet([b'"n":%d,"pad":"%s"}' % (self.position, pad.encode())], 1)
        for plan in sorted(seeing, key=lambda plan: plan not in batch.holding):
            self.scan.join(batch, frames, plan)
            for handle in plan.live:
                if handle is not None:
                    self.due[handle].append(self.position)
        self.under_way.append(batch)

    def serve(self) -> None:
        live = {h: h.plan for h in self.due if h.slot >= 0}
        self.scan.serve(CHUNK, 0, lambda jobs: self.sender.send(jobs, self.held))
        for handle in live:
            if handle.slot < 0 and not handle.is_closed:
                self.cut.setdefault(handle, handle.cursor)

    def settle(self) -> None:
        """Everything that is under way comes around, and what is held is written."""
        while self.scan:
            self.serve()
        held, self.held = self.held, {}
        self.sender.flush(held)

    def check(self) -> None:
        for connection in self.connections:
            connection.read_all()
            told: dict[str, list[int]] = defaultdict(list)
            for message in connection.heard():
                told[message["subscription_id"]].append(message["n"])
            handles: dict[str, list[int]] = defaultdict(list)
            for handle, due in self.due.items():
                if handle.sink is connection:
                    upto = self.cut.get(handle)
                    handles[handle.id] += [n for n in due if upto is None or n <= upto]
            assert {k: v for k, v in told.items() if v} == {k: v for k, v in handles.items() if v}


@pytest.mark.parametrize("way", ["ring", "in turn", "any part"])
@pytest.mark.parametrize("seed", range(60))
def test_every_subscription_gets_its_own_in_order(
    seed: int, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice = random.Random(seed)
    # From how many sends on a bundle is worth laying out: one by one below it.
    monkeypatch.setattr(chunks, "_RING_PAYS", dice.choice([1, 8, 1000]))
    ring: Ring | Kernel | None = Kernel(dice) if way == "any part" else None
    try:
        if way == "ring":
            ring = Ring(CHUNK)
    except OSError as fault:
        pytest.skip(f"this kernel gives no io_uring: {fault}")
    stage = Stage(dice, ring)
    try:
        for _ in range(120):
            step = stage.dice.random()
            if step < 0.35:
                stage.post()
            elif step < 0.7:
                stage.serve()
            elif step < 0.8:
                connection = stage.dice.choice(stage.connections)
                connection.read()
                connection.transport.pump()
            elif step < 0.85 and not stage.scan:
                stage.settle()
                stage.unsubscribe()
            elif step < 0.95 and not stage.scan:
                stage.settle()
        stage.settle()
        stage.check()
    finally:
        for connection in stage.connections:
            connection.close()
        if isinstance(ring, Ring):
            ring.close()


def test_plans_of_one_connection_that_see_the_same_change_are_written_at_once() -> None:
    writes: list[tuple[int, bytes]] = []

    class CountingSocket(SocketConnection):
        def take_held(self) -> tuple[int, bytes]:
            fd, data = self.outbox.take_held()
            writes.append((fd, data))
            return fd, data

    manager, scan = ConnectionsManager(), SharedScan()
    connection = CountingSocket(1 << 18)
    connection.take_held = CountingSocket.take_held.__get__(connection)
    manager.connect(connection)
    plans: list[Plan] = []
    for column in range(3):
        query = bind(parse(f"SELECT c{column} FROM app.t0", Limits(4096, 100)), TABLES[0], ALICE)
        handle = manager.subscribe(connection, f"s{column}", query, None).handle
        handle.loaded(0)
        handle.level()
        plans.append(handle.plan)
    batch = Batch(0, 1, 1, 1)
    batch.holding = frozenset(plans[:2])
    frames = FrameSet([b'"n":1}'], 1)
    for plan in plans:
        scan.join(batch, frames, plan)
    ring = None
    try:
        ring = Ring(CHUNK)
    except OSError as fault:
        pytest.skip(f"this kernel gives no io_uring: {fault}")
    sender, held = ChunkSender(FanoutStats(), ring), dict[Sink, None]()
    while scan:
        scan.serve(CHUNK, 0, lambda jobs: sender.send(jobs, held))
    connection.read()
    assert connection.written == b""
    sender.flush(held)
    connection.read()
    assert [m["subscription_id"] for m in connection.heard()] == ["s0", "s1", "s2"]
    assert len(writes) == 1
    connection.close()
    ring.close()


def test_a_connection_whose_sending_raises_takes_nobody_with_it() -> None:
    class Broken(FakeConnection):
        def offer(self, frames: bytes) -> bool:
            raise RuntimeError("a fault of this connection alone")

    manager, scan = ConnectionsManager(), SharedScan()
    connections = [FakeConnection(ALICE), Broken(ALICE), FakeConnection(ALICE)]
    for connection in connections:
        manager.connect(connection)
        query = bind(parse("SELECT * FROM app.t0", Limits(4096, 100)), TABLES[0], ALICE)
        handle = manager.subscribe(connection, "s", query, None).handle
        handle.loaded(0)
        handle.level()
    batch = Batch(0, 1, 1, 1)
    scan.join(batch, FrameSet([b'"n":1}'], 1), handle.plan)
    sender = ChunkSender(FanoutStats())
    scan.serve(CHUNK, 0, lambda jobs: sender.send(jobs, {}))
    assert [json.dumps(c.ended_with and c.ended_with.code) for c in connections] == [
        "null",
        "1011",
        "null",
    ]
    assert [len(c.heard()) for c in connections] == [1, 0, 1]
    assert isinstance(connections[1].ended_with, Close)
