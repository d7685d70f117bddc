"""Snapshot pages as encoded rows: what a LOADING subscription is sent."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from kalam_notify.delivery.frames import FrameSet
from kalam_notify.delivery.payload import MAX_MESSAGE_BYTES, RowEncoder
from kalam_notify.log.base import EventLog
from kalam_notify.protocol.messages import batch_body
from kalam_notify.singleflight import FreshCall, Singleflight
from kalam_notify.store.base import PageRequest
from kalam_notify.subscriptions.handle import Snapshot, SubscriptionHandle
from kalam_notify.subscriptions.plans import Plan

# Row JSON read for one page, and encoded rows sent in one message: the rest of the message
# (ids, batch_control) has to fit beside it.
_PAGE_BYTES = MAX_MESSAGE_BYTES - 8 * 1024

# First pages kept for those who have asked for them, but have not had their turn yet.
_KEPT_BYTES = 8 * 1024 * 1024

FirstPage = tuple[Plan, int]
"""What makes first pages equal: the plan, and how many rows are asked for."""


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
            frames = self._frames[number] = FrameSet([body], len(self._rows))
        return frames


class _KeptPages:
    """The latest page of each kind, the newest `_KEPT_BYTES` of them (at least one)."""

    def __init__(self) -> None:
        self._pages: dict[FirstPage, EncodedPage] = {}
        self._size = 0

    def get(self, key: FirstPage) -> EncodedPage | None:
        return self._pages.get(key)

    def put(self, key: FirstPage, page: EncodedPage) -> None:
        self._drop(key)
        self._pages[key] = page
        self._size += page.size
        while self._size > _KEPT_BYTES and len(self._pages) > 1:
            self._drop(next(iter(self._pages)))

    def _drop(self, key: FirstPage) -> None:
        dropped = self._pages.pop(key, None)
        if dropped is not None:
            self._size -= dropped.size


class Pages:
    """Reads pages, equal ones once.

    A first page is told as of the time when its reading began, and suits whoever asked before: it
    holds every change that was acknowledged until then, by whichever process. So of equal first
    pages one is being read and at most one more is waited for by all who have come since,
    however many they are and however fast the log moves. A further page is fixed by its position,
    and suits everybody.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        # First pages begun so far.
        self.begun = 0
        self._starts: dict[FirstPage, FreshCall[EncodedPage]] = {}
        # The latest of the first pages that were read.
        self._first = _KeptPages()
        self._flights: Singleflight[EncodedPage] = Singleflight()

    async def begin(self, handle: SubscriptionHandle) -> Snapshot:
        """Where a subscription's snapshot stands before its first page is read."""
        plan, options = handle.plan, handle.options
        assert options is not None
        wanted = None if options.from_seq is not None else options.last_rows
        if wanted is None and plan.table.is_keyed:
            return Snapshot(as_of=None, after=0)
        if not wanted:
            # Nothing to send: `last_rows: 0`, or a table of which no rows are kept.
            head = await self._log.latest()
            return Snapshot(as_of=head, after=head)
        matches = None if plan.filter.matches_all else plan.filter.matches
        as_of, after = await self._log.newest(
            plan.table, plan.owner, matches, wanted, plan.filter.hints
        )
        return Snapshot(as_of=as_of, after=after)

    async def read(self, handle: SubscriptionHandle, snapshot: Snapshot, limit: int) -> EncodedPage:
        """The page after `snapshot.after`; raises Compacted.

        A snapshot whose `as_of` is None has not been fixed to a position: its first page does it.
        """
        plan, after, as_of = handle.plan, snapshot.after, snapshot.as_of
        if as_of is None:
            return await self._read_first((plan, limit), handle.asked)
        if after >= as_of:
            return EncodedPage(as_of, after, (), has_more=False)
        return await self._flights.fetch(
            (plan, limit, after, as_of), lambda: self._read(plan, after, as_of, limit)
        )

    async def _read_first(self, key: FirstPage, asked: int) -> EncodedPage:
        known = self._first.get(key)
        if known is not None and known.number >= asked:
            return known
        if known is not None and known.as_of >= await self._log.latest():
            return known
        start = self._starts.get(key)
        if start is None:
            start = self._starts[key] = FreshCall(partial(self._start, key))
        try:
            return await start()
        finally:
            # Whoever waited for it comes by here: by now the next one may stand in its place.
            if start.is_idle and self._starts.get(key) is start:
                del self._starts[key]

    async def _start(self, key: FirstPage) -> EncodedPage:
        number, self.begun = self.begun, self.begun + 1
        plan, limit = key
        page = await self._read(plan, 0, None, limit)
        page.number = number
        self._first.put(key, page)
        return page

    async def _read(self, plan: Plan, after: int, as_of: int | None, limit: int) -> EncodedPage:
        page = await self._log.page(
            PageRequest(
                table=plan.table,
                owner=plan.owner,
                matches=None if plan.filter.matches_all else plan.filter.matches,
                after=after,
                as_of=as_of,
                limit=limit,
                max_bytes=_PAGE_BYTES,
                hints=plan.filter.hints,
            )
        )
        encoder = RowEncoder(plan.table, plan.projection)
        rows: list[bytes] = []
        last_seq, size = after, 0
        for seq, row in page.rows:
            encoded = encoder.project(row, seq)
            size += len(encoded) + 1
            if rows and size > _PAGE_BYTES:
                # A projection can be larger than the row: the rest is the next page's.
                return EncodedPage(page.as_of, last_seq, rows, has_more=True)
            rows.append(encoded)
            last_seq = seq
        return EncodedPage(page.as_of, last_seq, rows, has_more=page.has_more)
