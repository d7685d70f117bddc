"""Conditions over typed columns: what passes here is what PostgreSQL answers itself.

ROWS and CONDITIONS in the environment make it as large as one likes, SEED throws other dice.
"""

import os
import random
import re
from datetime import UTC, datetime, timedelta

from postgres_kit import Database

from kalam_notify.config.source_settings import SourceSettings
from kalam_notify.errors import SqlRefused
from kalam_notify.filters import bind
from kalam_notify.model import ANONYMOUS, TableDef, TableId
from kalam_notify.sources.postgres.source import PostgresSource
from kalam_notify.sql import Limits, parse

NAME = TableId("public.typed")
TABLE = """
CREATE TABLE typed (
    id int PRIMARY KEY, small smallint, whole int, big bigint, num numeric(12,3), free numeric,
    f4 real, f8 double precision, txt text, var varchar(20), flag boolean, day date, clock time,
    at timestamp, atz timestamptz, uid uuid
)
"""
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


class Dice:
    """Values in a few places only, so that rows and conditions meet."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.choice = self._random.choice
        self.random = self._random.random
        self._uuids = [f"{n:08x}-0000-4000-8000-{n * 7919:012x}" for n in range(20)]

    def literal(self, column: str) -> str:
        n = self._random.randrange(-20, 20)
        match column:
            case "small" | "whole" | "id":
                return str(n)
            case "big":
                return str(n * 2**53 + n)
            case "num":
                return f"{n * 1.125:.3f}"
            case "free":
                return self.choice([f"{n}.{n % 7}0", f"{n}", f"{n * 10**20}.5", f"0.{abs(n):020d}"])
            case "f4":
                return str(n * 0.5)
            case "f8":
                return repr(n * 0.1)
            case "txt" | "var":
                return "'" + self.choice(["", "a", "A", "ab", "a%b", "ä", "z_z", "Zz"]) + "'"
            case "flag":
                return self.choice(["true", "false"])
            case "day":
                return f"'{(BEGIN + timedelta(days=n)).date()}'"
            case "clock":
                return f"'{n % 24:02}:{abs(n):02}:00{self.choice(['', '.25'])}'"
            case "at":
                return f"'{(BEGIN + timedelta(hours=n)).replace(tzinfo=None)}'"
            case "atz":
                return f"'{(BEGIN + timedelta(hours=n)).isoformat()}'"
            case _:
                return f"'{self.choice(self._uuids)}'"

    def condition(self, depth: int = 0) -> str:
        if depth < 2 and self.random() < 0.4:
            joined = f" {self.choice(['AND', 'OR'])} "
            both = joined.join(f"({self.condition(depth + 1)})" for _ in range(2))
            return f"NOT ({both})" if self.random() < 0.3 else both
        column = self.choice(COLUMNS)
        value = self.literal(column)
        match self.choice(["compare"] * 5 + ["between", "in", "null", "like"]):
            case "between" if column != "flag":
                return f"{column} BETWEEN {value} AND {self.literal(column)}"
            case "in":
                values = ", ".join(self.literal(column) for _ in range(3))
                return f"{column} {self.choice(['', 'NOT '])}IN ({values})"
            case "null":
                return f"{column} IS {self.choice(['', 'NOT '])}NULL"
            case "like" if column in ("txt", "var"):
                return f"{column} LIKE {self.choice(['a%', '%b', '_', '%', 'z__'])!r}"
        signs = ["=", "<>"] if column in ("flag", "uid") else ["=", "<>", "<", "<=", ">", ">="]
        return f"{column} {self.choice(signs)} {value}"


COLUMNS = [part.split()[0] for part in re.split(r",\s+", TABLE.partition("(")[2])]


async def test_conditions_over_typed_columns_are_postgresqls(database: Database) -> None:
    seed = int(os.environ.get("SEED", random.randrange(10**6)))
    rows, conditions = (int(os.environ.get(k, d)) for k, d in (("ROWS", 600), ("CONDITIONS", 300)))
    print(f"SEED={seed} ROWS={rows} CONDITIONS={conditions}")
    dice = Dice(seed)
    database.run(TABLE, "SET timezone = 'UTC'")
    columns = COLUMNS[1:]
    for start in range(0, rows, 500):
        values = [
            ", ".join("NULL" if dice.random() < 0.1 else dice.literal(column) for column in columns)
            for _ in range(min(500, rows - start))
        ]
        numbered = ", ".join(f"({start + n}, {one})" for n, one in enumerate(values))
        database.run(f"INSERT INTO typed VALUES {numbered}")
    table, copied = await copy_of(database)
    wrong = []
    for _ in range(conditions):
        condition = dice.condition()
        sql = f"SELECT * FROM public.typed WHERE {condition}"
        try:
            filter = bind(parse(sql, Limits(16384, 512)), table, ANONYMOUS).filter
            found = {values["id"] for values in copied if filter.matches(values)}
        except SqlRefused:
            # A comparison that can never be TRUE is refused: PostgreSQL must agree.
            found = set()
        expected = {id for (id,) in database.run(sql.replace("*", "id", 1))}
        if found != expected:
            wrong.append((condition, sorted(found ^ expected)[:5]))
    assert wrong == []


async def copy_of(database: Database) -> tuple[TableDef, list[dict[str, object]]]:
    """The table as the source declares it, and its rows as it copies them."""
    settings = SourceSettings(database.url, slot=f"s_{database.name}", is_temporary=True)
    session = await PostgresSource("shop", settings).connect(None)
    try:
        table = session.definitions[NAME].table(NAME, "public", None)
        copy = await session.copy(NAME)
        rows = [change.row async for batch in copy.batches() for change in batch]
    finally:
        await session.close()
    return table, [row.values for row in rows if row is not None]
