"""From pieces of a stream to batches of the log: what has come while one is written goes next.

Appending waits for the disk, the stream does not; so there is a queue between the two, bounded in
bytes, and all that is in it becomes one batch (up to a bound), with the position of its last piece.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence

from kalam_notify.errors import LogUnavailable
from kalam_notify.log import Appended, EventLog
from kalam_notify.model import PostedChange, TableId
from kalam_notify.model.sourced import SourceMark
from kalam_notify.sources.base import Piece, size_of
from kalam_notify.sources.marks import Marks

_log = logging.getLogger("kalam_notify.sources")

BATCH_CHANGES = 4096
MOST_CHANGES = 16_384
RETRY_SECONDS = 1.0

OnStored = Callable[[str], None]
OnIngested = Callable[[TableId, int], None]


class Outbox:
    """Stores the pieces of one source, in order. `run` is a task of its own.

    With `marks` other nodes may go on with the source whenever this one fails to store.
    """

    def __init__(
        self,
        name: str,
        log: EventLog,
        on_stored: OnStored,
        on_ingested: OnIngested,
        marks: Marks | None = None,
    ) -> None:
        self._name = name
        self._event_log = log
        self._on_stored = on_stored
        self._on_ingested = on_ingested
        self._marks = marks
        self._pieces: deque[Piece] = deque()
        self._changes = 0
        self._is_storing = False
        self._moved = asyncio.Condition()

    async def put(self, piece: Piece) -> None:
        """Queue a piece; waits while too much is queued."""
        async with self._moved:
            await self._moved.wait_for(lambda: self._changes < MOST_CHANGES)
            self._pieces.append(piece)
            self._changes += len(piece.changes)
            self._moved.notify_all()

    async def flush(self) -> None:
        """Return once everything that was put has been stored."""
        async with self._moved:
            await self._moved.wait_for(self._is_idle)

    def _is_idle(self) -> bool:
        return not self._pieces and not self._is_storing

    async def run(self) -> None:
        while True:
            async with self._moved:
                await self._moved.wait_for(lambda: self._pieces)
                batch, position = self._next()
                self._is_storing = True
            await self.store(batch, SourceMark(self._name, position))
            async with self._moved:
                self._is_storing = False
                self._moved.notify_all()

    def _next(self) -> tuple[Sequence[PostedChange], str]:
        piece = self._pieces.popleft()
        batch = list(piece.changes)
        largest = self._event_log.largest_batch
        size = 0 if largest is None else sum(map(size_of, batch))
        while self._pieces and len(batch) + len(self._pieces[0].changes) <= BATCH_CHANGES:
            if largest is not None:
                size += sum(map(size_of, self._pieces[0].changes))
                if size > largest:
                    break
            piece = self._pieces.popleft()
            batch += piece.changes
        self._changes -= len(batch)
        return batch, piece.position

    async def store(self, batch: Sequence[PostedChange], mark: SourceMark) -> None:
        """Append, until the log takes it. For what has to be in order, `flush` first.

        Where other nodes may go on, once: raises LogUnavailable and SourceOvertaken.
        """
        if self._marks is not None:
            mark = self._marks.following(mark)
            stored = await self._event_log.append(batch, mark=mark)
            self._marks.stored(mark)
        else:
            stored = await self._append(batch, mark)
        if stored.duplicates == 0:
            for table, count in Counter(change.table for change in batch).items():
                self._on_ingested(table, count)
        elif stored.accepted:
            # Of a copy, some of whose rows were known: all of them are of one table.
            self._on_ingested(batch[0].table, stored.accepted)
        if mark.position is not None:
            self._on_stored(mark.position)

    async def _append(self, batch: Sequence[PostedChange], mark: SourceMark) -> Appended:
        while True:
            try:
                return await self._event_log.append(batch, mark=mark)
            except LogUnavailable as fault:
                # The log itself has said so.
                _log.debug("source %s waits for the log: %s", self._name, fault)
                await asyncio.sleep(RETRY_SECONDS)
