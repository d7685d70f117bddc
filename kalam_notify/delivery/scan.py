"""The fan-out's scan: every batch goes once around the live subscriptions of its plans.

A walk over thousands of sockets takes milliseconds, and the next change should not wait for its
end. So batches that are prepared while others are under way join them where they are, and go around
from there: the subscriptions that the walk comes to next are sent both in one write, and what lies
behind it gets the new batch when it comes round again.

            the walk
               v
    |..........+---------------|      batch 1 set out from the start
    |----------+...............|      batch 2 joined here: as much is before it as behind
     alone      together with 1

However many changes are posted, a subscription is visited once per round and handed all that waits
for it, and a change waits for a whole round at most. Databases share scans of a table in the same
way (circular or cooperative scans: Zukowski et al., VLDB 2007), and disks their seeks (SCAN).

Every subscription gets the batches in order. Invariant: at any slot of a live list, what is left of
an earlier pass is also left of every later one, for passes of one plan move together, and a later
one has begun with its whole round before it.
"""

from collections import deque
from collections.abc import Callable, Sequence

from kalam_notify.delivery.batch import Batch
from kalam_notify.delivery.chunks import Job
from kalam_notify.delivery.frames import FrameSet
from kalam_notify.subscriptions.plans import Plan

Send = Callable[[Sequence[Job]], None]
"""Makes the jobs of one chunk, all at once."""

# Bodies are copied for every length of a head; an idle server keeps none of them.
_MOST_JOINED = 16


class _Pass:
    """One batch's way around one plan's live list."""

    __slots__ = ("batch", "end", "frames", "left")

    def __init__(self, batch: Batch, frames: FrameSet, places: int) -> None:
        self.batch = batch
        self.frames = frames
        # Who has joined since has the batch behind it, and stands beyond this place.
        self.end = places
        # Places still to be visited.
        self.left = places


class _PlanScan:
    """A plan's live list with the passes that are under way on it, the earliest first."""

    __slots__ = ("passes", "place", "plan")

    def __init__(self, plan: Plan, one: _Pass) -> None:
        self.plan = plan
        self.place = 0
        self.passes = [one]

    def span(self, most: int) -> tuple[Sequence[_Pass], int]:
        """The passes that go over the next places together, and how many places those are."""
        place, here = self.place, [one for one in self.passes if self.place < one.end]
        if not here:
            self.place, place, here = 0, 0, self.passes.copy()
        # A pass ends where the list ended when it began, and once around where it began.
        for one in here:
            most = min(most, one.end - place, one.left)
        return here, most

    def advance(self, passes: Sequence[_Pass], places: int, over: list[tuple[Plan, Batch]]) -> None:
        """These passes go over so many places; those that end with that go into `over`."""
        self.place += places
        for one in passes:
            one.left -= places
            if not one.left:
                self.passes.remove(one)
                over.append((self.plan, one.batch))


class SharedScan:
    """Plans that have something under way, served in turn, a chunk each."""

    def __init__(self) -> None:
        self._scans: dict[Plan, _PlanScan] = {}
        self._queue: deque[_PlanScan] = deque()
        # What passes have in common where they go together; plans that see the same share it.
        self._joined: dict[tuple[FrameSet, ...], FrameSet] = {}

    def __bool__(self) -> bool:
        """Whether anything is under way."""
        return bool(self._queue)

    def join(self, batch: Batch, frames: FrameSet, plan: Plan) -> None:
        """Send a batch's frames around a plan, from where its walk has come to."""
        batch.passes += 1
        one = _Pass(batch, frames, plan.begin_scan())
        plan_scan = self._scans.get(plan)
        if plan_scan is None:
            plan_scan = self._scans[plan] = _PlanScan(plan, one)
            self._queue.append(plan_scan)
        else:
            plan_scan.passes.append(one)

    def serve(self, chunk: int, served: int, send: Send) -> int:
        """Serve up to `chunk` places, of which `served` have been already; the new count."""
        queue, jobs = self._queue, list[Job]()
        over: list[tuple[Plan, Batch]] = []
        while queue:
            plan_scan, room = queue[0], chunk - served
            passes, places = plan_scan.span(chunk)
            if places > room:
                # Cut to what is left, unless that is too little to be worth a job.
                if room < chunk // 4:
                    break
                places = room
            served += places
            plan, start = plan_scan.plan, plan_scan.place
            frames = passes[0].frames if len(passes) == 1 else self._together(passes)
            holds = any(plan in one.batch.holding for one in passes)
            jobs.append(Job(plan, start, start + places, frames, passes[0].batch.after, holds))
            plan_scan.advance(passes, places, over)
            if plan_scan.passes:
                queue.rotate(-1)
            else:
                queue.popleft()
                del self._scans[plan]
        if jobs:
            send(jobs)
        for plan, batch in over:
            # Only now may places change.
            plan.end_scan()
            batch.passes -= 1
        if not queue:
            self._joined.clear()
        return served

    def _together(self, passes: Sequence[_Pass]) -> FrameSet:
        key = tuple([one.frames for one in passes])
        frames = self._joined.get(key)
        if frames is None:
            if len(self._joined) >= _MOST_JOINED:
                self._joined.clear()
            frames = self._joined[key] = FrameSet.joined(key)
        return frames
