"""Feeding cohorts: everybody who is behind in one table, brought level together.

A lane holds the cohorts of one table (of one owner's part of a USER table). One span of the log
after a cohort's cursor is read once, goes once through an index of the members' filters, and is
made into messages once for all who see the same of it. What a member has no room for stays in the
log: it leaves with the position it has, and comes back when its socket has drained.

    standing at 100 --span--> standing at 356 --> ... --> at the fan-out's position --> LIVE
         ^ joined by whoever     ^ merged with whoever             |
           stands at 100           stands there already            +--> waiting, if demoted

A span ends at a round seq where it can, so that cohorts on different ways come to stand at the
same places, and merge. The hindmost and the one that has waited longest take turns: the first so
that cohorts merge instead of following each other, the second so that nobody waits for ever.

The lane of a table is the commons. Filters that cost much are fed in lanes of their payers; those
that are demoted (subscriptions/routing.py) never become LIVE, and wait at the head for the position
to move.

All of it is steps of the budget. A lane is work of the budget only while a cohort can go on: one
that waits for the file, for the fan-out or after a fault keeps nobody's place.

Invariant: between two spans a cohort is in `_standing` under its cursor; while one is handed out it
    is not, and nobody joins it. So whoever is a member at its end has seen all of it.
Invariant: a cohort with members is in `_standing` or `_served`.
Invariant: a handle becomes LIVE only in a step in which its cohort's cursor equals the position.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from kalam_notify.budget import Budget, Owner, Steps, Work
from kalam_notify.catchup.cohorts import Asking, Cohort
from kalam_notify.catchup.pages import ReadFaults
from kalam_notify.delivery.batch import Paths
from kalam_notify.delivery.payload import FrameSet
from kalam_notify.delivery.stats import FanoutStats
from kalam_notify.errors import Compacted, LogUnavailable
from kalam_notify.log.base import EventLog
from kalam_notify.model import Change, TableId
from kalam_notify.model import Owner as TableOwner
from kalam_notify.protocol import close
from kalam_notify.store.base import Span
from kalam_notify.subscriptions.plans import Plan, SubscriptionHandle

SPAN_BYTES = 256 * 1024
"""Row bytes of a span (at least one change): what one member is handed before it has to drain."""

_SPAN_CHANGES = 2_000
# Changes of other tables on the way, in memory.
_LOOKED_THROUGH = 4_000
_ROUND = 1024
_READ_LIMIT = 1_000
_log = logging.getLogger("kalam_notify.catchup")


class Surroundings(Protocol):
    """What lanes need of the feeder."""

    log: EventLog
    stats: FanoutStats
    budget: Budget
    faults: ReadFaults
    asking: Asking
    # The fan-out's; and whether a table is known not to have changed between a cursor and there.
    position: Callable[[], int]
    is_quiet: Callable[[TableId, TableOwner, int], bool]

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]: ...

    def wake(self, handle: SubscriptionHandle) -> None: ...

    def lane_waits(self, lane: "Lane") -> None:
        """Call `go` when the position has moved."""

    def lane_is_empty(self, lane: "Lane") -> None:
        """Nobody is behind in it any more."""


class LaneKey(NamedTuple):
    """A table, whose rows of it (SHARED: everybody's), and who pays; None: the commons."""

    table: TableId
    owner: TableOwner
    payer: Owner | None

    @classmethod
    def of(cls, handle: SubscriptionHandle) -> "LaneKey":
        """Where a subscription that is behind is fed."""
        plan = handle.plan
        payer = plan.node.payer if plan.node.is_heavy else None
        return cls(plan.table.id, plan.owner, payer)


class Lane:
    """The cohorts of a table, or of its demoted filters that one payer answers for."""

    def __init__(self, around: Surroundings, key: LaneKey) -> None:
        self.key = key
        self._around = around
        # Whose time it takes: the commons have an account of their own.
        self._payer: Owner = ("commons", key.table, key.owner) if key.payer is None else key.payer
        self._is_commons = key.payer is None
        self._standing: dict[int, Cohort] = {}
        # The cohort that is being taken on, or whose members move to another, or was the last to.
        self._served: Cohort | None = None
        # What is under way, and the work that it is once it has come to its first rest.
        self._is_going = False
        self._work: Work[None] | None = None
        self._spans = 0

    @property
    def size(self) -> int:
        """Subscriptions that are behind here, those between two places not counted."""
        return sum(cohort.size for cohort in self._standing.values())

    def join(self, handle: SubscriptionHandle) -> None:
        """Feed a handle that is CATCHING_UP from its cursor on."""
        cohort = self._standing.get(handle.cursor)
        if cohort is None:
            cohort = self._standing[handle.cursor] = Cohort(
                handle.cursor, self._deserted, self._around.asking.on_broken
            )
        cohort.add(handle)
        self.go()

    def go(self) -> None:
        """Something may be possible that was not before."""
        if self._is_going:
            return
        # Before it begins: its first steps may call this again.
        self._is_going = True
        work = self._around.budget.enter(self._run(), self._payer, self.key, self._rested)
        if not work.is_over:
            self._work = work

    def _rested(self, work: Work[None]) -> None:
        self._is_going, self._work = False, None
        if work.error is not None:
            _log.error("catching up in %s failed", self.key.table, exc_info=work.error)
            if self._served is not None:
                # Wherever it stood, or it would fail again and again.
                self._end(self._served, close.INTERNAL_FAULT)
            self.go()
        elif not self._standing:
            self._around.lane_is_empty(self)

    def _deserted(self) -> None:
        """The last member of a cohort has ended; with the last of all, what is under way ends."""
        served = self._served
        if any(cohort.size for cohort in self._standing.values()) or (served and served.size):
            return
        if self._work is not None:
            self._work.cancel()
            self._is_going = False
        self._work = self._served = None
        self._standing.clear()
        self._around.lane_is_empty(self)

    def _run(self) -> Steps[None]:
        while (cohort := self._next()) is not None:
            self._served = cohort
            if not cohort.size:
                self._standing.pop(cohort.cursor)
            elif cohort.cursor == self._around.position():
                yield from self._level(cohort)
            else:
                yield from self._advance(cohort)

    def _next(self) -> Cohort | None:
        """The hindmost cohort that can go on, or in its turn the one that came here first."""
        position = self._around.position()
        able = [cohort for cohort in self._standing.values() if self._can_go_on(cohort, position)]
        if not able:
            if self._standing:
                self._around.lane_waits(self)
            return None
        self._spans += 1
        if self._spans % 2:
            return able[0]
        return min(able, key=lambda cohort: cohort.cursor)

    def _can_go_on(self, cohort: Cohort, position: int) -> bool:
        if not cohort.size:
            return True
        if cohort.is_reading or cohort.cursor > position:
            return False
        return cohort.cursor < position or self._has_strangers(cohort)

    def _has_strangers(self, cohort: Cohort) -> bool:
        """At the head: whether anybody may leave, to be LIVE or for another lane."""
        return self._is_commons or any(not node.is_demoted for node in cohort.nodes)

    # At the head

    def _level(self, cohort: Cohort) -> Steps[None]:
        """Make the members LIVE, those of demoted filters apart, while the position stands."""
        for handle in cohort:
            if cohort.cursor != self._around.position():
                return
            if handle.undertaking is cohort and (self._is_commons or not _is_demoted(handle)):
                cohort.remove(handle)
                if _is_demoted(handle):
                    self._around.wake(handle)
                else:
                    handle.level()
            yield

    # On the way

    def _advance(self, cohort: Cohort) -> Steps[None]:
        """Hand the next span to everybody in the cohort."""
        span = cohort.span or self._recent(cohort)
        cohort.span = None
        if span is None:
            self._read(cohort)
            return
        del self._standing[cohort.cursor]
        paths, (table, owner, _) = Paths(), self.key
        for change in span.changes:
            if change.table == table and change.owner == owner:
                yield from self._route(cohort, change, paths)
                if not cohort.size:
                    break
        for frames, plans in paths.deliveries():
            yield
            yield from self._hand_out(cohort, frames, plans)
        cohort.cursor = span.upto
        yield from self._stand(cohort)

    def _route(self, cohort: Cohort, change: Change, paths: Paths) -> Steps[None]:
        routed = yield from self._around.asking.route(cohort, change)
        for node, seen in routed:
            for plan in node.plans:
                if plan in cohort.members:
                    paths.take(plan, change, seen)
        if not routed:
            # Decoded it takes several times the room, and it is rarely looked at again.
            _forget(change)
        yield

    def _hand_out(self, cohort: Cohort, frames: FrameSet, plans: Iterable[Plan]) -> Steps[None]:
        stats = self._around.stats
        for plan in plans:
            for handle in [*cohort.members.get(plan, ())]:
                if handle.undertaking is not cohort:
                    continue
                try:
                    sent = self._offer(cohort, handle, frames)
                except Exception:
                    _log.exception("feeding %s failed", handle.live_query_id)
                    cohort.remove(handle)
                    handle.sink.end(close.INTERNAL_FAULT)
                    continue
                if sent:
                    stats.deliveries += frames.row_count
                    stats.delivery_bytes += sent
                yield

    def _offer(self, cohort: Cohort, handle: SubscriptionHandle, frames: FrameSet) -> int:
        """The bytes that a member took; 0: its socket has to drain first, and it has left."""
        if handle.sink.has_room:
            data = frames.for_head(handle.head)
            if handle.sink.offer(data):
                return len(data)
        cohort.remove(handle)
        if handle.sink.has_room:
            # Drained in the meantime: nobody will say so again.
            self._around.wake(handle)
        return 0

    def _stand(self, cohort: Cohort) -> Steps[None]:
        """Stand at the cursor, with those who stand there already."""
        other = self._standing.setdefault(cohort.cursor, cohort)
        if other is cohort:
            return
        if other.size < cohort.size and not other.is_reading:
            self._standing[cohort.cursor] = cohort
            # It stands nowhere now, and still has members.
            self._served = cohort = other
        for handle in cohort:
            if handle.undertaking is cohort:
                cohort.remove(handle)
                self.join(handle)
            yield

    # What there is to hand out

    def _recent(self, cohort: Cohort) -> Span | None:
        """The next span out of memory, never beyond the position; None: it must be read.

        The fan-out may have read more from the file than memory has come to: there ends what is
        known here, not at the position.
        """
        log = self._around.log
        if self._around.is_quiet(self.key.table, self.key.owner, cohort.cursor):
            return Span((), self._around.position())
        position = min(self._around.position(), log.last_seq)
        held = log.recent(cohort.cursor, _LOOKED_THROUGH)
        if held is None or position <= cohort.cursor:
            return None
        changes, size = list[Change](), 0
        for change in held:
            if change.seq > position:
                return Span(changes, position)
            if change.table == self.key.table:
                changes.append(change)
                size += change.size
                if size >= SPAN_BYTES or len(changes) >= _SPAN_CHANGES:
                    return _rounded(Span(changes, change.seq), cohort.cursor)
        if len(held) < _LOOKED_THROUGH:
            return Span(changes, position)
        return Span(changes, held[-1].seq)

    def _read(self, cohort: Cohort) -> None:
        cohort.is_reading = True
        self._around.spawn(self._fetch(cohort))

    async def _fetch(self, cohort: Cohort) -> None:
        """Read the next span from the file; what goes wrong is waited out, or ends the members."""
        around = self._around
        try:
            span = await around.log.read(
                cohort.cursor,
                limit=_READ_LIMIT,
                max_bytes=SPAN_BYTES,
                table=self.key.table,
                owner=self.key.owner,
            )
        except Compacted:
            self._end(cohort, close.BEHIND_RETENTION)
        except LogUnavailable as fault:
            await asyncio.sleep(around.faults.met(fault))
        except Exception:
            _log.exception("reading %s to catch up failed", self.key.table)
            self._end(cohort, close.INTERNAL_FAULT)
        else:
            around.faults.over()
            cohort.span = _rounded(span, cohort.cursor) if span.changes else span
        cohort.is_reading = False
        self.go()

    def _end(self, cohort: Cohort, why: close.Close) -> None:
        for handle in cohort:
            if handle.undertaking is cohort:
                cohort.remove(handle)
                handle.sink.end(why)


def _is_demoted(handle: SubscriptionHandle) -> bool:
    return handle.plan.node.is_demoted


def _rounded(span: Span, after: int) -> Span:
    """The span up to a round seq, where there is one in it."""
    upto = span.upto - span.upto % _ROUND
    if upto <= after:
        return span
    changes: Sequence[Change] = [change for change in span.changes if change.seq <= upto]
    return Span(changes, upto)


def _forget(change: Change) -> None:
    if change.row is not None:
        change.row.forget()
    if change.old is not None:
        change.old.forget()
