"""One timer for everybody: visited at the deadline, not before, and never twice for one."""

from hypothesis import given
from hypothesis import strategies as st

from kalam_notify.sockets.addresses import TrustedProxies
from kalam_notify.sockets.wheel import Wheel


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Item:
    def __init__(self, deadlines: list[float]) -> None:
        self.wheel_tick: int | None = None
        self.deadlines = deadlines
        self.visits: list[float] = []

    def on_deadline(self, now: float) -> float | None:
        self.visits.append(now)
        return self.deadlines.pop(0) if self.deadlines else None


@given(st.lists(st.floats(1000, 1010), max_size=20))
def test_everything_is_visited_once_and_not_before_its_deadline(deadlines: list[float]) -> None:
    clock = Clock()
    wheel = Wheel(clock, 0.25)
    items = [Item([]) for _ in deadlines]
    for item, deadline in zip(items, deadlines, strict=True):
        wheel.set(item, deadline)
    while clock.now < 1011:
        clock.now += 0.1
        wheel.turn()
    for item, deadline in zip(items, deadlines, strict=True):
        assert len(item.visits) == 1
        assert deadline <= item.visits[0] <= deadline + 0.25 + 0.1 + 1e-9


def test_a_later_deadline_takes_the_place_of_an_earlier_one_and_the_other_way_round() -> None:
    clock = Clock()
    wheel = Wheel(clock, 0.1)
    item = Item([])
    wheel.set(item, 1001)
    wheel.set(item, 1005)
    clock.now = 1002
    wheel.turn()
    assert item.visits == []
    wheel.set(item, 1003)
    clock.now = 1003.2
    wheel.turn()
    assert item.visits == [1003.2]


def test_a_visit_may_ask_for_another_or_leave() -> None:
    clock = Clock()
    wheel = Wheel(clock, 0.1)
    item, gone = Item([1002.0]), Item([])
    wheel.set(item, 1001)
    wheel.set(gone, 1001)
    wheel.discard(gone)
    for now in (1001.5, 1002.5, 1003.5):
        clock.now = now
        wheel.turn()
    assert item.visits == [1001.5, 1002.5]
    assert gone.visits == []


def test_forwarded_addresses_are_believed_of_trusted_proxies_only() -> None:
    proxies = TrustedProxies(["10.0.0.0/8", "::1"])
    assert proxies.client("192.0.2.1", ["6.6.6.6"]) == "192.0.2.1"
    assert proxies.client("10.1.1.1", ["6.6.6.6, 192.0.2.7", "10.2.2.2"]) == "192.0.2.7"
    assert proxies.client("10.1.1.1", []) == "10.1.1.1"
    assert proxies.client("::1", ["10.3.3.3"]) == "10.3.3.3"
