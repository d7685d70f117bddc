"""What a table's filters may cost: who is asked by the clock, who is demoted, who comes back."""

import random
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from kalam_notify.filters import Delta, Query, bind
from kalam_notify.model import Change, Identity, Role, Row, TableDef, TableId, UserId
from kalam_notify.sql import Limits, parse
from kalam_notify.subscriptions.plans import Counts, FilterNode, TablePlans
from kalam_notify.subscriptions.routing import RETRY_SECONDS, SHARE

ORDERS = TableDef(TableId("app.orders"), "shared", "public", ("id",))
ALICE = Identity(UserId("alice"), Role.USER)
# Ten operators, two of which go through a text: about 16 us for a row of 1 KB.
NOT_INDEXABLE = "id % 7 = {0} AND id % 11 <> 12 AND s LIKE '%{0}%x' AND s LIKE '%y{0}%'"


class Clock:
    """Each look at it shows `step` seconds more than the last."""

    def __init__(self, step: float = 0.0) -> None:
        self.step = step
        self.now = 0.0
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        self.now += self.step
        return self.now


def query(condition: str) -> Query:
    return bind(parse(f"SELECT * FROM app.orders WHERE {condition}", Limits()), ORDERS, ALICE)


def insert(**values: Any) -> Change:
    return Change(1, ORDERS.id, "", "insert", Row(orjson.dumps(values), values), None)


@pytest.fixture
def plans() -> TablePlans:
    return TablePlans("", Counts())


def add(plans: TablePlans, condition: str, payer: str = "alice") -> FilterNode:
    return plans.acquire(query(condition), payer).node


def update(old: dict[str, Any], new: dict[str, Any]) -> Change:
    row, before = (Row(orjson.dumps(values), values) for values in (new, old))
    return Change(2, ORDERS.id, "", "update", row, before, 1)


def test_a_table_with_few_filters_is_light_for_rows_of_any_usual_size(plans: TablePlans) -> None:
    add(plans, "id % 7 = 1")
    add(plans, "id = 8")
    assert plans.shares.light_bytes == float("inf")
    add(plans, "s LIKE '%x%'")
    assert 100_000 < plans.shares.light_bytes < 1_000_000


def test_filters_that_a_look_up_answers_weigh_nothing(plans: TablePlans) -> None:
    for n in range(5000):
        add(plans, f"id = {n}")
    assert plans.shares.light_bytes == float("inf")


def test_what_leaves_makes_the_others_light_again(plans: TablePlans) -> None:
    found = [plans.acquire(query(NOT_INDEXABLE.format(n)), "alice") for n in range(200)]
    assert plans.shares.light_bytes < 1024
    for plan in found:
        plans.release(plan)
    assert plans.shares.light_bytes == float("inf")
    assert len(plans) == 0


def test_a_change_that_leads_to_few_of_many_filters_is_routed_without_the_clock(
    plans: TablePlans,
) -> None:
    nodes = [add(plans, f"tenant = 't{n // 10}' AND id % 10 = {n % 10}") for n in range(5000)]
    clock = Clock(1.0)
    assert plans.shares.light_bytes < 0
    routed, too_dear = plans.shares.route(insert(id=13, tenant="t42"), clock)
    assert (list(routed), too_dear) == ([(nodes[423], Delta.INSERT)], ())
    change = update({"id": 13, "tenant": "t42"}, {"id": 14, "tenant": "t42"})
    routed, too_dear = plans.shares.route(change, clock)
    assert set(routed) == {(nodes[423], Delta.LEAVE), (nodes[424], Delta.ENTER)}
    assert clock.looks == 0


def test_a_change_that_leads_to_many_is_routed_by_the_clock_though_not_for_each(
    plans: TablePlans,
) -> None:
    nodes = [add(plans, f"id % 10000 = {n}") for n in range(2000)]
    clock = Clock()
    routed, too_dear = plans.shares.route(insert(id=77), clock)
    assert (list(routed), too_dear) == ([(nodes[77], Delta.INSERT)], ())
    assert 2 < clock.looks < len(nodes) / 10


def test_heavy_filters_do_not_make_the_light_ones_heavy(plans: TablePlans) -> None:
    for n in range(3000):
        add(plans, f"tenant = 't{n}' AND id % 10 = 1")
    heavy = add(plans, " OR ".join(f"s LIKE '%{n}x%'" for n in range(20)))
    assert heavy.is_heavy
    clock = Clock(1.0)
    plans.shares.route(insert(id=1, tenant="t5", s="1x"), clock)
    assert clock.looks == 0


def test_who_takes_the_share_is_demoted_until_the_rest_take_half_of_it(plans: TablePlans) -> None:
    mine = [add(plans, NOT_INDEXABLE.format(n), "alice") for n in range(90)]
    others = [add(plans, f"id % {n + 20} = 3", f"user{n}") for n in range(10)]
    clock = Clock(SHARE / 50)
    routed, too_dear = plans.shares.route(insert(id=3, s="x" * 2000), clock)
    assert routed == ()
    assert set(too_dear) <= set(mine)
    for node in too_dear:
        assert plans.shares.demote(node, 100.0)
        assert not plans.shares.demote(node, 100.0)
    routed, too_dear = plans.shares.route(insert(id=3, s="x" * 2000), Clock())
    assert too_dear == ()
    assert {node for node, _ in routed} == set(others)


def test_what_a_filter_is_charged_is_bounded_by_what_it_weighs(plans: TablePlans) -> None:
    """The core was taken away for a second: that is nobody's filter."""
    for n in range(3000):
        add(plans, f"id % 10000 = {n}")
    _, too_dear = plans.shares.route(insert(id=1), Clock(1.0))
    spent = sum(node.weight.seconds(200) for node in too_dear)
    assert 0 < spent < 100 * SHARE


def test_what_has_been_demoted_is_asked_again_and_later_each_time(plans: TablePlans) -> None:
    node = add(plans, "id % 7 = 3")
    shares, now = plans.shares, 1000.0
    for wait in (RETRY_SECONDS, 2 * RETRY_SECONDS, 4 * RETRY_SECONDS):
        assert shares.demote(node, now)
        assert plans.index.route(insert(id=3)) == []
        assert shares.promote(now + wait - 0.001) == []
        assert shares.promote(now + wait) == [node]
        assert list(plans.index.route(insert(id=3))) == [(node, Delta.INSERT)]
        now += wait
    assert not shares.demoted


def test_a_filter_that_no_row_could_pay_for_is_never_asked(plans: TablePlans) -> None:
    node = add(plans, " OR ".join(f"s LIKE '%{n}x_y%'" for n in range(255)))
    assert node.is_demoted
    assert plans.shares.demoted == {node: float("inf")}
    assert plans.shares.promote(1e12) == []
    assert plans.shares.light_bytes == float("inf")


def test_nobody_is_demoted_who_has_gone(plans: TablePlans) -> None:
    plan = plans.acquire(query("id % 7 = 1"), "alice")
    plans.release(plan)
    assert not plans.shares.demote(plan.node, 1.0)
    assert not plans.shares.demoted


CONDITIONS = (
    "id % 9 = {0}",
    "tenant = 't{0}' AND id % 2 = 1",
    "tenant IN ('t{0}', 't3') AND s LIKE '%{0}%'",
    "id = {0}",
    "id > {0} AND s IS NOT NULL",
    "NOT (id % 5 = {0})",
    "s LIKE 't{0}%'",
)


def rows(dice: random.Random) -> Iterator[dict[str, Any]]:
    while True:
        yield {
            "id": dice.randrange(40),
            "tenant": dice.choice(["t1", "t3", "t5", None]),
            "s": dice.choice(["t1x", "t53", "", None]) if dice.random() < 0.9 else 7,
        }


@pytest.mark.parametrize("seed", range(8))
def test_every_way_of_asking_finds_the_same(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the index alone, by the clock, and with few filters met."""
    dice = random.Random(seed)
    plans = TablePlans("", Counts())
    for _ in range(dice.choice([5, 60, 400])):
        add(plans, dice.choice(CONDITIONS).format(dice.randrange(60)))
    images = rows(dice)
    for _ in range(100):
        change = dice.choice([insert(**next(images)), update(next(images), next(images))])
        expected = set(plans.index.route(change))
        for share in (1e-9, 2e-5, 1.0):
            monkeypatch.setattr("kalam_notify.subscriptions.routing.SHARE", share)
            routed, too_dear = plans.shares.route(change, Clock())
            assert (set(routed), too_dear) == (expected, ())
