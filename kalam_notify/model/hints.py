"""Hints: what must be so of a row that a filter keeps, said without the filter's language.

A filter may come with clauses, all of which hold of every row it keeps; a clause is a set of hints
at least one of which then holds. Who stores rows may leave out those of which some clause does not
hold, and must ask the filter about the rest. So a clause may be ignored, and a hint be taken more
loosely than it is meant, but never more strictly.

Values are those of JSON: numbers compare as numbers (1 and 1.0 are one), text by code point, a
boolean only with a boolean. None of the hints holds of an absent column or of NULL.

A hint with a `reading` is about what a column's declared type makes of its values: a row's value
`v` is then held against the hint by `readings.sort_key(reading, v)`, of which None is NULL, and
the hint's values are such keys already. The keys are in the order of what they stand for and may
be equal for neighbours, so a range or list of them is never stricter than the filter.
"""

from typing import NamedTuple

Scalar = bool | int | float | str


class ColumnIn(NamedTuple):
    """The column equals one of the values."""

    column: str
    values: tuple[Scalar, ...]
    reading: str | None = None


class ColumnRange(NamedTuple):
    """The column lies between two numbers, or two texts, both included; None: no bound.

    At least one bound is given, and both are of one kind.
    """

    column: str
    low: int | float | str | None
    high: int | float | str | None
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
