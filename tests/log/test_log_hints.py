"""Hints leave rows out in SQLite, and never one that the filter keeps."""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from log_kit import EVENTS, FOREVER, ORDERS, PLENTY, TABLES, Clock, new_log, put, seqs, values

from kalam_notify.filters import Filter
from kalam_notify.log import EventLog, Page, PageRequest, SqliteLog
from kalam_notify.model import SHARED, Change, PostedChange, Row, TableDef
from kalam_notify.model.hints import ColumnIn, ColumnPrefix, ColumnRange
from kalam_notify.sql.normal import normalize
from kalam_notify.sql.tree import Call, Column, Expression, constant
from kalam_notify.store.access import Prefilter

NUMBERS: list[int | float] = [
    *(0, 1, -1, 5, 7, -0.0, 0.1, 0.3, 1.0, 5.5, -1e-7, 5e-324, 2.2e-308, 1e-300, 1e22, 1.5e300),
    *(1.7976931348623157e308, -1.7976931348623157e308, 9007199254740993.0, 123456789.12345679),
    *(sign * 2**bits + step for sign in (1, -1) for bits in (31, 53, 62) for step in (-1, 0, 1)),
    *(2**63 - 1, 2**63, 2**63 + 1, 2**64 - 1, -(2**63), -(2**63) + 1, 2.0**63, 2.0**64, -(2.0**63)),
]
# Only in filters: no row holds them.
BEYOND = [2**64, -(2**63) - 1, 10**40, 10**400, -(10**400)]
CHARACTERS = "aZ\0\x01\x1f\n\"\\/'%_é\u07ff\ud7ff\ue000\uffff😀\U0010ffff"

texts = st.text(CHARACTERS, max_size=4)
numbers = st.one_of(
    st.sampled_from(NUMBERS),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
)
scalars = st.one_of(numbers, texts, st.booleans())
cells = st.one_of(
    numbers, texts, st.sampled_from([True, False, None, [], [1], {"a": 1}, ["a"], {}, "1", "true"])
)
COLUMNS = ("a", "b", "_b", "A9", 'odd "name', "nam.e", "é")
rows = st.dictionaries(st.sampled_from(COLUMNS), cells, max_size=4)


def compare(op: str, column: str, value: Any) -> Expression:
    return Call(op, (Column(column), constant(value)))


def member(column: str, members: list[Any]) -> Expression:
    return Call("in", (Column(column), *map(constant, members)))


columns = st.sampled_from(COLUMNS)
operands = st.one_of(scalars, st.sampled_from(BEYOND))
leaves = st.one_of(
    st.builds(compare, st.sampled_from(["=", "<", "<=", ">", ">=", "<>"]), columns, operands),
    st.builds(member, columns, st.lists(st.one_of(operands, st.none()), min_size=1, max_size=5)),
    st.builds(compare, st.just("like"), columns, texts.map(lambda text: text + "%")),
    st.builds(lambda column: Call("is null", (Column(column),)), columns),
)
predicates = st.recursive(
    leaves,
    lambda inner: st.builds(
        lambda op, args: Call(op, tuple(args)),
        st.sampled_from(["and", "or"]),
        st.lists(inner, min_size=2, max_size=3),
    ),
    max_leaves=5,
)


def stored(cells: dict[str, Any], key: int, *, escaped: bool) -> Row:
    """A row as the server writes it, or with all that JSON can escape escaped."""
    whole = {"id": key, **cells}
    if escaped:
        return Row(json.dumps(whole, separators=(",", ":")).encode())
    return Row(orjson.dumps(whole))


def filled(number: int, cells: dict[str, Any], table: TableDef) -> PostedChange:
    """A change of a row out of a few keys, so that rows are replaced."""
    row = stored(cells, number % 5, escaped=number % 3 == 0)
    key = json.dumps([number % 5]) if table.is_keyed else None
    return PostedChange(table.id, SHARED, "insert", row, None, key=key)


async def page(log: EventLog, table: TableDef, filter: Filter, **how: Any) -> Page:
    request = {"after": 0, "as_of": None, "limit": 1000, "max_bytes": PLENTY, **how}
    return await log.page(PageRequest(table=table, owner=SHARED, matches=filter.matches, **request))


def naive(changes: Sequence[Change], filter: Filter, as_of: int) -> list[tuple[int, bytes]]:
    """The rows of the changes' table as of a position."""
    current: dict[Any, tuple[int, Row]] = {}
    for change in changes:
        if change.seq <= as_of and change.row is not None:
            name = change.row.values["id"] if change.table == ORDERS.id else change.seq
            current[name] = (change.seq, change.row)
    return sorted((seq, r.json) for seq, r in current.values() if filter.matches(r.values))


def told(page: Page) -> list[tuple[int, bytes]]:
    return [(seq, row.json) for seq, row in page.rows]


async def check_filter(log: EventLog, filter: Filter) -> None:
    for table in (ORDERS, EVENTS):
        changes = (await log.read(0, limit=10_000, max_bytes=PLENTY, table=table.id)).changes
        for as_of in (None, log.last_seq, log.last_seq // 2, 1):
            expected = naive(changes, filter, log.last_seq if as_of is None else as_of)
            assert told(await page(log, table, filter, as_of=as_of)) == expected
            hinted = await page(log, table, filter, as_of=as_of, hints=filter.hints)
            assert told(hinted) == expected
            first = await page(log, table, filter, as_of=as_of, hints=filter.hints, limit=1)
            assert (told(first), first.has_more) == (expected[:1], len(expected) > 1)
        for count in (1, 2):
            plain = await log.newest(table, SHARED, filter.matches, count)
            assert plain == await log.newest(table, SHARED, filter.matches, count, filter.hints)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    written=st.lists(rows, min_size=1, max_size=14),
    asked=st.lists(predicates, min_size=1, max_size=8),
)
@example([{"a": "a\0z"}, {"a": "a"}], [compare(">=", "a", "a\0b"), compare("=", "a", "a\0z")])
@example([{"a": 2**64 - 1}, {"a": 2**63}], [compare("=", "a", 2**64 - 1), compare(">", "a", 2**63)])
@example([{"a": True}, {"a": 1}, {"a": False}], [compare("=", "a", True), compare("=", "a", False)])
def test_a_page_with_hints_is_the_page_without(
    written: list[dict[str, Any]], asked: list[Expression]
) -> None:
    async def act() -> None:
        with tempfile.TemporaryDirectory() as directory:
            log = new_log("sqlite", Path(directory), Clock(), FOREVER)
            log.declare(TABLES)
            await log.start()
            try:
                await log.append(
                    [
                        filled(number, cells, table)
                        for number, cells in enumerate(written)
                        for table in (ORDERS, EVENTS)
                    ]
                )
                for predicate in asked:
                    await check_filter(log, Filter(normalize(predicate)))
            finally:
                await log.close()

    asyncio.run(act())


@pytest.fixture
async def numbered(tmp_path: Path) -> AsyncIterator[SqliteLog]:
    """A SQLite log with 1,000 rows, `n` and `name` counting up."""
    log = SqliteLog(tmp_path / "kalam.db", durability="os")
    log.declare(TABLES)
    await log.start()
    await log.append([put(n, n=n, real=n + 0.5, name=f"n{n:04d}", ok=n == 7) for n in range(1000)])
    yield log
    await log.close()


@pytest.mark.parametrize(
    ("predicate", "expected"),
    [
        (compare("=", "n", 5), 1),
        (member("n", [3, 4, 2**70]), 2),
        (compare("=", "real", 5.5), 1),
        (compare("=", "name", "n0005"), 1),
        (compare("like", "name", "n00%"), 100),
        (Call("and", (compare(">=", "n", 10), compare("<", "n", 20))), 11),
        (Call("and", (compare(">=", "name", "n0010"), compare("<", "name", "n0020"))), 11),
        (Call("or", (compare("=", "n", 5), compare("=", "name", "n0006"))), 2),
        (compare("=", "ok", True), 1),
        (member("n", [None]), 0),
        (constant(False), 0),
    ],
)
async def test_rows_that_hints_exclude_are_not_asked_about(
    numbered: SqliteLog, predicate: Expression, expected: int
) -> None:
    filter, asked = Filter(normalize(predicate)), 0

    def matches(values: dict[str, Any]) -> bool:
        nonlocal asked
        asked += 1
        return filter.matches(values)

    for as_of in (None, numbered.last_seq):
        request = PageRequest(ORDERS, SHARED, matches, 0, as_of, 1000, PLENTY, filter.hints)
        found = await numbered.page(request)
        assert asked == expected
        assert values(found) == [r.values for _, r in (await page(numbered, ORDERS, filter)).rows]
        asked = 0
        await numbered.append([put(2000, n=-1)])


async def test_hints_find_old_images(numbered: SqliteLog) -> None:
    filter = Filter(normalize(compare("=", "n", 5)))
    as_of = numbered.last_seq
    await numbered.append([put(5, n=6), put(6, n=5)])
    assert seqs(await page(numbered, ORDERS, filter, as_of=as_of, hints=filter.hints)) == [6]
    assert seqs(await page(numbered, ORDERS, filter, hints=filter.hints)) == [as_of + 2]


@pytest.mark.parametrize("column", ["a b", "a.b", 'a"', "é", "a[0]", "$", ""])
def test_columns_whose_names_need_care_are_not_said_in_sql(column: str) -> None:
    hints = Filter(normalize(compare("=", column, 1))).hints
    assert hints == ((ColumnIn(column, (1,)),),)
    assert Prefilter(hints).on("row") == ""


def test_filters_become_hints() -> None:
    def hints(predicate: Expression) -> object:
        return Filter(normalize(predicate)).hints

    assert hints(member("a", [1, 2])) == ((ColumnIn("a", (1, 2)),),)
    assert hints(compare("=", "a", True)) == ((ColumnIn("a", (True,)),),)
    assert hints(compare("<", "a", 2)) == ((ColumnRange("a", None, 2),),)
    assert hints(compare("like", "a", "ab%c")) == ((ColumnPrefix("a", "ab"),),)
    assert hints(compare("<>", "a", 2)) == ()
    assert hints(constant(True)) == ()
    assert hints(constant(False)) == ((),)
    assert hints(compare("=", "a", "\ud800")) == ()
    assert hints(member("a", list(range(10_001)))) == ()


def test_every_operand_of_an_and_is_a_clause_the_narrowest_first() -> None:
    wide, narrow = compare(">", "a", 2), compare("=", "b", 1)
    either = Call("or", (compare("=", "c", 3), compare("=", "d", 4)))
    assert Filter(normalize(Call("and", (wide, narrow, either)))).hints == (
        (ColumnIn("b", (1,)),),
        (ColumnIn("c", (3,)), ColumnIn("d", (4,))),
        (ColumnRange("a", 2, None),),
    )


def test_long_lists_are_not_said_in_sql() -> None:
    assert Prefilter(Filter(normalize(member("a", list(range(513))))).hints).on("row") == ""
