"""The circuit: whatever joins, leaves and sets out while it turns, everybody gets all, in order."""

from collections import Counter
from collections.abc import Sequence

from helpers.sinks import FakeConnection
from hypothesis import given, settings
from hypothesis import strategies as st

from kalam_notify.delivery.batch import Batch
from kalam_notify.delivery.chunks import ChunkSender, Visit
from kalam_notify.delivery.circuit import Circuit
from kalam_notify.delivery.frames import FrameSet
from kalam_notify.delivery.stats import FanoutStats
from kalam_notify.filters import bind
from kalam_notify.model import Identity, Role, TableDef, TableId, UserId
from kalam_notify.sql import Limits, parse
from kalam_notify.subscriptions.handle import Sink, SubscriptionHandle
from kalam_notify.subscriptions.manager import ConnectionsManager
from kalam_notify.subscriptions.plans import Plan

ORDERS = TableDef(TableId("app.orders"), "shared", "public", ("id",))
ALICE = Identity(UserId("alice"), Role.USER)
CHUNK = 4


class Track:
    """A circuit, the plans of two queries, and everything that was ever sent around them."""

    def __init__(self) -> None:
        self.manager = ConnectionsManager()
        self.circuit = Circuit()
        self.sender = ChunkSender(FanoutStats())
        self.set_out: dict[Plan, list[Batch]] = {}
        self.live: list[SubscriptionHandle] = []
        self.number = 0
        # Where each one's stream begins: how many batches its plan had seen.
        self.begin: dict[SubscriptionHandle, int] = {}
        # Visits by place, since the last batch set out from rest.
        self.visits: Counter[tuple[Plan, int]] = Counter()
        self.fallen: list[tuple[SubscriptionHandle, int]] = []

    def join(self, column: int) -> None:
        connection = FakeConnection(ALICE)
        self.manager.connect(connection)
        query = bind(parse(f"SELECT c{column} FROM app.orders", Limits(4096, 99)), ORDERS, ALICE)
        handle = self.manager.subscribe(connection, "s", query, None).handle
        handle.loaded(self.number)
        handle.level()
        self.live.append(handle)
        self.begin[handle] = len(self.set_out.setdefault(handle.plan, []))

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
        for plan in list(self.set_out):
            if plan.live_count:
                frames = FrameSet([b'"n":%d}' % self.number], 1)
                self.circuit.set_out(batch, frames, plan)
                self.set_out[plan].append(batch)

    def serve(self) -> int:
        held: dict[Sink, None] = {}

        def send(visits: Sequence[Visit]) -> None:
            before = []
            for plan, start, end, _, after in visits:
                self.visits.update((plan, place) for place in range(start, end))
                before += [(handle, after) for handle in plan.live[start:end] if handle]
            self.sender.send(visits, held)
            self.fallen += [(handle, after) for handle, after in before if handle.place < 0]

        served = self.circuit.serve(CHUNK, 0, send)
        assert not held
        return served

    def check(self, handle: SubscriptionHandle, upto: int | None) -> None:
        """It was handed its plan's batches since it joined, up to `upto` (None: a run of them)."""
        assert isinstance(handle.sink, FakeConnection)
        got = [message["n"] for message in handle.sink.heard()]
        due = [batch.upto for batch in self.set_out[handle.plan][self.begin[handle] :]]
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
    track = Track()
    for number in range(crowd):
        track.join(number % 3 % 2)
    for step, value in steps:
        match step:
            case "join":
                track.join(value)
            case "leave":
                track.leave(value)
            case "fill":
                track.fill(value)
            case "post":
                track.post()
            case _:
                assert track.serve() <= CHUNK
    while track.circuit:
        assert 0 < track.serve() <= CHUNK
    fallen = dict(track.fallen)
    for handle in track.begin:
        if handle in fallen:
            # What it was handed ends exactly where it is to be fed from.
            track.check(handle, fallen[handle])
            assert handle.is_closed or handle.cursor == fallen[handle]
        else:
            track.check(handle, track.number if handle in track.live else None)
    assert all(batch.laps == 0 for batches in track.set_out.values() for batch in batches)
    assert track.manager.census.holes == 0
    assert not track.circuit._joined, "an idle circuit keeps frames"


def test_who_is_ahead_of_the_walk_gets_both_batches_in_one_visit() -> None:
    track = Track()
    for _ in range(4 * CHUNK):
        track.join(0)
    track.post()
    track.serve()
    track.serve()
    track.post()
    while track.circuit:
        track.serve()
    (plan,) = track.set_out
    # Half of the places were behind the walk when the second batch came: they are visited again.
    visits = [track.visits[plan, place] for place in range(4 * CHUNK)]
    assert visits == [2] * (2 * CHUNK) + [1] * (2 * CHUNK)
    for handle in track.live:
        track.check(handle, track.number)


def test_a_walk_that_never_rests_passes_everybody_at_every_round() -> None:
    track = Track()
    for _ in range(3 * CHUNK):
        track.join(0)
    for _ in range(30):
        track.post()
        track.serve()
    (plan,) = track.set_out
    assert [track.visits[plan, place] for place in range(3 * CHUNK)] == [10] * (3 * CHUNK)


def test_plans_take_turns_however_long_one_of_them_is() -> None:
    track = Track()
    for _ in range(3 * CHUNK):
        track.join(0)
    track.join(1)
    track.post()
    served = track.serve() + track.serve()
    assert served == 2 * CHUNK
    track.check(track.live[-1], track.number)
