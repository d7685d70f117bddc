"""Answers remembered for rows that are alike must be those that asking gives."""

import random
from typing import Any

import orjson
import pytest

from kalam_notify.budget import at_once
from kalam_notify.catchup.cohorts import Asking, Cohort
from kalam_notify.filters import bind
from kalam_notify.model import ANONYMOUS, Change, Row, TableDef, TableId
from kalam_notify.sql import Limits, parse
from kalam_notify.subscriptions.plans import Counts, TablePlans

TABLE = TableDef(TableId("app.t"), "shared", "public")
CONDITIONS = [
    "a % 3 = 1",
    "a + 0 = 1",
    "a IS TRUE",
    "a = b",
    "NOT (a = b)",
    "a IS NULL OR b % 2 = 0",
    "LENGTH(b) > 1",
    "a || b = '11'",
    "a LIKE '%1%'",
    "a <> 1",
    "COALESCE(a, b) = 1",
    "b LIKE '%x%' OR a % 2 = 0",
]
VALUES: list[Any] = [
    None,
    0,
    1,
    2,
    3,
    1.0,
    0.0,
    -0.0,
    1.5,
    True,
    False,
    "1",
    "",
    "x",
    "1.0",
    [1],
    {"k": 1},
    "x" * 200,
]


class Member:
    """As much of a subscription as a cohort looks at."""

    def __init__(self, plan: Any) -> None:
        self.plan = plan
        self.undertaking: object = None
        self.cursor = 0


@pytest.mark.parametrize("demoted", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_cohorts_see_what_the_fan_out_sees(seed: int, demoted: bool) -> None:
    rng = random.Random(seed)
    plans, cohort = TablePlans("", Counts()), Cohort(0)
    for condition in CONDITIONS:
        for more in ("", " AND 1 = 1 + a - a", " OR a = b AND b = a + 0"):
            select = parse(f"SELECT * FROM app.t WHERE {condition}{more}", Limits(1 << 16, 512))
            plan = plans.acquire(bind(select, TABLE, ANONYMOUS))
            cohort.add(Member(plan))  # type: ignore[arg-type]
    if demoted:
        for node in cohort.nodes:
            node.is_demoted = True
    asking = Asking(lambda node, error: pytest.fail(repr(error)))
    for seq in range(1, 200):
        old, new = (
            Row(orjson.dumps({name: rng.choice(VALUES) for name in "ab" if rng.random() < 0.9}))
            for _ in range(2)
        )
        kind = rng.choice(["insert", "update", "delete"])
        change = Change(
            seq,
            TABLE.id,
            "",
            kind,  # type: ignore[arg-type]
            None if kind == "delete" else new,
            None if kind == "insert" else old,
        )
        expected = {(id(node), seen) for node, seen in plans.index.route(change)}
        asked = {(id(node), seen) for node, seen in at_once(asking.route(cohort, change))}
        assert asked == expected, change
