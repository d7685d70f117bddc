"""Snapshot pages as encoded rows: what a LOADING subscription is sent."""

from collections.abc import Mapping, Sequence
from typing import Any

from kalam_notify.eventlog.base import EventLog, PageRequest
from kalam_notify.fanout.frames import FrameSet
from kalam_notify.fanout.payload import MAX_MESSAGE_BYTES, RowEncoder
from kalam_notify.fanout.stretches import SharedFlights
from kalam_notify.protocol.messages import batch_body
from kalam_notify.subscriptions.handle import Snapshot, SubscriptionHandle
from kalam_notify.subscriptions.plans import Plan

# Row JSON read for one page, and encoded rows sent in one message: the rest of the message
# (ids, batch_control) has to fit beside it.
_PAGE_BYTES = MAX_MESSAGE_BYTES - 8 * 1024


class EncodedPage:
    """Rows of one page, ready to be sent; equal subscriptions are sent the same one."""

    __slots__ = ("_frames", "_rows", "as_of", "has_more", "last_seq")

    def __init__(self, as_of: int, last_seq: int, rows: Sequence[bytes], *, has_more: bool) -> None:
        self.as_of = as_of
        # `_seq` of the last row; where there is none, the position the page began after.
        self.last_seq = last_seq
        self.has_more = has_more
        self._rows = rows
        self._frames: dict[int, FrameSet] = {}

    def frames(self, control: Mapping[str, Any]) -> FrameSet:
        """The page as an `initial_data_batch`, made once for each place in a snapshot."""
        number = control["batch_num"]
        frames = self._frames.get(number)
        if frames is None:
            body = batch_body(self._rows, control)
            frames = self._frames[number] = FrameSet([body], len(self._rows))
        return frames


class Pages:
    """Reads pages; equal ones that are asked for while one is being read are read once."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._flights: SharedFlights[EncodedPage] = SharedFlights()
        # The latest first page of each plan: good for as long as the log has not moved.
        self._first: dict[tuple[Plan, int], EncodedPage] = {}

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
        as_of, after = await self._log.newest(plan.table, plan.owner, matches, wanted)
        return Snapshot(as_of=as_of, after=after)

    async def read(self, plan: Plan, snapshot: Snapshot, limit: int) -> EncodedPage:
        """The page after `snapshot.after`; raises Compacted.

        A snapshot whose `as_of` is None has not been fixed to a position: its first page does it.
        """
        if snapshot.as_of is not None and snapshot.after >= snapshot.as_of:
            return EncodedPage(snapshot.as_of, snapshot.after, (), has_more=False)
        if snapshot.as_of is not None:
            return await self._read(plan, snapshot.after, snapshot.as_of, limit)
        # Whoever subscribes after an acknowledgement sees its row, whichever process gave it. So
        # a page is shared only by those for whom it stands at the log's end or beyond: the one
        # read last, or one being read since the log ended there.
        head = await self._log.latest()
        known = self._first.get((plan, limit))
        if known is not None and known.as_of >= head:
            return known
        key = (plan, limit, head)
        page = await self._flights.fetch(key, lambda: self._read(plan, 0, None, limit))
        self._first.clear()
        self._first[plan, limit] = page
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
