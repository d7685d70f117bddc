"""Claims in a table's policy keep their types: 1, 1.0, true and "1" are four claims."""

from typing import Any

import pytest

from kalam_notify.filters import Query, bind
from kalam_notify.model import Identity, Role, TableDef, UserId, parse_table_id
from kalam_notify.sql import Limits, parse, parse_policy

TABLE_ID = parse_table_id("app.docs")
assert TABLE_ID is not None
TABLE = TableDef(id=TABLE_ID, kind="shared", access="public", primary_key=("id",))
LIMITS = Limits(16_384, 512)
SELECT = parse("SELECT * FROM app.docs", LIMITS)
POLICY = parse_policy("level = CLAIM('level')", LIMITS)


def seen_by(level: Any) -> Query:
    return bind(SELECT, TABLE, Identity(UserId("a"), Role.USER, {"level": level}), POLICY)


@pytest.mark.parametrize(
    ("one", "other"), [(1, True), (True, 1.0), (0, False), ("1", 1), ("true", True), (0, None)]
)
def test_claims_of_unlike_types_share_no_plan_and_see_other_rows(one: Any, other: Any) -> None:
    for first, second in ((one, other), (other, one)):
        ours, theirs = seen_by(first).filter, seen_by(second).filter
        assert ours.key != theirs.key
        assert not ours.matches({"level": second})
        if first is not None:
            assert ours.matches({"level": first})


@pytest.mark.parametrize("level", [[1], {"a": 1}, None])
def test_a_claim_that_is_no_scalar_admits_nothing(level: Any) -> None:
    assert seen_by(level).filter.matches_nothing
