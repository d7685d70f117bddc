"""Whatever a client sends as SQL and parameters is read or refused, and nothing else happens."""

import contextlib
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sql_helpers import LIMITS, THINGS, query, table, where
from typed_conditions import TYPES, Conditions, row

from kalam_notify.errors import SqlRefused
from kalam_notify.filters import Filter, FilterIndex
from kalam_notify.model import TableDef
from kalam_notify.sql import parse_policy

TYPED = table(**TYPES)
WORDS = [
    "SELECT",
    "FROM",
    "WHERE",
    "AND",
    "OR",
    "NOT",
    "IN",
    "BETWEEN",
    "LIKE",
    "ILIKE",
    "ESCAPE",
    "IS",
    "NULL",
    "TRUE",
    "FALSE",
    "UNKNOWN",
    "DISTINCT",
    "CASE",
    "WHEN",
    "THEN",
    "ELSE",
    "END",
    "AS",
    "CAST",
    "TIMESTAMP",
    "DATE",
    "TIME",
    "UUID",
    "NUMERIC",
    "CURRENT_USER",
    "CLAIM",
    "LOWER",
    "COALESCE",
    "SUBSTR",
    "NULLIF",
    "ABS",
    "LENGTH",
    "TRIM",
    "ANY",
    "ALL",
    "SOME",
    "ARRAY",
    "PRECISION",
    "VARYING",
    "WITH",
    "ZONE",
    "ORDER",
    "JOIN",
    "UNION",
    "NOW",
    "CURRENT_TIMESTAMP",
    "app.things",
    "o",
    "(",
    "(",
    "(",
    "(",
    ")",
    ")",
    ")",
    ")",
    "[",
    "]",
    ",",
    ",",
    ".",
    ";",
    "*",
    "=",
    "=",
    "<>",
    "<",
    "<=",
    ">",
    ">=",
    "+",
    "-",
    "/",
    "%",
    "||",
    "->",
    "->>",
    "@>",
    "?",
    "?|",
    "<@",
    "::",
    "::",
    "$",
    "$1",
    "$2",
    "$0",
    "$99",
    "1",
    "0",
    "2.5",
    "1e400",
    "1e-400",
    ".5",
    "5.",
    "99999999999999999999",
    "'x'",
    "'%y_'",
    "'1.5'",
    "'2024-05-01'",
    "'{\"a\":1}'",
    "'['",
    '"q"',
    "_z",
    "a",
    "b",
    "c",
    "big",
    "num",
    "amt",
    "dbl",
    "ts",
    "day",
    "uid",
    "s",
    "t",
    "f",
    "j",
    "tags",
    "numeric",
    "integer",
    "numeric(4,2)",
    "double",
    "text",
    "boolean",
    "date",
    "timestamptz",
    "uuid",
    "jsonb",
    "bytea",
    "/*c*/",
    "--",
    "'",
    '"',
    "/*",
    ":",
    "@",
    "#",
    "~",
    "^",
    "!",
    "\\",
]
VALUES: list[Any] = [
    None,
    True,
    1,
    1.5,
    "x",
    "1.5",
    [],
    [1],
    ["x", None],
    {"a": 1},
    "\ud800",
    2**70,
]
VALUES += [[[1]], [{}], "{", "2024-05-01", float(10**22), [True, 1, 1.0]]
ROWS: list[dict[str, Any]] = [{}, *(row(Random(seed), seed) for seed in range(12))]
ROWS += [dict.fromkeys(("a", "b", "c", "q", *TYPES), value) for value in (1, "x", [1], {}, 0.1)]


def read(sql: str, on: TableDef, params: list[Any]) -> Filter | None:
    """The filter of a text, or None where it was refused in words."""
    try:
        return query(sql, on=on, params=params).filter
    except SqlRefused:
        return None


def check(sql: str, params: list[Any]) -> None:
    for on in (THINGS, TYPED):
        found = read(sql, on, params)
        if found is None:
            continue
        index: FilterIndex[int] = FilterIndex()
        index.add(found, 1)
        for values in ROWS:
            assert index.matching(values) == [1] * found.matches(values)
        assert found.cost > 0
        assert isinstance(found.hints, tuple)
        again = where(found.sql, on=on, limits=LIMITS._replace(max_bytes=10**6))
        # A date as text is written by way of SUBSTR, which reads back as one more.
        if "$" not in sql and "AS DATE) AS TEXT" not in found.sql:
            assert again.sql == found.sql


@settings(max_examples=1500, deadline=None)
@given(
    start=st.sampled_from(["", "SELECT ", "SELECT * FROM app.things WHERE a = "]),
    words=st.lists(st.sampled_from(WORDS), max_size=14),
    params=st.lists(st.sampled_from(VALUES), max_size=2),
)
def test_any_heap_of_words_is_read_or_refused(
    start: str, words: list[str], params: list[Any]
) -> None:
    check(start + " ".join(words), params)


@settings(max_examples=400, deadline=None)
@given(random=st.randoms(use_true_random=False), cuts=st.integers(0, 3))
def test_a_damaged_condition_is_read_or_refused(random: Random, cuts: int) -> None:
    conditions = Conditions(random, with_params=random.random() < 0.5)
    words = conditions.condition(3).ours.replace("(", " ( ").replace(")", " ) ").split(" ")
    for _ in range(cuts):
        place = random.randrange(len(words) + 1)
        words[place : place + random.randrange(3)] = random.choices(WORDS, k=random.randrange(3))
    check("SELECT * FROM app.things WHERE " + " ".join(words), conditions.params)


@settings(max_examples=500, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_is_refused_or_read(text: str) -> None:
    for sql in (text, f"SELECT * FROM app.things WHERE {text}", f'SELECT "{text}" FROM app.things'):
        read(sql, THINGS, [])
    with contextlib.suppress(SqlRefused):
        parse_policy(text, LIMITS)


@pytest.mark.parametrize(
    "condition",
    [
        "b >. 0.5",
        "b > .",
        " * ".join(["9" * 900] * 6) + " > b",
        "CAST(" + " * ".join(["9" * 900] * 6) + " AS TEXT) = s",
        "num * " + "9" * 900 + " * " + "9" * 900 + " > 1",
        "'1e999999999'::numeric > num",
        "num > 1e-1001",
        "a IS NULL" + " IS NULL" * 1000,
        "a" + "::text" * 1000 + " = 'x'",
        "a = " + "- " * 100 + "1",
        "$" + "1" * 5000 + " = a",
        "a" + "." + "b" * 5000 + " = 1",
        "(" * 70 + "a",
        "CASE " * 70,
        "SUBSTR(" * 70,
        "a = ANY(" * 70,
        "a IN (" * 70,
        "CAST(" * 70,
    ],
    ids=lambda text: text[:20],
)
def test_extremes_are_read_or_refused(condition: str) -> None:
    check(f"SELECT * FROM app.things WHERE {condition}", [])


@pytest.mark.parametrize("operator", ["+", "-", "*", "||", "->", "=", "AND", "OR"])
def test_a_chain_as_long_as_the_limit_allows_needs_no_recursion(operator: str) -> None:
    chain = f" {operator} ".join(["f" if operator in ("AND", "OR") else "a"] * 500)
    condition = chain if operator in ("AND", "OR", "=") else f"({chain}) IS NOT NULL"
    found = where(condition)
    assert found == where(condition + " ")
    assert found.matches({"a": 1, "f": True}) in (True, False)
    assert found.sql


def test_a_chain_beyond_every_stack_is_read_too() -> None:
    wide = LIMITS._replace(max_bytes=10**7, max_terms=10**6)
    found = where(" + ".join(["a"] * 50_000) + " = 1", limits=wide)
    assert found.matches({"a": 1}) is False
    del found
