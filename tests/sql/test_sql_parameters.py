"""$1, $2, ...: one text for all values, and the same filter as with the values written out."""

from typing import Any

import pytest
from sql_helpers import LIMITS, THINGS, query, table, user, where

from kalam_notify.errors import SqlRefused
from kalam_notify.filters import bind
from kalam_notify.model import ANONYMOUS
from kalam_notify.sql import parse

TYPED = table(id="BigInt", total="numeric", at="timestamptz", ref="uuid", flag="boolean", s="text")
UUID = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"


@pytest.mark.parametrize(
    ("condition", "params", "literal"),
    [
        ("s = $1", ["open"], "s = 'open'"),
        ("s = $1", ["it's"], "s = 'it''s'"),
        ("id = $1 AND s = $2", [7, "x"], "s = 'x' AND id = 7"),
        ("id = $2 AND s = $1", ["x", 7], "s = 'x' AND id = 7"),
        ("id = $1 OR id = $1", [7], "id = 7"),
        ("total > $1", ["12.50"], "total > 12.5"),
        ("total > $1", [12.5], "total > 12.5"),
        ("at >= $1", ["2024-05-01T02:00:00+02:00"], "at >= '2024-05-01'"),
        ("ref = $1", [UUID.upper()], f"ref = '{UUID}'"),
        ("flag = $1", [True], "flag"),
        ("s = $1", [None], "FALSE"),
        ("id = ANY($1)", [[1, 2, 1]], "id IN (2, 1)"),
        ("id <> ALL($1)", [[1, 2]], "id NOT IN (1, 2)"),
        ("id = ANY($1)", [[]], "FALSE"),
        ("id = ANY($1)", [[5]], "id = 5"),
        ("id IN ($1, $2)", [1, 2], "id IN (1, 2)"),
        ("total = ANY($1)", [["1.50", 2]], "total IN (1.5, 2)"),
        ("s LIKE $1", ["ab%"], "s LIKE 'ab%'"),
        ("s = $1 || 'b'", ["a"], "s = 'ab'"),
        ("CASE WHEN $1 THEN id ELSE 0 END = 1", [True], "id = 1"),
    ],
)
def test_a_parameter_is_as_good_as_its_literal(
    condition: str, params: list[Any], literal: str
) -> None:
    bound = where(condition, on=TYPED, params=params)
    assert bound == where(literal, on=TYPED)
    assert bound.key == where(literal, on=TYPED).key


def test_json_and_arrays_take_parameters() -> None:
    assert where("data @> $1", params=['{"a": 1}']).matches({"data": {"a": 1.0, "b": 2}})
    assert where("data @> $1", params=[{"a": [1]}]).matches({"data": {"a": [2, 1]}})
    assert where("tags @> $1", params=[["a"]]).matches({"tags": ["b", "a"]})
    assert where("$1 = ANY(tags)", params=["a"]).matches({"tags": ["b", "a"]})
    assert where("data ? $1", params=["a"]).matches({"data": {"a": None}})


REFUSED = [
    ("s = $1", [], "no params for a query that uses $1"),
    ("s = $1 AND id = $2", ["x"], "1 value for a query that uses $1 to $2"),
    ("s = $1", ["x", "y"], "2 values for a query that uses $1"),
    ("s = 'x'", ["x"], "uses no parameter"),
    ("s = $1", [["x"]], "parameter 1 is a list: write = ANY($1)"),
    ("s = $1", [{"a": 1}], "parameter 1 is an object"),
    ("s = ANY($1)", ["x"], "parameter 1 is no list"),
    ("s = ANY($1)", [None], "parameter 1 is no list"),
    ("s = ANY($1)", [[["x"]]], "scalars"),
    ("id = ANY($1)", [list(range(10_001))], "10001 values"),
    ("id = $1", ["7"], "id is BigInt: compared with '7' it is never TRUE; write 7 without quotes"),
    ("id = ANY($1)", [[1, "x"]], "id is BigInt: compared with 'x'"),
    ("total = $1", ["abc"], "total is Decimal"),
    ("at > $1", ["soon"], "at is Timestamp"),
    ("data @> $1", ["{"], "no column data"),
    ("s = $1", ["\ud800"], "surrogate"),
    ("s = $0", ["x"], "$1, $2"),
    ("s = $99999999999999999999", ["x"], "$1, $2"),
    ("$1", ["x"], "not a condition"),
]


@pytest.mark.parametrize(("condition", "params", "met"), REFUSED)
def test_parameters_that_do_not_fit_are_refused(
    condition: str, params: list[Any], met: str
) -> None:
    with pytest.raises(SqlRefused) as refused:
        where(condition, on=TYPED, params=params)
    assert met in refused.value.message


def test_ten_thousand_values_are_one_term() -> None:
    found = where("id = ANY($1)", on=TYPED, params=[list(range(10_000))])
    assert found.matches({"id": 9_999})
    assert not found.matches({"id": 10_000})


def test_one_parsed_text_serves_all_values() -> None:
    select = parse("SELECT * FROM app.things WHERE s = $1", LIMITS)
    assert parse("SELECT * FROM app.things WHERE s = $1", LIMITS) is select
    first, other = (bind(select, THINGS, ANONYMOUS, None, [value]) for value in ("a", "b"))
    assert first.filter.matches({"s": "a"})
    assert not first.filter.matches({"s": "b"})
    assert other.filter.matches({"s": "b"})


def test_parameters_stand_beside_a_policy() -> None:
    found = query(
        "SELECT * FROM app.things WHERE s = $1",
        params=["x"],
        policy="tenant = CLAIM('tenant')",
        by=user("ann", tenant="acme"),
    )
    assert found.filter == where("s = 'x' AND tenant = 'acme'")


def test_a_policy_has_no_parameters() -> None:
    with pytest.raises(SqlRefused, match="no parameters"):
        where("s = 'x'", policy="tenant = $1")


@pytest.mark.parametrize(
    "values", [["b", "a", "é"], ["b", "a", "b"], [10, 9, 9], [True, 1], [2, 2]]
)
def test_a_list_is_as_good_as_its_values_in_any_order(values: list[Any]) -> None:
    written = ", ".join(f"'{v}'" if isinstance(v, str) else str(v).upper() for v in values)
    assert where("a = ANY($1)", params=[values]) == where(f"a IN ({written})")
    assert where("a = ANY($1)", params=[values[::-1]]) == where(f"a IN ({written})")
