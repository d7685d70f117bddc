"""The pulse on a clock that the test moves."""

import asyncio
from contextlib import suppress

from helpers.sinks import FakeConnection
from prometheus_client import CollectorRegistry

from kalam_notify.filters.query import bind
from kalam_notify.metrics import Pulse, SecondsHistogram
from kalam_notify.metrics.pulse import BEAT_SECONDS, SLICE_SUBSCRIPTIONS
from kalam_notify.model import ANONYMOUS, TableDef, TableId
from kalam_notify.protocol.messages import Options
from kalam_notify.sql import Limits, parse
from kalam_notify.subscriptions.manager import ConnectionsManager
from kalam_notify.subscriptions.plans import Snapshot, SubscriptionHandle

TABLE = TableDef(TableId("app.t"), "shared", "public", ("id",))


class Log:
    last_seq = 0


class Ended(BaseException):
    pass


class Bench:
    """A pulse, what it looks at, and its time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.turns = 0
        # How much later than asked a sleeper is woken.
        self.late = 0.0
        self.log, self.manager = Log(), ConnectionsManager()
        self.position = 0
        select = parse("SELECT * FROM app.t", Limits(1000, 10))
        self.query = bind(select, TABLE, ANONYMOUS, None)
        self.lag = SecondsHistogram("lag", "Lag")
        self.pulse = Pulse(
            *(self.lag, self.log, self.manager, lambda: self.position),
            clock=lambda: self.now,
            sleep=self.sleep,
        )

    async def sleep(self, seconds: float) -> None:
        self.turns += 1
        self.now += seconds + self.late

    def subscription(self) -> SubscriptionHandle:
        connection = FakeConnection()
        self.manager.connect(connection)
        return self.manager.subscribe(connection, "s", self.query, Options(10)).handle

    def write(self, last_seq: int) -> None:
        self.log.last_seq = last_seq
        asyncio.run(self.pulse.look())

    def slowest(self) -> float:
        asyncio.run(self.pulse.look())
        return self.pulse.slowest_seconds

    def lags(self) -> dict[str, float]:
        registry = CollectorRegistry()
        registry.register(self.lag)
        (family,) = registry.collect()
        return {one.labels.get("le", one.name): one.value for one in family.samples}


def test_nobody_is_behind_where_nothing_is_written() -> None:
    assert Bench().slowest() == 0.0


def test_a_fan_out_that_stands_still_is_behind_by_the_age_of_what_waits() -> None:
    bench = Bench()
    bench.write(1)
    bench.now = 4.0
    bench.write(9)
    bench.now = 6.0
    assert bench.slowest() == 6.0
    bench.position = 1
    assert bench.slowest() == 2.0
    bench.position = 9
    assert bench.slowest() == 0.0


def test_the_slowest_of_several_subscriptions_is_told() -> None:
    bench = Bench()
    behind, further, live = (bench.subscription() for _ in range(3))
    for handle, cursor in ((behind, 9), (further, 1), (live, 9)):
        handle.loaded(cursor)
    bench.write(1)
    bench.now, bench.position = 5.0, 9
    bench.write(9)
    live.level()
    bench.now = 7.0
    assert bench.slowest() == 2.0
    further.cursor = 0
    assert bench.slowest() == 7.0
    for handle in (behind, further):
        handle.cursor = 9
        handle.level()
    assert bench.slowest() == 0.0


def test_a_snapshot_is_as_far_behind_as_the_moment_that_it_shows() -> None:
    bench = Bench()
    handle = bench.subscription()
    bench.write(5)
    bench.position, bench.now = 5, 3.0
    assert bench.slowest() == 0.0  # no page has been read: there is no position yet
    handle.snapshot = Snapshot(as_of=4, after=0)
    assert bench.slowest() == 3.0


def test_many_subscriptions_are_looked_at_in_slices() -> None:
    bench = Bench()
    for _ in range(SLICE_SUBSCRIPTIONS * 2 + 1):
        bench.subscription()
    asyncio.run(bench.pulse.look())
    assert bench.turns == 2


def test_who_is_live_is_not_looked_at() -> None:
    bench = Bench()
    for _ in range(SLICE_SUBSCRIPTIONS + 1):
        handle = bench.subscription()
        handle.loaded(0)
        handle.level()
    asyncio.run(bench.pulse.look())
    assert bench.turns == 0


def test_the_lag_of_the_loop_is_what_a_sleeper_is_woken_too_late() -> None:
    bench = Bench()
    beats = 0

    async def sleep(seconds: float) -> None:
        nonlocal beats
        beats += 1
        if beats == 4:
            raise Ended
        bench.now += seconds + (0.2 if beats == 2 else 0.0)

    bench.pulse._sleep = sleep
    with suppress(Ended):
        asyncio.run(bench.pulse.run())
    lags = bench.lags()
    assert lags["lag_count"] == 3
    assert lags["0.0005"] == 2
    assert lags["0.1"] == 2
    assert lags["0.25"] == 3
    assert bench.now > 3 * BEAT_SECONDS
