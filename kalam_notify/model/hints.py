"""Hints: what must be so of a row that a filter keeps, said without the filter's language.

A filter may come with a set of hints; at least one of them then holds of every row it keeps. Who
stores rows may leave out those of which none holds, and must ask the filter about the rest. So a
hint may be ignored, or be taken more loosely than it is meant, but never more strictly.

Values are those of JSON: numbers compare as numbers (1 and 1.0 are one), text by code point, a
boolean only with a boolean. None of the hints holds of an absent column or of NULL.
"""

from typing import NamedTuple

Scalar = bool | int | float | str


class ColumnIn(NamedTuple):
    """The column equals one of the values."""

    column: str
    values: tuple[Scalar, ...]


class ColumnRange(NamedTuple):
    """The column lies between two numbers, or two texts, both included; None: no bound.

    At least one bound is given, and both are of one kind.
    """

    column: str
    low: int | float | str | None
    high: int | float | str | None


class ColumnPrefix(NamedTuple):
    """The column is a text that begins so."""

    column: str
    prefix: str


Hint = ColumnIn | ColumnRange | ColumnPrefix
