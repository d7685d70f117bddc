"""Compares views with what PostgreSQL answers, row for row."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import psycopg

from loadtest.rehearsal.questions import HISTORY, Condition, Question
from loadtest.rehearsal.views import Row, View

_canonical = msgspec.json.Encoder(order="sorted").encode
Bag = Counter[bytes]


class Judge:
    """Holds PostgreSQL's answers of a moment at which nothing is being written.

    `told` is all of the append-only table as the daemon's log tells it, with the `_seq` that says
    what came after a subscriber began. Its rows are compared with the table themselves.
    """

    def __init__(self, connection: psycopg.Connection[Any], told: Sequence[Row]) -> None:
        self._connection = connection
        self._told = told
        self._answers: dict[str, tuple[list[str], Bag]] = {}

    def difference(self, view: View) -> str | None:
        """What is wrong with a view, None when it is exact."""
        if view.faults:
            return f"{view.question.sql}: {view.faults[0]}"
        if not view.ready:
            return f"{view.question.sql}: not live"
        if view.question.key:
            columns, expected = self._answer(view.question.sql)
            return _compare(view.question.sql, expected, _bag(columns, view.rows.values()))
        return self._difference_of_events(view)

    def difference_of_history(self) -> str | None:
        """Whether every row of the append-only table was told exactly once."""
        columns, expected = self._answer(f"SELECT * FROM {HISTORY}")
        return _compare("the log's history", expected, _bag(columns, self._told))

    def _difference_of_events(self, view: View) -> str | None:
        began = view.began or 0
        expected = [
            _projected(row, view.question)
            for row in self._told
            if int(row["_seq"]) > began and _holds(view.question.condition, row)
        ]
        if view.events == expected:
            return None
        missing = len(expected) - len(view.events)
        return f"{view.question.sql}: {len(view.events)} rows in order, {missing} too few"

    def _answer(self, sql: str) -> tuple[list[str], Bag]:
        """The columns and rows of the same SELECT; PostgreSQL itself makes them JSON."""
        if sql not in self._answers:
            columns = self._connection.execute(f"{sql} LIMIT 0".encode()).description or []
            rows = self._connection.execute(f"SELECT row_to_json(q)::text FROM ({sql}) q".encode())
            names = [column.name for column in columns]
            self._answers[sql] = names, _bag(names, (msgspec.json.decode(row) for (row,) in rows))
        return self._answers[sql]


def _bag(columns: Sequence[str], rows: Iterable[Row]) -> Bag:
    """Rows as a multiset; `_seq` and key columns that were not asked for left out."""
    return Counter(_canonical({name: row[name] for name in columns}) for row in rows)


def _compare(what: str, expected: Bag, actual: Bag) -> str | None:
    if expected == actual:
        return None
    missing, extra = expected - actual, actual - expected
    example = next(iter(missing or extra)).decode()
    return f"{what}: {missing.total()} rows missing, {extra.total()} too many, e.g. {example}"


def _projected(row: Row, question: Question) -> Row:
    columns = question.columns
    return {name: row[name] for name in (*columns, "_seq")} if columns else row


def _holds(condition: Condition | None, row: Row) -> bool:
    if condition is None:
        return True
    value = row[condition.column]
    if condition.operator == "=":
        return bool(value == condition.value)
    return bool(value > condition.value)
