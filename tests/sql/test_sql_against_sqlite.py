"""The same rows and the same WHERE in SQLite: the same answer."""

import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sql_helpers import truth, where
from sql_strategies import COLUMNS, ROWS, SQLITE, conditions

from kalam_notify.errors import SqlRefused
from kalam_notify.filters import FilterIndex


class Database:
    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:")
        self.connection.execute("PRAGMA case_sensitive_like = ON")
        columns = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
        self.connection.execute(f"CREATE TABLE things ({columns})")

    def fill(self, rows: list[dict[str, Any]]) -> None:
        self.connection.execute("DELETE FROM things")
        marks = ", ".join("?" * len(COLUMNS))
        self.connection.executemany(
            f"INSERT INTO things VALUES ({marks})",
            [[row[name] for name in COLUMNS] for row in rows],
        )

    def select(self, condition: str) -> set[int]:
        return {
            row[0] for row in self.connection.execute(f"SELECT id FROM things WHERE {condition}")
        }


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    database = Database()
    yield database
    database.connection.close()


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=ROWS, wheres=st.lists(conditions(SQLITE), min_size=1, max_size=4))
def test_a_filter_answers_as_sqlite_does(
    database: Database, rows: list[dict[str, Any]], wheres: list[str]
) -> None:
    rows = [{"id": index, **row} for index, row in enumerate(rows)]
    database.fill(rows)
    index: FilterIndex[str] = FilterIndex()
    filters = {condition: where(condition) for condition in wheres}
    for condition, filter in filters.items():
        index.add(filter, condition)
    found = {row["id"]: index.matching(row) for row in rows}
    for condition, filter in filters.items():
        expected = database.select(condition)
        assert {row["id"] for row in rows if filter.matches(row)} == expected, condition
        assert where(filter.sql) == filter, condition
        assert {id for id, items in found.items() if condition in items} == expected, condition


# What docs/sql.md says of SQLite where we differ on purpose: expression, SQLite's answer, ours.
DEVIATIONS: list[tuple[str, bool | None, bool | None]] = [
    ("1 < 'a'", True, None),
    ("TRUE = 1", True, None),
    ("1 || 'a' = '1a'", True, None),
    ("LENGTH(5) = 1", True, None),
    ("SUBSTR('abc', -1, 3) = 'c'", True, False),
    ("SUBSTR('abc', 3, -1) IS NULL", False, True),
    ("7.5 % 2 = 1", True, False),
    ("0.1 + 0.2 = 0.3", False, True),
    ("1e308 * 10 IS NULL", False, False),
    ("LOWER('É') = 'é'", False, True),
    ("9223372036854775807 + 1 = 9223372036854775808", True, True),
    ("9223372036854775807 + 2 = 9223372036854775808", True, False),
    ("'a' LIKE 'a!' ESCAPE '!'", False, None),
]


@pytest.mark.parametrize(("expression", "theirs", "ours"), DEVIATIONS)
def test_sqlite_differs_where_the_docs_say_so(
    database: Database, expression: str, theirs: bool | None, ours: bool | None
) -> None:
    [(answer,)] = database.connection.execute(f"SELECT {expression}")
    assert (None if answer is None else bool(answer)) is theirs
    try:
        assert truth(expression) is ours
    except SqlRefused:
        assert ours is None
