"""What the stored state is asked, and what it answers: batches stored, spans, pages of rows."""

from collections.abc import Callable, Sequence

import msgspec

from kalam_notify.model import Change, Owner, Row, TableDef, Values
from kalam_notify.model.hints import NO_HINTS, Hints

Matches = Callable[[Values], bool]
"""A subscriber's filter: True keeps the row. Called in any thread; must not raise."""


class Span(msgspec.Struct, frozen=True):
    """Changes read from the log, in order, and the position they bring the reader to.

    `upto` is the position up to which the read was complete: at least the last change's seq, and
    beyond it where the changes in between belong to other tables or owners.
    """

    changes: Sequence[Change]
    upto: int


class PageRequest(msgspec.Struct, frozen=True):
    """One page of a table's rows as they stood at one position.

    A keyed table gives its current rows; a table without a key gives the rows of its inserts and
    updates out of the log.
    """

    table: TableDef
    owner: Owner
    # None keeps every row.
    matches: Matches | None
    # Rows with a greater `_seq` only: 0, or the `last_seq` of the page before.
    after: int
    # The position the rows are to be told at; None: now, and the page says which it was.
    as_of: int | None
    # At most this many rows (1 or more), and about this many bytes of row JSON (at least one row).
    limit: int
    max_bytes: int
    # They hold of every row that `matches` keeps: a log may leave out the others without asking.
    hints: Hints = NO_HINTS


class Page(msgspec.Struct, frozen=True):
    """Rows in ascending order of the seq that wrote them."""

    as_of: int
    rows: Sequence[tuple[int, Row]]
    # Whether at least one more matching row follows.
    has_more: bool
