"""The fan-out's circuit: every batch goes once around the live subscriptions of its plans.

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

Every subscription gets the batches in order. Invariant: at any place of a roster, what is left of
an earlier lap is also left of every later one, for laps of one plan move together, and a later one
has begun with its whole round before it.
"""

from collections import deque
from collections.abc import Callable, Sequence

from kalam_notify.delivery.batch import Batch
from kalam_notify.delivery.chunks import Visit
from kalam_notify.delivery.frames import FrameSet
from kalam_notify.subscriptions.plans import Plan

Send = Callable[[Sequence[Visit]], None]
"""Makes the visits of one chunk, all at once."""

# Bodies are copied for every length of a head; an idle server keeps none of them.
_MOST_JOINED = 16


class _Lap:
    """One batch's way around one plan's roster."""

    __slots__ = ("batch", "end", "frames", "left")

    def __init__(self, batch: Batch, frames: FrameSet, places: int) -> None:
        self.batch = batch
        self.frames = frames
        # Who has joined since has the batch behind it, and stands beyond this place.
        self.end = places
        # Places still to be visited.
        self.left = places


class _Track:
    """A plan's roster with the laps that are under way on it, the earliest first."""

    __slots__ = ("laps", "place", "plan")

    def __init__(self, plan: Plan, lap: _Lap) -> None:
        self.plan = plan
        self.place = 0
        self.laps = [lap]

    def stretch(self, most: int) -> tuple[Sequence[_Lap], int]:
        """The laps that go over the next places together, and how many places those are."""
        place, here = self.place, [lap for lap in self.laps if self.place < lap.end]
        if not here:
            self.place, place, here = 0, 0, self.laps.copy()
        # A lap ends where the roster ended when it began, and once around where it began.
        for lap in here:
            most = min(most, lap.end - place, lap.left)
        return here, most

    def advance(self, laps: Sequence[_Lap], places: int, over: list[tuple[Plan, Batch]]) -> None:
        """These laps go over so many places; those that have come around by that go into `over`."""
        self.place += places
        for lap in laps:
            lap.left -= places
            if not lap.left:
                self.laps.remove(lap)
                over.append((self.plan, lap.batch))


class Circuit:
    """Plans that have something under way, served in turn, a chunk each."""

    def __init__(self) -> None:
        self._tracks: dict[Plan, _Track] = {}
        self._queue: deque[_Track] = deque()
        # What laps have in common where they go together; plans that see the same share it.
        self._joined: dict[tuple[FrameSet, ...], FrameSet] = {}

    def __bool__(self) -> bool:
        """Whether anything is under way."""
        return bool(self._queue)

    def set_out(self, batch: Batch, frames: FrameSet, plan: Plan) -> None:
        """Send a batch's frames around a plan, from where its walk has come to."""
        batch.laps += 1
        lap = _Lap(batch, frames, plan.begin_walk())
        track = self._tracks.get(plan)
        if track is None:
            track = self._tracks[plan] = _Track(plan, lap)
            self._queue.append(track)
        else:
            track.laps.append(lap)

    def serve(self, chunk: int, served: int, send: Send) -> int:
        """Serve up to `chunk` places, of which `served` have been already; the new count."""
        queue, visits = self._queue, list[Visit]()
        over: list[tuple[Plan, Batch]] = []
        while queue:
            track, room = queue[0], chunk - served
            laps, places = track.stretch(chunk)
            if places > room:
                # Cut to what is left, unless that is too little to be worth a visit.
                if room < chunk // 4:
                    break
                places = room
            served += places
            plan, start = track.plan, track.place
            frames = laps[0].frames if len(laps) == 1 else self._together(laps)
            visits.append(Visit(plan, start, start + places, frames, laps[0].batch.after))
            track.advance(laps, places, over)
            if track.laps:
                queue.rotate(-1)
            else:
                queue.popleft()
                del self._tracks[plan]
        if visits:
            send(visits)
        for plan, batch in over:
            # Only now may places change.
            plan.end_walk()
            batch.laps -= 1
        if not queue:
            self._joined.clear()
        return served

    def _together(self, laps: Sequence[_Lap]) -> FrameSet:
        key = tuple([lap.frames for lap in laps])
        frames = self._joined.get(key)
        if frames is None:
            if len(self._joined) >= _MOST_JOINED:
                self._joined.clear()
            frames = self._joined[key] = FrameSet.joined(key)
        return frames
