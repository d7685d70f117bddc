"""The same rows and the same WHERE in PostgreSQL: the same answer.

Precedence is PostgreSQL's own here (`a = b IS TRUE`, NOT without parentheses), as are IS UNKNOWN
and ILIKE; division by zero, an error there, is left out.
"""

import json
import os
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from private_postgres import is_installed, private_postgres
from sql_helpers import truth, where
from sql_strategies import COLUMNS, POSTGRES, ROWS, conditions

from kalam_notify.errors import SqlRefused

pytestmark = pytest.mark.skipif(
    not is_installed() and "CI" not in os.environ, reason="PostgreSQL 15 is not installed"
)


class Database:
    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection
        columns = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
        self.connection.execute(f"CREATE TEMPORARY TABLE things ({columns})")

    def fill(self, rows: list[dict[str, Any]]) -> None:
        self.connection.execute("DELETE FROM things")
        marks = ", ".join(["%s"] * len(COLUMNS))
        with self.connection.cursor() as cursor:
            cursor.executemany(
                f"INSERT INTO things VALUES ({marks})",
                [[row[name] for name in COLUMNS] for row in rows],
            )

    def select(self, condition: str) -> set[int]:
        sql = f"SELECT id FROM things WHERE {condition}"
        return {row[0] for row in self.connection.execute(sql.encode())}


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    with private_postgres() as address, psycopg.connect(address, autocommit=True) as connection:
        yield Database(connection)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=ROWS, wheres=st.lists(conditions(POSTGRES), min_size=1, max_size=4))
def test_a_filter_answers_as_postgres_does(
    database: Database, rows: list[dict[str, Any]], wheres: list[str]
) -> None:
    rows = [{"id": index, **row} for index, row in enumerate(rows)]
    database.fill(rows)
    for condition in wheres:
        filter = where(condition)
        expected = database.select(condition)
        assert {row["id"] for row in rows if filter.matches(row)} == expected, condition


INSTANTS = [
    "2024-05-01",
    "2024-05-01 12:00",
    "2024-05-01T12:00:00Z",
    "2024-05-01T14:00:00+02:00",
    "2024-05-01 07:00:00.000001-05",
    "2024-04-30T23:59:59.999999Z",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
]


def test_instants_compare_as_postgres_compares_timestamps_with_a_zone(database: Database) -> None:
    database.connection.execute("SET TimeZone = 'UTC'")
    for left in INSTANTS:
        for right in INSTANTS:
            [(order,)] = database.connection.execute(
                "SELECT sign(extract(epoch FROM %s::timestamptz) "
                "- extract(epoch FROM %s::timestamptz))::int",
                (left, right),
            )
            symbol = {-1: "<", 0: "=", 1: ">"}[order]
            filter = where(f"CAST(s AS TIMESTAMP) {symbol} TIMESTAMP '{right}'")
            assert filter.matches({"s": left}), (left, right)


JSON = ['{"k": "v"}', '{"k": null}', '{"k": {"z": [1, "two"]}}', '[10, "x"]', '{"a.b": "dot"}']
PATHS = ["j ->> 'k'", "j -> 'k' -> 'z' ->> 1", "j ->> 1", "j ->> -1", "j ->> 'a.b'", "j->'k'->>'z'"]


@pytest.mark.parametrize("path", PATHS)
def test_json_paths_lead_where_they_lead_in_postgres(database: Database, path: str) -> None:
    for document in JSON:
        [(expected,)] = database.connection.execute(
            f"SELECT {path} FROM (SELECT %s::jsonb AS j) AS row".encode(), (document,)
        )
        row = {"j": json.loads(document)}
        if expected is None:
            assert where(f"{path} IS NULL").matches(row), (path, document)
        else:
            compact = (
                expected
                if expected[0] not in "[{"
                else json.dumps(json.loads(expected), separators=(",", ":"))
            )
            assert where(f"{path} = '{compact}'").matches(row), (path, document)


# What docs/sql.md says of PostgreSQL where we differ on purpose: its answer or error, and ours.
DEVIATIONS: list[tuple[str, bool | str, bool | None]] = [
    ("1 / 0 IS NULL", "division by zero", True),
    ("TRUE = 1", "operator does not exist", None),
    ("1 < 'a'", "invalid input syntax", None),
    ("9223372036854775807 + 1 > 0", "out of range", True),
    ("1 || 'a' = '1a'", True, None),
    ("'a%' LIKE 'a\\%'", True, False),
    ("'ab' LIKE 'a!' ESCAPE '!'", "must not end with escape", None),
    ("LOWER('É') = 'é'", False, True),
    ("SUBSTR('abc', -1, 3) = 'a'", True, True),
    ("SUBSTR('abc', 1, -1) IS NULL", "negative substring length", True),
]


@pytest.mark.parametrize(("expression", "theirs", "ours"), DEVIATIONS)
def test_postgres_differs_where_the_docs_say_so(
    database: Database, expression: str, theirs: bool | str, ours: bool | None
) -> None:
    if isinstance(theirs, str):
        with pytest.raises(psycopg.Error, match=theirs):
            database.connection.execute(f"SELECT {expression}".encode())
    else:
        [(answer,)] = database.connection.execute(f"SELECT {expression}".encode())
        assert answer is theirs
    try:
        assert truth(expression) is ours
    except SqlRefused:
        assert ours is None
