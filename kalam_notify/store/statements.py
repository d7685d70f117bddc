"""Many rows in one statement, few statement texts.

Python's sqlite3 lets go of the interpreter lock at every step of a statement and has to win it back
from a busy event loop, so what counts is the number of steps, not of rows. A statement here handles
up to 500 rows at once; a run of rows is cut into pieces of a few fixed sizes, so that their
prepared forms stay in the connection's cache. Answers come back as one text, lines and fields
parted by control characters that JSON text cannot contain unescaped.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from sqlite3 import Connection
from typing import Any

# Round numbers among them, since producers like to post batches of a hundred.
_SIZES = (500, 256, 200, 128, 100, 64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1)
CACHED_STATEMENTS = 256

LINE = b"\n"
FIELD = b"\t"

Template = Callable[[int], str]
"""The statement for a number of rows."""


def pieces(count: int) -> Iterator[tuple[int, int]]:
    """(start, size) of each piece of a run of `count` rows."""
    start = 0
    for size in _SIZES:
        while count - start >= size:
            yield start, size
            start += size


@lru_cache(maxsize=CACHED_STATEMENTS)
def statement(template: Template, size: int) -> str:
    return template(size)


def write_rows(
    connection: Connection,
    template: Template,
    width: int,
    values: Sequence[Any],
    shared: Sequence[Any] = (),
) -> None:
    """Run a statement for all rows; `values` holds `width` parameters a row, end to end.

    `shared` are parameters that all rows have alike, ?1 and so on.
    """
    for start, size in pieces(len(values) // width):
        piece = values[start * width : (start + size) * width]
        connection.execute(statement(template, size), [*shared, *piece])


def look_up(
    connection: Connection, template: Template, width: int, values: Sequence[Any]
) -> Iterator[tuple[int, bytes]]:
    """Ask for all rows; gives where each piece begins, and the answer for it where there is one.

    The template's lines start with the row's place within the piece.
    """
    for start, size in pieces(len(values) // width):
        piece = values[start * width : (start + size) * width]
        (answer,) = connection.execute(statement(template, size), piece).fetchone()
        if answer:
            yield start, answer


def tuples(size: int, one: str) -> str:
    """`one` repeated, parted by commas: the body of VALUES."""
    return ",".join([one] * size)


def numbered(size: int, rest: str) -> str:
    """`(0,rest),(1,rest)…`: VALUES that remember their place."""
    return ",".join(f"({n},{rest})" for n in range(size))
