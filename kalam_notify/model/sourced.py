"""What sources tell beside their changes: where they are themselves.

A source (a database that is followed) knows less of a row than a producer, or says it again. What
it leaves open is closed from the stored row, at the change's own place in the log.
"""

import msgspec

from kalam_notify.model.tables import TableId


class SourceMark(msgspec.Struct, frozen=True):
    """What a source says of itself in the transaction that stores a batch of its changes.

    `position` and the definitions are the source's own texts, which the log keeps and gives back.
    """

    source: str
    # How far the source has been told; None: as before.
    position: str | None = None
    # Tables that are new or have changed, each with its definition.
    defined: tuple[tuple[TableId, str], ...] = ()
    # Tables that the source has no more.
    dropped: tuple[TableId, ...] = ()
    # Tables whose changes leave the log, so that they may be declared in another shape. They must
    # have no rows by then; readers below are told that the log does not reach back to them.
    forgotten: tuple[TableId, ...] = ()
    # Where several nodes may follow the source: a name that no other mark has, and that of the mark
    # before it ("": there is none). A log whose last mark is another one refuses the whole batch:
    # whoever made it has been overtaken.
    follows: str | None = None
    id: str | None = None


class SourceState(msgspec.Struct, frozen=True):
    """What the log keeps of a source."""

    position: str | None
    tables: dict[TableId, str]
    # The last mark that had a name.
    last_mark: str = ""
