"""Reading snapshot pages: a chunk of rows at a time, filtered in slices, equal pages once.

    slot --chunk of rows (thread)--> filter and encode (budget) --next chunk--> ... --> page

No thread is kept from one chunk to the next, and no read transaction: the first chunk fixes the
position that all the others are told as of (see the log's `page`). So pages with dear filters and
those with cheap ones take turns, by owner, for threads and for the loop alike.

A first page is told as of the time when its reading began, and suits whoever asked before: it holds
every change that was acknowledged until then, by whichever process. So of equal first pages one is
being read and at most one more is waited for by all who have come since, however many they are and
however fast the log moves. A further page is fixed by its position, and suits everybody.

A reading ends with the last subscription that waits for it: its task is cancelled, and with it the
slices it still wanted, its place in the queue for a thread, and the statement that SQLite runs.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple

from kalam_notify.budget import Budget, Owner, Slots, Steps
from kalam_notify.delivery.payload import MAX_MESSAGE_BYTES, FrameSet, RowEncoder
from kalam_notify.errors import LogUnavailable
from kalam_notify.log.base import EventLog
from kalam_notify.model import Row
from kalam_notify.protocol.messages import batch_body
from kalam_notify.store.base import Page, PageRequest
from kalam_notify.subscriptions.plans import Plan, SubscriptionHandle

# Encoded rows sent in one message: the rest of the message (ids, batch_control) has to fit beside.
_PAGE_BYTES = MAX_MESSAGE_BYTES - 8 * 1024
# What is read at once where a filter has to be asked.
_CHUNK_ROWS = 512
_CHUNK_BYTES = 256 * 1024
_READERS = 3
# First pages kept for those who have asked for them, but have not had their turn yet.
_KEPT_BYTES = 8 * 1024 * 1024

Found = tuple[int, Row]


# A log that cannot be read for a while: everybody who reads it waits, longer each time.
_FIRST_WAIT = 0.05
_LONGEST_WAIT = 5.0
_log = logging.getLogger("kalam_notify.catchup")


class ReadFaults:
    """What has gone wrong since a read last succeeded."""

    def __init__(self) -> None:
        self._wait = 0.0
        # Why the log cannot be read at the moment; None: it can, for all that is known.
        self.reason: str | None = None

    def met(self, fault: LogUnavailable) -> float:
        """A read has failed; the seconds to wait before the next attempt."""
        if self.reason is None:
            _log.error("%s; catching up waits for it", fault)
        self.reason = str(fault)
        self._wait = min(max(2 * self._wait, _FIRST_WAIT), _LONGEST_WAIT)
        return self._wait

    def over(self) -> None:
        """A read has succeeded."""
        if self.reason is not None:
            _log.warning("the log can be read again")
            self.reason, self._wait = None, 0.0


class FilterFailed(Exception):
    """A filter's evaluation raised, which is the cause."""


class PageKey(NamedTuple):
    """What makes pages equal. `as_of` None: a first page, of now."""

    plan: Plan
    limit: int
    after: int
    as_of: int | None


class EncodedPage:
    """Rows of one page, ready to be sent; equal subscriptions are sent the same one."""

    __slots__ = ("_frames", "_rows", "as_of", "has_more", "last_seq", "number")

    def __init__(self, as_of: int, last_seq: int, rows: Sequence[bytes], *, has_more: bool) -> None:
        self.as_of = as_of
        # Of a first page: how many had been begun before it.
        self.number = 0
        # `_seq` of the last row; where there is none, the position the page began after.
        self.last_seq = last_seq
        self.has_more = has_more
        self._rows = rows
        self._frames: dict[int, FrameSet] = {}

    @property
    def size(self) -> int:
        """About as many bytes as the page and its frames take."""
        return 1024 + 2 * sum(map(len, self._rows))

    def frames(self, control: Mapping[str, Any]) -> FrameSet:
        """The page as an `initial_data_batch`, made once for each place in a snapshot."""
        number = control["batch_num"]
        frames = self._frames.get(number)
        if frames is None:
            body = batch_body(self._rows, control)
            frames = self._frames[number] = FrameSet(
                [body], len(self._rows), [control["last_seq_id"]]
            )
        return frames


class KeptPages:
    """The latest first page of each kind, the newest `_KEPT_BYTES` of them (at least one)."""

    def __init__(self) -> None:
        self._pages: dict[PageKey, EncodedPage] = {}
        self._size = 0

    def get(self, key: PageKey) -> EncodedPage | None:
        return self._pages.get(key)

    def put(self, key: PageKey, page: EncodedPage) -> None:
        self._drop(key)
        self._pages[key] = page
        self._size += page.size
        while self._size > _KEPT_BYTES and len(self._pages) > 1:
            self._drop(next(iter(self._pages)))

    def _drop(self, key: PageKey) -> None:
        dropped = self._pages.pop(key, None)
        if dropped is not None:
            self._size -= dropped.size


class Reading:
    """One page being read, and the subscriptions that wait for it."""

    __slots__ = ("_on_left", "_task", "handles", "key")

    def __init__(self, key: PageKey, on_left: "Callable[[Reading], None]") -> None:
        self.key = key
        # Told when the last one leaves.
        self._on_left = on_left
        self.handles: dict[SubscriptionHandle, None] = {}
        # None until it may begin.
        self._task: asyncio.Task[None] | None = None

    def begin(self, task: "asyncio.Task[None]") -> None:
        self._task = task

    def add(self, handle: SubscriptionHandle) -> None:
        self.handles[handle] = None
        handle.undertaking = self

    def leave(self, handle: SubscriptionHandle) -> None:
        """A subscription waits no more; with the last one the reading ends."""
        self.handles.pop(handle, None)
        handle.undertaking = None
        if not self.handles and self._task is not None:
            self._on_left(self)
            self._task.cancel()


class Pages:
    """Reads pages. `deliver` is given each one, or the fault met, with those who wait for it."""

    def __init__(
        self,
        log: EventLog,
        budget: Budget,
        spawn: Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"],
        deliver: Callable[[Reading, "EncodedPage | Exception"], None],
    ) -> None:
        self._log = log
        self._budget = budget
        self._spawn = spawn
        self._deliver = deliver
        self._slots = Slots(_READERS)
        # First pages begun so far.
        self.begun = 0
        self._kept = KeptPages()
        self._readings: dict[PageKey, Reading] = {}
        # First pages that begin when the one of the same key is over.
        self._next: dict[PageKey, Reading] = {}

    def ask(self, handle: SubscriptionHandle, key: PageKey) -> None:
        """Have a page delivered to a handle."""
        if key not in self._readings:
            reading = Reading(key, self._over)
            reading.add(handle)
            self._begin(reading)
        elif key.as_of is not None:
            self._readings[key].add(handle)
        else:
            self._next.setdefault(key, Reading(key, self._over)).add(handle)

    def known(self, handle: SubscriptionHandle, key: PageKey) -> EncodedPage | None:
        """A first page that was read for others, where it is as good as one read now."""
        page = self._kept.get(key)
        if page is None or page.number >= handle.asked:
            return page
        is_current = not self._log.is_shared and page.as_of >= self._log.last_seq
        return page if is_current else None

    def _begin(self, reading: Reading) -> None:
        self._readings[reading.key] = reading
        payer = next(iter(reading.handles)).payer
        reading.begin(self._spawn(self._run(reading, payer)))

    async def _run(self, reading: Reading, payer: Owner) -> None:
        outcome: EncodedPage | Exception
        try:
            outcome = await self._read(reading.key, payer)
        except Exception as fault:
            outcome = fault
        finally:
            self._over(reading)
        self._deliver(reading, outcome)

    def _over(self, reading: Reading) -> None:
        """Nobody is to join it any more, and the next reading of the same page may begin."""
        if self._readings.get(reading.key) is not reading:
            return
        del self._readings[reading.key]
        waiting = self._next.pop(reading.key, None)
        if waiting is not None and waiting.handles:
            self._begin(waiting)

    async def _read(self, key: PageKey, payer: Owner) -> EncodedPage:
        number = self.begun
        if key.as_of is None:
            self.begun += 1
        filling = _Filling(key)
        while filling.page is None:
            async with self._slots.hold(payer):
                chunk = await self._log.page(filling.request())
            await self._budget.do(filling.take(chunk), payer, key.plan)
        filling.page.number = number
        if key.as_of is None:
            self._kept.put(key, filling.page)
        return filling.page

    async def seek(self, plan: Plan, payer: Owner, count: int) -> tuple[int, int]:
        """Where the newest `count` matching rows begin: as of which position, after which seq.

        Looks back over twice as many rows each time, until enough of them match.
        """
        if plan.filter.matches_all:
            return await self._newest(plan, payer, count)
        wanted = max(2 * count, _CHUNK_ROWS)
        as_of, after = await self._newest(plan, payer, wanted)
        upto, known = as_of, list[int]()
        while True:
            known = await self._matching(plan, payer, as_of, after, upto) + known
            if len(known) >= count:
                return as_of, known[-count] - 1
            wanted, upto = 2 * wanted, after
            if upto > 0:
                _, after = await self._newest(plan, payer, wanted)
            if upto <= 0 or after >= upto:
                return as_of, after

    async def _newest(self, plan: Plan, payer: Owner, count: int) -> tuple[int, int]:
        async with self._slots.hold(payer):
            return await self._log.newest(plan.table, plan.owner, None, count, plan.filter.hints)

    async def _matching(
        self, plan: Plan, payer: Owner, as_of: int, after: int, upto: int
    ) -> list[int]:
        """The seqs of the matching rows after one seq and up to another."""
        seqs: list[int] = []
        filling = _Filling(PageKey(plan, _CHUNK_ROWS, after, as_of))
        has_more = after < upto
        while has_more:
            async with self._slots.hold(payer):
                chunk = await self._log.page(filling.request())
            await self._budget.do(filling.look_at(chunk, upto, seqs), payer, plan)
            has_more = chunk.has_more and chunk.rows[-1][0] < upto
        return seqs


class _Filling:
    """A page while chunks of rows are filtered into it."""

    def __init__(self, key: PageKey) -> None:
        self._plan, self._limit, self._after, self._as_of = key
        # Up to where rows have been read.
        self._read = key.after
        self._rows: list[bytes] = []
        self._last_seq = key.after
        self._size = 0
        self._chunk_rows = min(max(2 * self._limit, 32), _CHUNK_ROWS)
        self.page: EncodedPage | None = None

    def request(self) -> PageRequest:
        """The next chunk: all there is room for, or as many as are worth filtering at once."""
        plan = self._plan
        takes_all = plan.filter.matches_all
        limit = self._limit if takes_all else self._chunk_rows
        self._chunk_rows = min(2 * self._chunk_rows, _CHUNK_ROWS)
        return PageRequest(
            table=plan.table,
            owner=plan.owner,
            matches=None,
            after=self._read,
            as_of=self._as_of,
            limit=limit,
            max_bytes=_PAGE_BYTES if takes_all else _CHUNK_BYTES,
            hints=plan.filter.hints,
        )

    def take(self, chunk: Page) -> Steps[None]:
        """Filter and encode a chunk; the page is there when it is full or nothing follows."""
        self._as_of = chunk.as_of
        encoder = RowEncoder(self._plan.table, self._plan.projection)
        for seq, row in chunk.rows:
            self._read = seq
            if self._matches(row) and not self._add(seq, encoder.project(row, seq)):
                return
            row.forget()
            yield
        if not chunk.has_more:
            self._end(has_more=False)
        elif self._plan.filter.matches_all:
            self._end(has_more=True)

    def look_at(self, chunk: Page, upto: int, seqs: list[int]) -> Steps[None]:
        """Filter a chunk for the seqs of matching rows only, as far as `upto`."""
        for seq, row in chunk.rows:
            if seq > upto:
                return
            self._read = seq
            if self._matches(row):
                seqs.append(seq)
            row.forget()
            yield

    def _matches(self, row: Row) -> bool:
        if self._plan.filter.matches_all:
            return True
        try:
            return self._plan.filter.matches(row.values)
        except Exception as error:
            raise FilterFailed from error

    def _add(self, seq: int, encoded: bytes) -> bool:
        """Put a row into the page; False: it is the next page's."""
        if self._rows and (
            len(self._rows) >= self._limit or self._size + len(encoded) + 1 > _PAGE_BYTES
        ):
            self._end(has_more=True)
            return False
        self._rows.append(encoded)
        self._size += len(encoded) + 1
        self._last_seq = seq
        return True

    def _end(self, *, has_more: bool) -> None:
        assert self._as_of is not None
        self.page = EncodedPage(self._as_of, self._last_seq, self._rows, has_more=has_more)
