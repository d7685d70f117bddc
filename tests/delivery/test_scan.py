"""The scan: whatever joins, leaves and sets out while it turns, everybody gets all, in order."""

from collections import Counter
from collections.abc import Sequence

from helpers.sinks import FakeConnection
from hypothesis import given, settings
from hypothesis import strategies as st

from kalam_notify.delivery.batch import Batch
from kalam_notify.delivery.chunks import ChunkSender, Job
from kalam_notify.delivery.payload import FrameSet
from kalam_notify.delivery.service import SharedScan
from kalam_notify.delivery.stats import FanoutStats
from kalam_notify.filters import bind
from kalam_notify.model import Identity, Role, TableDef, TableId, UserId
from kalam_notify.sql import Limits, parse
from kalam_notify.subscriptions.manager import ConnectionsManager
from kalam_notify.subscriptions.plans import Plan, Sink, SubscriptionHandle

ORDERS = TableDef(TableId("app.orders"), "shared", "public", ("id",))
ALICE = Identity(UserId("alice"), Role.USER)
CHUNK = 4


class Track:
    """A scan, the plans of two queries, and everything that was ever sent around them."""

    def __init__(self) -> None:
        self.manager = ConnectionsManager()
        self.scan = SharedScan()
        self.sender = ChunkSender(FanoutStats())
        self.sent: dict[Plan, list[Batch]] = {}
        self.live: list[SubscriptionHandle] = []
        self.number = 0
        # Where each one's stream begins: how many batches its plan had seen.
        self.begin: dict[SubscriptionHandle, int] = {}
        # Visits by place, since the last batch set out from rest.
        self.jobs: Counter[tuple[Plan, int]] = Counter()
        self.fallen: list[tuple[SubscriptionHandle, int]] = []

    def join(self, column: int) -> None:
        connection = FakeConnection(ALICE)
        self.manager.connect(connection)
        query = bind(parse(f"SELECT c{column} FROM app.orders", Limits(4096, 99)), ORDERS, ALICE)
        handle = self.manager.subscribe(connection, "s", query, None).handle
        handle.loaded(self.number)
        handle.level()
        self.live.append(handle)
        self.begin[handle] = len(self.sent.setdefault(handle.plan, []))

    def leave(self, index: int) -> None:
        if self.live:
            self.manager.close(self.live.pop(index % len(self.live)))

    def fill(self, index: int) -> None:
        """One socket takes nothing any more."""
        if self.live:
            sink = self.live[index % len(self.live)].sink
            assert isinstance(sink, FakeConnection)
            sink.waiting = sink.limit

    def post(self) -> None:
        """One more batch, to every plan that has anybody live."""
        batch = Batch(self.number, self.number + 1, 1, 1)
        self.number += 1
        for plan in list(self.sent):
            if plan.live_count:
                frames = FrameSet([b'"n":%d}' % self.number], 1)
                self.scan.join(batch, frames, plan)
                self.sent[plan].append(batch)

    def serve(self) -> int:
        held: dict[Sink, None] = {}

        def send(jobs: Sequence[Job]) -> None:
            before = []
            for plan, start, end, _, after, _ in jobs:
                self.jobs.update((plan, slot) for slot in range(start, end))
                before += [(handle, after) for handle in plan.live[start:end] if handle]
            self.sender.send(jobs, held)
            self.fallen += [(handle, after) for handle, after in before if handle.slot < 0]

        served = self.scan.serve(CHUNK, 0, send)
        # A sink without a socket writes what it holds at once.
        self.sender.flush(held)
        return served

    def check(self, handle: SubscriptionHandle, upto: int | None) -> None:
        """It was handed its plan's batches since it joined, up to `upto` (None: a run of them)."""
        assert isinstance(handle.sink, FakeConnection)
        got = [message["n"] for message in handle.sink.heard()]
        due = [batch.upto for batch in self.sent[handle.plan][self.begin[handle] :]]
        if upto is not None:
            due = [number for number in due if number <= upto]
        assert got == (due if upto is not None else due[: len(got)])


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.integers(0, 1)),
        st.tuples(st.just("leave"), st.integers(0, 30)),
        st.tuples(st.just("fill"), st.integers(0, 30)),
        st.tuples(st.just("post"), st.just(0)),
        st.tuples(st.just("serve"), st.just(0)),
    ),
    max_size=60,
)


@given(crowd=st.integers(0, 14), steps=STEPS)
@settings(deadline=None, max_examples=300)
def test_everybody_gets_every_batch_once_and_in_order(
    crowd: int, steps: Sequence[tuple[str, int]]
) -> None:
    plan_scan = Track()
    for number in range(crowd):
        plan_scan.join(number % 3 % 2)
    for step, value in steps:
        match step:
            case "join":
                plan_scan.join(value)
            case "leave":
                plan_scan.leave(value)
            case "fill":
                plan_scan.fill(value)
            case "post":
                plan_scan.post()
            case _:
                assert plan_scan.serve() <= CHUNK
    while plan_scan.scan:
        assert 0 < plan_scan.serve() <= CHUNK
    fallen = dict(plan_scan.fallen)
    for handle in plan_scan.begin:
        if handle in fallen:
            # What it was handed ends exactly where it is to be fed from.
            plan_scan.check(handle, fallen[handle])
            assert handle.is_closed or handle.cursor == fallen[handle]
        else:
            plan_scan.check(handle, plan_scan.number if handle in plan_scan.live else None)
    assert all(batch.passes == 0 for batches in plan_scan.sent.values() for batch in batches)
    assert plan_scan.manager.counts.holes == 0
    assert not plan_scan.scan._joined, "an idle scan keeps frames"


def test_who_is_ahead_of_the_walk_gets_both_batches_in_one_visit() -> None:
    plan_scan = Track()
    for _ in range(4 * CHUNK):
        plan_scan.join(0)
    plan_scan.post()
    plan_scan.serve()
    plan_scan.serve()
    plan_scan.post()
    while plan_scan.scan:
        plan_scan.serve()
    (plan,) = plan_scan.sent
    # Half of the places were behind the walk when the second batch came: they are visited again.
    jobs = [plan_scan.jobs[plan, place] for place in range(4 * CHUNK)]
    assert jobs == [2] * (2 * CHUNK) + [1] * (2 * CHUNK)
    for handle in plan_scan.live:
        plan_scan.check(handle, plan_scan.number)


def test_a_walk_that_never_rests_passes_everybody_at_every_round() -> None:
    plan_scan = Track()
    for _ in range(3 * CHUNK):
        plan_scan.join(0)
    for _ in range(30):
        plan_scan.post()
        plan_scan.serve()
    (plan,) = plan_scan.sent
    assert [plan_scan.jobs[plan, place] for place in range(3 * CHUNK)] == [10] * (3 * CHUNK)


def test_plans_take_turns_however_long_one_of_them_is() -> None:
    plan_scan = Track()
    for _ in range(3 * CHUNK):
        plan_scan.join(0)
    plan_scan.join(1)
    plan_scan.post()
    served = plan_scan.serve() + plan_scan.serve()
    assert served == 2 * CHUNK
    plan_scan.check(plan_scan.live[-1], plan_scan.number)
