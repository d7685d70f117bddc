"""Keys and indexes lead to the rows that a scan finds, whatever is built or merged meanwhile."""

import json
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from log_kit import NOTES, ORDERS, PLENTY, Clock, gone, new_log, page_of, put, seqs

from kalam_notify.log import PageRequest, SqliteLog
from kalam_notify.model import SHARED, PostedChange, Row, TableDef, TableId
from kalam_notify.model.changes import key_of
from kalam_notify.model.hints import ColumnIn, ColumnPrefix, ColumnRange, Hint, Hints
from kalam_notify.store import pages, schema
from kalam_notify.store.access import indexes_of, lookups
from kalam_notify.store.indexing import IndexWork, follow_all, follow_step
from kalam_notify.store.rows import Indexes, Numbers
from kalam_notify.store.storing import Posting, store

PAIRS = TableDef(TableId("app.pairs"), "user", primary_key=("a", "b"))
BY_A, BY_B_C = ("a",), ("b", "c")
SPARED = (BY_A, BY_B_C)


def keep(candidates: Any, matches: Callable[[dict[str, Any]], bool]) -> Any:
    return [found for found in candidates if matches(found[1].values)]


class File:
    """The file of a log, written and read without threads."""

    def __init__(self, directory: Path) -> None:
        path = directory / "kalam.db"
        schema.prepare(path)
        self.connection = schema.open_writer(path, "os")
        self.tables: dict[TableId, TableDef] = {}
        self.numbers = Numbers(self.tables)
        self.indexes = Indexes()
        self.work = IndexWork(self.tables, self.numbers)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        self.connection.execute("BEGIN IMMEDIATE")
        yield self.connection
        self.connection.execute("COMMIT")
        self.numbers.committed()

    def declare(self, table: TableDef) -> None:
        self.tables[table.id] = table
        self.work.begin()

    def append(self, *batch: PostedChange) -> None:
        with self.transaction() as connection:
            store(connection, self.numbers, self.indexes, [Posting(batch, None)], 0.0)

    def build(self, steps: int) -> None:
        for _ in range(steps):
            with self.transaction() as connection:
                self.work.step(connection)

    def build_all(self) -> None:
        while True:
            with self.transaction() as connection:
                if not self.work.step(connection):
                    return

    def follow(self, *, whole: bool) -> None:
        with self.transaction() as connection:
            (follow_all if whole else follow_step)(connection)

    @property
    def last_seq(self) -> int:
        (seq,) = self.connection.execute("SELECT last_seq FROM state").fetchone()
        return int(seq)

    def page(
        self, table: TableDef, owner: str, hints: Hints, matches: Any, as_of: int | None, limit: int
    ) -> list[tuple[int, bytes]]:
        """All pages, one after the other, as of the first."""
        found: list[tuple[int, bytes]] = []
        after, more = 0, True
        while more:
            request = PageRequest(table, owner, matches, after, as_of, limit, PLENTY, hints)
            page = pages.page(self.connection, request, keep)
            found += [(seq, row.json) for seq, row in page.rows]
            as_of, more = page.as_of, page.has_more
            after = page.rows[-1][0] if page.rows else after
        return found


NUMBERS = [0, 1, 2, 1.0, -1, 0.5, 2**53, 2**53 + 1, 2**64 - 1, -(2**63), -0.0, 1e300]
TEXTS = ["", "1", "a", "ab", "a\0b", "a\0", "é", "x" * 70 + "1", "x" * 70 + "2"]
cells = st.sampled_from([None, True, False, [1], {}, *NUMBERS, *TEXTS])
keys = st.sampled_from([1, 2, "1", "a", True])
owners = st.sampled_from(["al", "bo"])
numbers = st.sampled_from([*NUMBERS, 10**400])
texts = st.sampled_from(TEXTS)
values = st.one_of(numbers, texts, st.booleans())
rows = st.fixed_dictionaries({"a": keys, "b": keys, "c": cells, "d": cells})


def comparable(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return isinstance(one, bool) and isinstance(other, bool)
    numbers = isinstance(one, int | float) and isinstance(other, int | float)
    return numbers or (isinstance(one, str) and isinstance(other, str))


def holds(hint: Hint, row: dict[str, Any]) -> bool:
    value = row.get(hint.column)
    match hint:
        case ColumnIn(_, members):
            return any(comparable(value, member) and value == member for member in members)
        case ColumnRange(_, low, high):
            return all(
                end is None or (comparable(value, end) and sign * value >= sign * end)
                if not isinstance(end, str)
                else isinstance(value, str) and (value >= end if sign > 0 else value <= end)
                for sign, end in ((1, low), (-1, high))
            )
        case ColumnPrefix(_, prefix):
            return isinstance(value, str) and value.startswith(prefix)


columns = st.sampled_from("abcd")
hints = st.one_of(
    st.builds(lambda c, v: ColumnIn(c, tuple(v)), columns, st.lists(values, max_size=3)),
    st.builds(ColumnRange, columns, numbers, st.one_of(st.none(), numbers)),
    st.builds(ColumnRange, columns, st.none(), texts),
    st.builds(ColumnRange, columns, texts, texts),
    st.builds(ColumnPrefix, columns, texts),
)
asked = st.lists(st.lists(hints, min_size=1, max_size=2).map(tuple), max_size=3).map(tuple)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), owners, rows),
        st.tuples(st.just("put"), owners, rows),
        st.tuples(st.just("put"), owners, rows),
        st.tuples(st.just("delete"), owners, rows),
        st.tuples(st.just("index"), st.sampled_from([(), SPARED, (BY_B_C,), (("c", "d"), ("d",))])),
        st.tuples(st.just("build"), st.integers(1, 3)),
        st.tuples(st.just("follow"), st.booleans()),
    ),
    min_size=3,
    max_size=25,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(written=steps, wanted=st.lists(asked, min_size=1, max_size=6), data=st.data())
def test_every_access_path_leads_to_the_rows_of_a_scan(
    written: list[Any], wanted: list[Hints], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        file = File(Path(directory))
        file.declare(msgspec.structs.replace(PAIRS, indexes=SPARED))
        for step in written:
            match step:
                case "put", owner, row:
                    text = Row(json.dumps(row, separators=(",", ":")).encode())
                    key = key_of(PAIRS.primary_key, row)
                    file.append(PostedChange(PAIRS.id, owner, "insert", text, None, key))
                case "delete", owner, row:
                    key = key_of(PAIRS.primary_key, row)
                    text = Row(json.dumps(row).encode())
                    file.append(PostedChange(PAIRS.id, owner, "delete", None, text, key))
                case "index", indexes:
                    file.declare(msgspec.structs.replace(PAIRS, indexes=indexes))
                case "build", count:
                    file.build(count)
                case "follow", whole:
                    file.follow(whole=whole)
        if data.draw(st.booleans(), "all built"):
            file.build_all()
        for clauses in wanted:

            def matches(row: dict[str, Any], clauses: Hints = clauses) -> bool:
                return all(any(holds(hint, row) for hint in clause) for clause in clauses)

            as_of = data.draw(st.sampled_from([None, file.last_seq, file.last_seq // 2]))
            for owner in ("al", "bo"):
                scanned = file.page(PAIRS, owner, (), matches, as_of, 1000)
                assert file.page(PAIRS, owner, clauses, matches, as_of, 1000) == scanned
                assert file.page(PAIRS, owner, clauses, matches, as_of, 2) == scanned
                newest = (file.connection, PAIRS, owner, matches, 2)
                assert pages.newest(*newest, clauses, keep) == pages.newest(*newest, (), keep)
        file.connection.close()


def paths(table: TableDef, *clauses: Hint | tuple[Hint, ...]) -> list[str]:
    """The ways there are, every declared index being complete."""
    with tempfile.TemporaryDirectory() as directory:
        file = File(Path(directory))
        file.declare(table)
        file.build_all()
        (number,) = file.connection.execute("SELECT tbl FROM indexes").fetchone() or (0,)
        ready = indexes_of(file.connection, number)
        file.connection.close()
    found = [clause if type(clause) is tuple else (clause,) for clause in clauses]
    return [str(way) for way in lookups(table, ready, tuple(found))]  # type: ignore[arg-type]


INDEXED = TableDef(
    TableId("app.t"), "shared", primary_key=("a", "b"), indexes=(("s",), ("t", "s", "n"))
)


@pytest.mark.parametrize(
    ("clauses", "expected"),
    [
        ((ColumnIn("a", (1,)), ColumnIn("b", (1, 2))), ["primary key"]),
        ((ColumnIn("a", (1,)),), ["primary key, leading part"]),
        ((ColumnIn("b", (1,)),), []),
        ((ColumnIn("s", (1,)),), ["index (s)"]),
        ((ColumnRange("s", 1, 2),), ["index (s)"]),
        ((ColumnPrefix("s", "a"),), ["index (s)"]),
        ((ColumnIn("t", (1,)), ColumnIn("s", (1,))), ["index (s)", "index (t, s, n)"]),
        ((ColumnIn("t", (1,)), ColumnRange("n", 1, None)), ["index (t, s, n)"]),
        ((ColumnIn("n", (1,)),), []),
        (((ColumnIn("s", (1,)), ColumnIn("t", (1,))),), ["index (s) or index (t, s, n)"]),
        (((ColumnIn("s", (1,)), ColumnIn("n", (1,))),), []),
        (((),), [""]),
    ],
)
def test_which_ways_there_are(clauses: Any, expected: list[str]) -> None:
    assert paths(INDEXED, *clauses) == expected


async def ready(log: SqliteLog, table: TableDef, hints: Hints) -> str:
    """How a snapshot is read once nothing is being built."""
    while "being built" in (path := await log.access_path(table, SHARED, hints)):
        pass
    return path


async def test_an_index_is_built_while_changes_go_on_and_dropped_by_a_reload(
    tmp_path: Path,
) -> None:
    log = new_log("sqlite", tmp_path, Clock())
    assert isinstance(log, SqliteLog)
    log.declare([ORDERS])
    await log.start()
    await log.append([put(n, s=n % 50) for n in range(2000)])
    indexed = msgspec.structs.replace(ORDERS, indexes=(("s",),))
    log.declare([indexed])
    for n in range(0, 2000, 100):
        await log.append([put(n, s=7), gone(n + 1)])
    hints = ((ColumnIn("s", (7,)),),)
    assert await ready(log, indexed, hints) == "index (s)"
    request = PageRequest(indexed, SHARED, lambda v: v["s"] == 7, 0, None, 1000, PLENTY, hints)
    scanned = await page_of(log, matches=lambda v: bool(v["s"] == 7))
    assert seqs(await log.page(request)) == seqs(scanned)
    log.declare([ORDERS])
    while await log.access_path(ORDERS, SHARED, hints) != "scan":
        pass
    await log.close()


async def test_indexes_survive_a_restart_and_retention(tmp_path: Path) -> None:
    indexed = msgspec.structs.replace(ORDERS, indexes=(("s",),))
    hints = ((ColumnIn("s", (7,)),),)
    clock = Clock()
    log = new_log("sqlite", tmp_path, clock)
    log.declare([indexed])
    await log.start()
    await log.append([put(n, s=n % 10) for n in range(100)])
    await log.close()
    from kalam_notify.log import Retention

    log = new_log("sqlite", tmp_path, clock, Retention(max_age=10, max_bytes=None))
    log.declare([indexed])
    await log.start()
    await log.append([put(500, s=7), put(7, s=8)])
    clock.advance(20)
    assert await log.trim() == 102
    request = PageRequest(indexed, SHARED, lambda v: v["s"] == 7, 0, None, 1000, PLENTY, hints)
    assert [r.values["id"] for _, r in (await log.page(request)).rows] == [*range(17, 100, 10), 500]
    assert await log.access_path(indexed, SHARED, hints) == "index (s)"
    await log.close()


async def test_a_user_finds_his_own_rows_by_key(tmp_path: Path) -> None:
    log = new_log("sqlite", tmp_path, Clock())
    log.declare([NOTES])
    await log.start()
    await log.append([put(n, table=NOTES, owner=owner) for n in (1, "1") for owner in ("al", "bo")])
    hints = ((ColumnIn("id", (1,)),),)
    request = PageRequest(NOTES, "bo", None, 0, None, 10, PLENTY, hints)
    assert seqs(await log.page(request)) == [2]
    assert await log.access_path(NOTES, "bo", hints) == "primary key"
    await log.close()
