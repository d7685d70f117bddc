"""What filters answered about rows that were alike in all that they look at.

Filters that no look-up finds have to be asked of every row, and thousands of them behind by
thousands of changes are millions of questions. But a filter looks at a few columns, and rows repeat
themselves in them: `tenant % 8 = 3` needs no second answer for the same tenant. So the filters that
look at the same columns are asked once for each combination of values.
"""

from collections.abc import Sequence
from typing import Any

from kalam_notify.budget import Steps
from kalam_notify.filters.index import Entry as IndexEntry
from kalam_notify.sql.tree import Call, Column, Expression
from kalam_notify.subscriptions.plans import FilterNode

Entry = IndexEntry[FilterNode]

_MOST_KEPT = 4096
# Rows hardly repeat each other in long texts.
_LONG_TEXT = 128
# Fewer filters are asked as fast as remembered.
_FEW = 4


class Group:
    """Filters that look at the same columns, and what they have answered."""

    __slots__ = ("_answers", "_columns", "entries")

    def __init__(self, columns: Sequence[str]) -> None:
        self.entries: list[Entry] = []
        self._columns = columns
        # Values of the columns -> the entries that were TRUE of them.
        self._answers: dict[tuple[object, ...], Sequence[Entry]] = {}

    def known(self, values: dict[str, Any]) -> Sequence[Entry] | None:
        """Which entries are TRUE of a row; None: they have to be asked."""
        if len(self.entries) < _FEW:
            return None
        key = self._key(values)
        return None if key is None else self._answers.get(key)

    def keep(self, values: dict[str, Any], true: Sequence[Entry]) -> None:
        """Remember what was answered about a row."""
        key = None if len(self.entries) < _FEW else self._key(values)
        if key is not None:
            if len(self._answers) >= _MOST_KEPT:
                self._answers.clear()
            self._answers[key] = true

    def _key(self, values: dict[str, Any]) -> tuple[object, ...] | None:
        """The values that are looked at, told apart by type; None where it is not worth it."""
        key: list[object] = []
        for column in self._columns:
            value: Any = values.get(column)
            kind: type = type(value)
            if kind is str:
                if len(value) > _LONG_TEXT:
                    return None
                key.append(value)
            elif value is None or kind is int:
                key.append(value)
            elif kind is bool or kind is float:
                # Python holds 1, 1.0 and True equal, and 0.0 and -0.0.
                key.append((kind, repr(value)))
            else:
                return None
        return tuple(key)


class Answers:
    """The filters of a cohort that are asked of every row, by the columns they look at."""

    __slots__ = ("groups",)

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = groups

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> "Steps[Answers]":
        """Nothing answered yet by these entries."""
        groups: dict[tuple[str, ...], Group] = {}
        for entry in entries:
            node = next(iter(entry.items), None)
            if node is not None:
                columns = columns_of(node.filter.predicate)
                groups.setdefault(columns, Group(columns)).entries.append(entry)
            yield
        return cls([*groups.values()])


def columns_of(predicate: Expression) -> tuple[str, ...]:
    """The columns that a predicate looks at, sorted."""
    columns: set[str] = set()
    seen: set[int] = set()
    waiting: list[Expression] = [predicate]
    while waiting:
        expression = waiting.pop()
        if isinstance(expression, Column):
            columns.add(expression.name)
        elif isinstance(expression, Call) and id(expression) not in seen:
            seen.add(id(expression))
            waiting.extend(expression.args)
    return tuple(sorted(columns))
