"""Hold answers against PostgreSQL's for a million pairs of a row and a condition, by hand.

    python tests/sql/postgres_pairs.py [PAIRS] [SEED]

Each condition is asked of all rows at once, ours through the filter, its negation and the index.
Prints how many pairs there were and every one that differs, and exits 1 when one does.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import psycopg

sys.path.insert(0, str(Path(__file__).parent))

from private_postgres import private_postgres
from sql_helpers import query, table
from typed_conditions import TYPES, Both, Conditions, functions, row, stored

from kalam_notify.errors import SqlRefused
from kalam_notify.filters import FilterIndex

THINGS = table(**TYPES)
ROWS = 200


class Oracle:
    """A PostgreSQL connection with a table of random rows."""

    def __init__(self, address: str) -> None:
        self.connection: psycopg.Connection[Any] = psycopg.connect(
            address, autocommit=True, cursor_factory=psycopg.RawCursor
        )
        self.connection.execute("SET TimeZone = 'UTC'")
        columns = ", ".join(f"{name} {kind}" for name, kind in TYPES.items())
        self.connection.execute(f"CREATE TEMPORARY TABLE things ({columns})".encode())
        for function in functions():
            self.connection.execute(function.encode())

    def fill(self, rows: list[dict[str, Any]]) -> None:
        self.connection.execute("DELETE FROM things")
        marks = ", ".join(f"${number + 1}" for number in range(len(TYPES)))
        with self.connection.cursor() as cursor:
            cursor.executemany(f"INSERT INTO things VALUES ({marks})", [*map(stored, rows)])

    def answers(self, condition: str, params: list[Any]) -> dict[int, bool | None]:
        sql = f"SELECT id, ({condition}) FROM things"
        return dict(self.connection.execute(sql.encode(), params or None).fetchall())


def ours(both: Both, params: list[Any], rows: list[dict[str, Any]]) -> dict[int, bool | None]:
    """What the filter and its negation say of each row, and the index with them."""
    sql = "SELECT * FROM app.things WHERE "
    plain = query(sql + both.ours, on=THINGS, params=params).filter
    negated = query(f"{sql}NOT ({both.ours})", on=THINGS, params=params).filter
    index: FilterIndex[bool] = FilterIndex()
    index.add(plain, True)
    index.add(negated, False)
    answers: dict[int, bool | None] = {}
    for values in rows:
        found = index.matching(values)
        assert found == [True] * plain.matches(values) + [False] * negated.matches(values), both
        answers[values["id"]] = found[0] if found else None
    return answers


def pairs(
    oracle: Oracle, count: int, seed: int
) -> Iterator[tuple[Both, list[Any], dict[str, Any]]]:
    """Go through `count` pairs; yields those that differ."""
    random = Random(seed)
    rows: list[dict[str, Any]] = []
    for number in range(count // ROWS):
        if number % 50 == 0:
            rows = [row(random, place) for place in range(ROWS)]
            oracle.fill(rows)
        conditions = Conditions(random, with_params=number % 2 == 1)
        both = conditions.condition(random.randint(0, 3))
        try:
            theirs = oracle.answers(both.theirs, conditions.params)
        except psycopg.Error as error:
            print("PostgreSQL refuses:", both.theirs, error, file=sys.stderr)
            continue
        mine = ours(both, conditions.params, rows)
        for values in rows:
            if mine[values["id"]] is not theirs[values["id"]]:
                yield both, conditions.params, values | {"ours": mine[values["id"]]}


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    started, differences = time.monotonic(), 0
    shown: set[str] = set()
    with private_postgres() as address:
        try:
            for both, params, values in pairs(Oracle(address), count, seed):
                differences += 1
                if both.ours not in shown:
                    shown.add(both.ours)
                    print(both.ours, params, values)
        except SqlRefused as refusal:
            print(refusal)
            raise
    seconds = time.monotonic() - started
    print(f"{count} pairs in {seconds:.0f} s, {differences} differ in {len(shown)} conditions")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
