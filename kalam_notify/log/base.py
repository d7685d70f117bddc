"""The event log: an ordered, durable sequence of changes, and the current rows it adds up to.

The log is the bus. Producers append, every reader follows by position, and nothing above this
interface may know which log it is. Its edges have names:

- `last_seq`      the newest change known here; rises, never falls, survives a restart.
- `latest()`      the newest change there is: ahead of `last_seq` for as long as another process
                  has written what has not arrived here.
- `first_seq`     the oldest change still held (`last_seq + 1` when none is).
- `base`          where this life of the log began. A log that begins anew begins at the time in
                  microseconds, so that a position of another life lies below it (or above
                  `last_seq`): no reader may go on from there. Only 0 stands for `base` itself.
- `horizon(t)`    the lowest position from which table t reads completely. A read after a lower
                  position raises `Compacted`.
- `wait_beyond`   resumes as soon as there is a change after a position.

Positions and seqs are integers below 2**53; position 0 is before the first change.

Invariant: seqs rise strictly; the changes of one batch are consecutive.
Invariant: `append` returns only after the batch is durable, and a batch is visible to readers
    only after it is durable.
Invariant: a page of rows and the position it stands at (`as_of`) agree exactly.
"""

from collections.abc import Callable, Collection, Iterable, Sequence, Sized
from typing import Literal, Protocol

from kalam_notify.config import NatsSettings
from kalam_notify.model import Change, Owner, PostedChange, TableDef, TableId
from kalam_notify.model.changes import Appended
from kalam_notify.model.hints import NO_HINTS, Hints
from kalam_notify.model.sourced import SourceMark, SourceState
from kalam_notify.model.tables import SeenColumns
from kalam_notify.store.base import Matches, Page, PageRequest, Span
from kalam_notify.store.retention import Retention

OnAppend = Callable[[float, Appended], None]
"""Told of every stored batch: seconds from `append` until it was durable, and its answer."""

Step = Literal["publish", "apply"]
OnStep = Callable[[Step, float], None]
"""Told of the seconds that a log on NATS took for a message until it was acknowledged, or for some
messages until they were applied. Other logs have no such steps."""


class EventLog(Protocol):
    """What every log offers. Coroutines do their blocking work off the event loop.

    All methods are called on the event loop that called `start`.
    """

    on_append: OnAppend | None
    on_step: OnStep | None

    @property
    def steps(self) -> Collection[Step]:
        """Those that `on_step` is told of."""

    @property
    def first_seq(self) -> int: ...

    @property
    def base(self) -> int: ...

    @property
    def last_seq(self) -> int: ...

    @property
    def is_shared(self) -> bool:
        """Whether the log may go on behind what is known here; False: `last_seq` is `latest()`.

        Other processes write it too, or a commit of this one is still being read back.
        """

    @property
    def cluster(self) -> str | None:
        """What the log is called among all, where several nodes share it; None: none do.

        Told once the log is ready.
        """

    @property
    def largest_batch(self) -> int | None:
        """Bytes that a batch may have: rows, keys, and 200 for each change; None: any number."""

    async def latest(self, at_least: int = 0) -> int:
        """The newest seq of the log itself, now; `first_seq` and `horizon` are up to date after.

        Less than `at_least`, which somebody has been told of, only where that is certain.

        Not below the seq of any change that was acknowledged, by whichever process, before the
        call. Where the log is not shared this does not give the event loop a turn.
        """

    @property
    def waiting(self) -> Sized:
        """The batches that are not durable yet, by now: always the same collection."""

    def horizon(self, table: TableId | None = None) -> int:
        """The lowest position from which `table` (None: every table) reads completely."""

    def statistics(self) -> dict[str, float]:
        """Queue lengths, bytes held and the like, for metrics and /health."""

    def why_not_ready(self) -> str | None:
        """Why no change can be stored at the moment; None: as far as is known, it can.

        After a failed append until one has succeeded (it is tried every second), while one has
        been waiting for more than three, and while a file is not the one that was opened.
        """

    def why_leave(self) -> str | None:
        """Why clients had better go on with another server; None: they are well here."""

    async def start(self) -> None:
        """Open the log; raises StorageFault for files this release must not touch."""

    async def close(self) -> None:
        """Finish the appends in hand, then let go of every resource. Idempotent."""

    def declare(self, tables: Iterable[TableDef]) -> None:
        """Tell the log of tables before their first change, at start and at every reload.

        Raises StorageFault when a table's kind or primary key differs from the one under which
        its rows are stored.
        """

    async def append(
        self,
        batch: Sequence[PostedChange],
        batch_key: str | None = None,
        mark: SourceMark | None = None,
    ) -> Appended:
        """Store a batch, all or nothing; return once it is durable.

        A change whose `id` was seen within retention (or earlier in the batch) is a duplicate:
        counted, not stored. When `batch_key` itself was seen within retention, every change of
        the batch is a duplicate, whatever it holds and however many there are. Batch keys and
        ids of changes are two name spaces: equal text in both means nothing. A batch key is
        remembered, in the transaction that stores the batch, for as long as the last change that
        its batch stored; a batch that stores nothing leaves no key behind.

        The `mark` of a source is stored with its batch, which may be empty; see `sources`. Where
        the log is that of a `cluster`, the batch of a mark that `follows` another one than the last
        is refused.

        Raises LogUnavailable when nothing of it was stored, OutcomeUnknown when nobody knows,
        SourceOvertaken for a mark that is refused, and ValueError for a table that the log was
        never told of. Cancelling the wait does not take the batch back.
        """

    async def sources(self) -> dict[str, SourceState]:
        """Of every source that has left a mark: how far it has been told, and its tables."""

    async def source_version(self) -> int:
        """A number that rises whenever a mark defines or drops a table."""

    def recent(self, after: int, limit: int | None = None) -> Sequence[Change] | None:
        """All changes after a position, out of memory and at once; None: not held, use `read`.

        With a `limit` only the first so many of them.

        An empty sequence means that `after` is at (or beyond) `last_seq`.
        """

    async def read(
        self,
        after: int,
        *,
        limit: int,
        max_bytes: int,
        table: TableId | None = None,
        owner: Owner | None = None,
    ) -> Span:
        """The next changes after a position, at most `limit`, about `max_bytes`, at least one.

        With `table` (and `owner`) only that table's (that owner's) changes are given. A `read` at
        the end of the log answers an empty span whose `upto` is `last_seq` or beyond. Raises
        Compacted when `after` is below `horizon(table)`.
        """

    def retain(self, retention: Retention) -> None:
        """Keep by another retention from the next trim on."""

    def adjust(self, nats: NatsSettings) -> None:
        """Take other settings of a log on NATS, of which those that can change do."""

    async def trim(self) -> int:
        """Apply retention now, as the log does by itself from time to time; the entries removed."""

    async def wait_beyond(self, seq: int) -> None:
        """Return as soon as `last_seq` is greater than `seq`."""

    async def page(self, request: PageRequest) -> Page:
        """One page of rows as of a position; raises Compacted when that can no longer be told.

        That is so when `as_of` is below `horizon(table)`; without a primary key, where the rows are
        the log's own entries, also when `as_of` is given and `after` is below it.
        """

    def newest_columns(self, table: TableDef, owner: Owner) -> SeenColumns | None:
        """Names that one of the newest rows has; None: there has been no row, or nobody knows.

        Answered at once, for it is asked while a subscription is made. Raises LogUnavailable.
        """

    async def newest(
        self,
        table: TableDef,
        owner: Owner,
        matches: Matches | None,
        count: int,
        hints: Hints = NO_HINTS,
    ) -> tuple[int, int]:
        """Where the newest `count` matching rows begin: `(as_of, after)` for a PageRequest.

        `hints` are those of a PageRequest.

        The rows with a seq greater than `after`, as of `as_of`, are the `count` newest matching
        ones (all of them when there are fewer). With `count` 0, `after` equals `as_of`.
        """

    async def access_path(self, table: TableDef, owner: Owner, hints: Hints) -> str:
        """How a snapshot under these hints finds its rows: by a key, an index, or a scan."""


def reaches(log: EventLog, position: int, head: int, table: TableId) -> bool:
    """Whether a reader of the table may go on from a position of its, where the log ends at `head`.

    That is so when this life of the log gave it, and nothing of the table after it is gone. 0 is
    before the first change of every life.
    """
    if position == 0:
        return log.horizon(table) <= log.base
    return max(log.base, log.horizon(table)) <= position <= head
