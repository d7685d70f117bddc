"""Hints: what must be so of a row that a filter keeps, said without the filter's language.

A filter may come with clauses, all of which hold of every row it keeps; a clause is a set of hints
at least one of which then holds. Who stores rows may leave out those of which some clause does not
hold, and must ask the filter about the rest. So a clause may be ignored, and a hint be taken more
loosely than it is meant, but never more strictly.

Values are those of JSON: numbers compare as numbers (1 and 1.0 are one), text by code point, a
boolean only with a boolean. A hint with a `reading` speaks of what the column's value is read as
(a decimal, an instant, a UUID), and so are its values. None of the hints holds of an absent column,
of NULL, or of a value that cannot be read so.
"""

from typing import Any, NamedTuple

Scalar = bool | int | float | str


class ColumnIn(NamedTuple):
    """The column equals one of the values."""

    column: str
    values: tuple[Any, ...]
    reading: str | None = None


class ColumnRange(NamedTuple):
    """The column lies between two numbers, or two texts, both included; None: no bound.

    At least one bound is given, and both are of one kind.
    """

    column: str
    low: Any
    high: Any
    reading: str | None = None


class ColumnPrefix(NamedTuple):
    """The column is a text that begins so."""

    column: str
    prefix: str


Hint = ColumnIn | ColumnRange | ColumnPrefix

Clause = tuple[Hint, ...]
"""At least one of them holds; none in it: nothing passes the filter."""

Hints = tuple[Clause, ...]
"""All of the clauses hold, the one that is expected to hold for the fewest rows first.

No clause: nothing is known.
"""

NO_HINTS: Hints = ()
