"""Declared types: what a column's values are compared as, and what can never be TRUE."""

from typing import Any

import pytest
from sql_helpers import query, table, user, where

from kalam_notify.errors import SqlRefused
from kalam_notify.filters import Filter, check_policy
from kalam_notify.sql import Limits, parse_policy

THINGS = table(
    id="BigInt",
    small="SmallInt",
    name="varchar(20)",
    total="numeric(12,4)",
    exact="numeric",
    ratio="Double",
    at="timestamptz",
    day="Date",
    clock="Time",
    ref="uuid",
    flag="boolean",
    data="jsonb",
    tags="text[]",
)


def on(condition: str, **options: Any) -> Filter:
    return where(condition, on=THINGS, **options)


@pytest.mark.parametrize("value", ["12.5", "12.50", 12.5, "1.25e1", " 12.5 ", "+12.5"])
def test_a_decimal_column_holds_numbers_and_texts_of_one_value(value: object) -> None:
    for condition in ("total = 12.5", "total = '12.50'", "total > 12", "total IN (1, 12.5)"):
        assert on(condition).matches({"total": value}), condition
    assert not on("total <> 12.5").matches({"total": value})
    assert on("total < 12.50000000000000000000000000000000001").matches({"total": value})


def test_decimals_are_exact_beyond_any_double() -> None:
    one, other = "1234567890123456789012345678901.1", "1234567890123456789012345678901.2"
    assert on(f"exact < {other}").matches({"exact": one})
    assert not on(f"exact = {other}").matches({"exact": one})
    assert on(f"exact + 0.1 = {other}").matches({"exact": one})
    assert on(f"exact = '{one}'").matches({"exact": one})


@pytest.mark.parametrize("value", ["none", "", "NaN", True, {}, [1], None, "1,5", "1e999999"])
def test_what_is_no_decimal_is_null_and_never_an_error(value: object) -> None:
    for condition in ("total > 0", "total < 0", "total = 0", "total <> 0", "total + 1 > 0"):
        assert not on(condition).matches({"total": value}), condition


@pytest.mark.parametrize(
    "value",
    [
        "2024-05-01T12:00:00Z",
        "2024-05-01 14:00:00.000000+02",
        "2024-05-01 12:00",
        "20240501T120000",
    ],
)
def test_times_are_instants_however_they_are_spelled(value: str) -> None:
    for condition in (
        "at = '2024-05-01 12:00'",
        "at = TIMESTAMP '2024-05-01T14:00:00+02:00'",
        "at BETWEEN '2024-05-01' AND '2024-05-02'",
        "at > day",
        "at::date = day",
    ):
        assert on(condition).matches({"at": value, "day": "2024-05-01"}), condition


def test_times_of_day_compare() -> None:
    assert on("clock < '12:30'").matches({"clock": "12:29:59.9"})
    assert not on("clock = '12:30:00'").matches({"clock": "12:30:01"})


UUID = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"


@pytest.mark.parametrize("value", [UUID, UUID.upper(), f"{{{UUID}}}", UUID.replace("-", "")])
def test_a_uuid_is_one_in_every_spelling(value: str) -> None:
    for condition in (f"ref = '{UUID}'", f"ref IN ('{UUID.upper()}')", f"ref = '{{{UUID}}}'"):
        assert on(condition).matches({"ref": value}), condition
    assert not on(f"ref = '{UUID}'").matches({"ref": "no uuid"})


NEVER = [
    ("id = '1'", "id is BigInt: compared with '1' it is never TRUE; write 1 without quotes"),
    ("'1' = id", "write 1 without quotes"),
    ("id IN (1, 'x')", "id is BigInt: compared with 'x'"),
    ("id = ANY(ARRAY['x'])", "id is BigInt"),
    ("id BETWEEN '1' AND '5'", "1 without quotes"),
    ("NOT (id = '1')", "id is BigInt"),
    ("flag OR id <> '1'", "id is BigInt"),
    ("id = TRUE", "compared with TRUE"),
    ("id = name", "name is Text: compared with id, BigInt, it is never TRUE"),
    ("name > 3", "name is Text: compared with 3 it is never TRUE; write '3' in quotes"),
    ("name = TRUE", "name is Text"),
    ("LENGTH(name) = 5 AND UPPER(name) = 5", "UPPER is text: compared with 5"),
    ("total = 'abc'", "total is Decimal(12,4): compared with 'abc' it is never TRUE"),
    ("total = TRUE", "total is Decimal(12,4)"),
    ("total = name", "never TRUE"),
    ("ratio = '1.5'", "1.5 without quotes"),
    ("at > 5", "at is Timestamp"),
    ("at > 'soon'", "write a time such as '2024-05-01T12:00:00Z'"),
    ("day = '2024-02-30'", "day is Date"),
    ("at = clock", "never TRUE"),
    ("clock > 'noon'", "12:30:00"),
    ("ref = 'abc'", "a UUID such as"),
    ("ref = 5", "ref is Uuid"),
    ("flag = 'true'", "write TRUE"),
    ("flag > 0", "flag is Boolean"),
    ("name", "name is Text: it is not a condition"),
    ("id AND flag", "id is BigInt: it is not a condition"),
    ("CASE WHEN total THEN TRUE END", "not a condition"),
    ("id LIKE '1%'", "LIKE is for text; write CAST(id AS TEXT)"),
    ("at ILIKE '2024%'", "at is Timestamp: ILIKE is for text"),
    ("name + 1 > 0", "name is Text: + is for numbers"),
    ("ABS(name) > 0", "ABS is for numbers"),
    ("LOWER(id) = 'x'", "LOWER is for text"),
    ("name -> 'k' IS NULL", "name is Text: -> is for JSON"),
    ("name @> '{}'", "name is Text: @> is for JSON"),
    ("name ? 'k'", "name is Text: ? is for JSON"),
    ("1 = ANY(name)", "name is Text is no array"),
    ("name::numeric = 'x'", "the cast is a numeric"),
    ("COALESCE(id, 0) = 'x'", "never TRUE"),
]


@pytest.mark.parametrize(("condition", "met"), NEVER)
def test_what_can_never_be_true_for_its_type_is_refused(condition: str, met: str) -> None:
    with pytest.raises(SqlRefused) as refused:
        on(condition)
    assert met in refused.value.message
    assert refused.value.line == 1
    assert refused.value.column > 31


def test_a_refusal_points_at_the_literal() -> None:
    with pytest.raises(SqlRefused) as refused:
        on("flag AND\n  id = '1'")
    assert (refused.value.line, refused.value.column) == (2, 8)


@pytest.mark.parametrize(
    "condition",
    [
        "id = 1.5",
        "id = 5.0 OR total = 5 OR ratio = 5",
        "total = '12.50'",
        "id IS DISTINCT FROM 'x'",
        "data = 'x' OR data = 5",
        "data -> 'k' = 5 OR data ->> 'k' = 'x'",
        "tags = 'x' OR 'x' = ANY(tags)",
        "name = NULL OR id = NULL",
        "day = at AND at > name",
        "name LIKE 'a%' OR name || 'x' = 'ax'",
        "CAST(id AS TEXT) LIKE '1%'",
        "id = small AND total > ratio",
        "COALESCE(name, 'x') = 'x'",
    ],
)
def test_what_can_be_true_is_accepted(condition: str) -> None:
    assert on(condition).matches({}) in (True, False)


def test_where_nothing_is_declared_unlike_types_stay_unknown() -> None:
    assert not where("id = '1'").matches({"id": 1})


def test_a_policy_is_held_against_the_types() -> None:
    for text, met in (("id = 'x'", "id is BigInt"), ("id = CURRENT_USER", "id is BigInt")):
        with pytest.raises(SqlRefused, match=met):
            check_policy(parse_policy(text, Limits()), THINGS)
    check_policy(parse_policy("id = CLAIM('id') AND ref = CURRENT_USER", Limits()), THINGS)


def test_a_claim_of_another_type_matches_nothing_and_refuses_nobody() -> None:
    policy = "id = CLAIM('id') AND total = CLAIM('total') AND ref = CURRENT_USER"
    assert on("flag", policy=policy, by=user("ann", id="seven", total="x")).matches_nothing
    fits = on("flag", policy=policy, by=user(UUID.upper(), id=7, total="1.50"))
    assert fits.matches({"flag": True, "id": 7, "total": 1.5, "ref": UUID})


def test_a_typed_column_is_found_by_its_index() -> None:
    filters = {
        "total = 12.5": {"total": "12.50"},
        "total BETWEEN 1 AND 2": {"total": "1.5"},
        "at > '2024-05-01'": {"at": "2024-05-01 00:00:01+00"},
        f"ref = '{UUID}'": {"ref": UUID.upper()},
        "clock < '12:00'": {"clock": "11:00"},
    }
    from kalam_notify.filters import FilterIndex

    index: FilterIndex[str] = FilterIndex()
    for condition in filters:
        index.add(on(condition), condition)
        assert index.explain(on(condition)).index != "scan"
    for condition, row in filters.items():
        assert index.matching(row) == [condition]
    assert index.evaluations == 0
    assert index.matching({"total": "x", "at": 5, "ref": None, "clock": {}}) == []
    for condition in filters:
        index.discard(on(condition), condition)
    assert len(index) == 0


def test_a_schema_speaks_the_types_of_kalamdb() -> None:
    schema = query("SELECT id, total, exact, name FROM app.things", on=THINGS).projection.schema
    assert [column["data_type"] for column in schema(THINGS)] == [
        "BigInt",
        {"Decimal": {"precision": 12, "scale": 4}},
        {"Decimal": {"precision": 38, "scale": 10}},
        "Text",
    ]


@pytest.mark.parametrize(
    ("condition", "row", "matches"),
    [
        ("CAST(x AS numeric) > 3", {"x": "3.5"}, True),
        ("x::numeric > 3", {"x": "nothing"}, False),
        ("x::numeric IS NULL", {"x": "nothing"}, True),
        ("x::numeric(4,1) = 1.3", {"x": "1.25"}, True),
        ("x::numeric(3,1) IS NULL", {"x": "123.4"}, True),
        ("x::integer = 3", {"x": "3"}, True),
        ("x::integer IS NULL", {"x": "3.5"}, True),
        ("x::int4 IS NULL", {"x": "3000000000"}, True),
        ("x::bigint = 3000000000", {"x": "3000000000"}, True),
        ("CAST(x AS double precision) = 0.5", {"x": ".5"}, True),
        ("x::boolean", {"x": "yes"}, True),
        ("x::boolean IS NULL", {"x": "maybe"}, True),
        ("x::text = '5'", {"x": 5}, True),
        ("x::text = 'true'", {"x": True}, True),
        ("x::date = '2024-05-01'", {"x": "2024-05-01T23:00:00-05:00"}, True),
        ("x::timestamptz = '2024-05-02T04:00:00Z'", {"x": "2024-05-01T23:00:00-05:00"}, True),
        ("(d ->> 'n')::numeric = 1.5", {"d": {"n": "1.50"}}, True),
        ("d ->> 'n' = '1.5'", {"d": {"n": 1.5}}, True),
        ("d @> '{\"a\": [1]}'", {"d": {"a": [2, 1.0], "b": 3}}, True),
        ("d @> '{\"a\": [1]}'", {"d": {"a": [True]}}, False),
        ("d ? 'a'", {"d": {"a": None}}, True),
        ("d ? 'a'", {"d": ["b", "a"]}, True),
        ("'a' = ANY(d)", {"d": ["b", "a"]}, True),
        ("1 = ANY(d)", {"d": ["1", 1.0]}, True),
        ("x = ANY(ARRAY[1, 2])", {"x": 2}, True),
        ("x <> ALL(ARRAY[1, 2])", {"x": 3}, True),
        ("x <> ALL(ARRAY[1, NULL])", {"x": 3}, False),
    ],
)
def test_casts_json_and_arrays(condition: str, row: dict[str, Any], matches: bool) -> None:
    assert where(condition).matches(row) is matches


def test_a_deep_containment_gives_up_and_does_not_stall() -> None:
    nest: Any = 1
    for _ in range(60):
        nest = [nest, [nest]] if not isinstance(nest, int) else [1]
    condition = "d @> '" + "[" * 40 + "2" + "]" * 40 + "'"
    assert not where(condition).matches({"d": nest})
    wide = [[n] for n in range(20_000)]
    assert not where("d @> '" + str([[-n] for n in range(1, 1500)]) + "'").matches({"d": wide})
