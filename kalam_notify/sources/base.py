"""What a source is: a database whose tables are told here, row by row, as they change.

A source has four things, and everything above them (order, positions, copies, schema changes, who
of several processes follows it) is done once for all sources by `runner` and `keeper`:

- a *position*: how far its changes have been told. A text of its own making, which the log stores
  in the transaction that stores the changes.
- a *copy*: the rows of one table as of a moment, the *cut*. What the stream tells of earlier than
  the cut is in the copy; a session leaves it out of its stream.
- a *stream*: every change after a position, in the order of its commits, however often it is asked
  for the same position.
- *types*: what its columns are declared as here, and how their values become JSON.

    connect(position) -> Session: tables -> copy(table)* -> stream() -> ... -> close
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol, TypeAlias

import msgspec

from kalam_notify.errors import KalamNotifyError, OperatorFault
from kalam_notify.model import PostedChange, TableDef, TableId
from kalam_notify.model.changes import MovedRow
from kalam_notify.model.tables import Access
from kalam_notify.model.types import parse_type


class SourceUnavailable(KalamNotifyError):
    """The source cannot be followed at the moment; it is tried again."""


class SourceLost(SourceUnavailable):
    """What was told before cannot be gone on from: the next session copies anew."""


class TableMoved(SourceUnavailable):
    """A table is not any more what it was when it was looked at: look again."""


class Missing(NamedTuple):
    """Something that a source needs and does not have, and what would give it."""

    what: str
    cure: str

    def __str__(self) -> str:
        return f"{self.what}\n    cure: {self.cure}"


class SourceRefused(OperatorFault):
    """A source cannot be followed as its database is set up: everything that is missing."""

    def __init__(self, name: str, missing: Sequence[Missing]) -> None:
        lines = "\n  ".join(str(one) for one in missing)
        super().__init__(f"sources.{name} cannot be followed:\n  {lines}")
        self.missing = tuple(missing)


CUT_ONLY = ""


class Definition(msgspec.Struct, frozen=True):
    """A table of a source, as the log keeps it."""

    primary_key: tuple[str, ...]
    # Column -> type, as text.
    columns: dict[str, str]
    # The source's own: another one where rows may read otherwise than they did.
    fingerprint: str
    # The source's own: since when the stream tells of the table. None: its rows have to be copied;
    # CUT_ONLY: they have been, but the stream has begun anew.
    cut: str | None = None

    def table(self, name: TableId, access: Access, declared: TableDef | None) -> TableDef:
        """The table as everybody here sees it; `declared`: what the settings say of it, if any."""
        columns = {column: parse_type(kind) for column, kind in self.columns.items()}
        if declared is None:
            return TableDef(name, "shared", access, self.primary_key, columns)
        indexes = tuple(one for one in declared.indexes if columns.keys() >= set(one))
        return msgspec.structs.replace(
            declared, primary_key=self.primary_key, columns=columns, indexes=indexes
        )

    @property
    def shape(self) -> "Definition":
        """The same before it is copied: what two definitions must share to be one."""
        return msgspec.structs.replace(self, cut=None)


def encode_definition(definition: Definition) -> str:
    return msgspec.json.encode(definition).decode()


def decode_definition(text: str) -> Definition:
    return msgspec.json.decode(text, type=Definition)


class Piece(NamedTuple):
    """Changes in order: a transaction or more, or a part of a long one."""

    changes: Sequence[PostedChange]
    position: str
    # When the newest of them was committed, Unix seconds.
    at: float


def size_of(change: PostedChange) -> int:
    """No fewer bytes than a change takes in a batch; see `EventLog.largest_batch`."""
    size = 200 + change.size
    # Text takes up to four bytes a character, of names and keys.
    if change.key is not None:
        size += 4 * len(change.key)
    if change.unchanged:
        size += 4 * sum(map(len, change.unchanged))
    if isinstance(change, MovedRow):
        size += 4 * len(change.base)
    return size


class Truncated(NamedTuple):
    """All rows of these tables are gone."""

    tables: tuple[TableId, ...]
    position: str


class Altered(NamedTuple):
    """Tables may have come, gone or changed: `Session.refresh` tells."""


class Caught(NamedTuple):
    """Everything has been told up to a position, and nothing since."""

    position: str


Event: TypeAlias = Piece | Truncated | Altered | Caught


class Copy(Protocol):
    """The rows of one table as of its cut."""

    cut: str

    def batches(self) -> AsyncIterator[list[PostedChange]]:
        """Every row, as an insert; of a table with a key only told where it is not known."""


class Session(Protocol):
    """A connection to the source. Its methods raise SourceUnavailable and SourceLost."""

    # Whether the stream begins behind what was told last: everything has to be copied.
    begins_anew: bool

    @property
    def definitions(self) -> Mapping[TableId, Definition]:
        """The tables there are, without cuts."""

    async def refresh(self) -> None:
        """Look again at what tables there are."""

    def know(self, definitions: Mapping[TableId, Definition]) -> None:
        """What has been told of which table: the stream leaves out what is before its cut."""

    async def copy(self, table: TableId) -> Copy:
        """Begin a copy; raises TableMoved, as its `batches` do."""

    async def end_copies(self) -> None:
        """No copy is read any more."""

    def stream(self) -> AsyncIterator[Event]:
        """Every change after the position, for ever."""

    def stored(self, position: str) -> None:
        """The log has everything up to there on disk: the source need not keep it."""

    def position(self) -> str:
        """Where the stream begins."""

    async def close(self) -> None:
        """Let go of the connection. Idempotent."""


class Lag(NamedTuple):
    """How far a source is behind, as of the last look."""

    bytes: int
    seconds: float


class Source(Protocol):
    """A database, as configured."""

    name: str
    access: Access

    def alone(self, cluster: str, on_wait: Callable[[], None]) -> AbstractAsyncContextManager[None]:
        """Be the only node of a cluster that follows, from when it is entered; waits for its turn.

        `on_wait` is told when there is a wait. Raises SourceUnavailable, also within, when the turn
        is over.
        """

    async def guard(self) -> None:
        """Nothing can be stored at the moment: keep the source from keeping too much for it."""

    async def connect(self, position: str | None, largest: int | None = None) -> Session:
        """Go on from a position; None: from now. Raises SourceUnavailable and SourceRefused.

        No piece of more than one change is larger than `largest` bytes.
        """

    def lag(self) -> Lag:
        """How far behind what has been stored is."""
