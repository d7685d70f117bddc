"""The budget: whose turn it is, when the next slice is due, and who may use what is scarce.

Whose turn it is: deficit round robin by measured time, between owners and then their lanes.

An owner is whoever work is done for: a user, or a connection without one. Each time it comes round
it may use a quantum of time. What it uses beyond that (a step cannot be cut) is a debt, and it is
passed over until enough quanta have come round to repay it; so one filter that takes 600 ms on one
row costs its owner 600 ms, not the others. Within an owner the lanes (its connections) take turns,
within a lane its works.

Who asks for little should not wait for those who ask for much. So owners that come with work after
having had none are served first, for one quantum, then stand in line (the new and old flows of
FQ-CoDel, RFC 8290); of every four quanta one goes to the line all the same. A debt outlives the
work it came from: it is repaid by quanta or, while there is nothing to do, by time.

Invariant: an owner is in exactly one of `_new` and `_old` while it has work, and in none otherwise.
Invariant: what a step raises reaches whoever handed the work in, and nobody else.

When the next slice is due: the scheduler on an event loop.

One slice, then the loop turns, so that sockets, timers and the fan-out come between any two. While
a change is on its way to its subscribers (`gives_way_to`), slices are further apart as well: the
threads that store it need the interpreter, which a busy loop does not let go of, and each of a
change's steps through the loop would wait for a slice. After a step that took longer than a slice
should, the loop is left alone for as long as that took.

Work that comes while nothing else waits begins at once, in the turn it came in and before it stands
in any line, but for one slice a turn in all: most subscribes are done before their caller returns.

Who may use a scarce thing: a few slots, handed round between owners.

For what is not a step of the loop but keeps something for long, such as a thread that reads the
file. No owner has all the slots, however much it asks for, so the next one to come finds one or
waits for the first that is given back; those who wait take turns by owner.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Generator, Hashable, Sequence, Sized
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

T = TypeVar("T")

Owner = Hashable
Steps = Generator[None, None, T]
"""Work that may rest at every `yield`; its return value is the result."""

QUANTUM = 0.0005
"""Seconds: what an owner may use before the next one has its turn, and a slice of the loop's."""

_OLD_EVERY = 4
_MANY_DEBTS = 1024
_log = logging.getLogger("kalam_notify.budget")


def at_once(steps: Steps[T]) -> T:
    """Do work to its end without a rest."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: T = done.value
            return result


class Work(Generic[T]):
    """Work handed in: waiting or begun, until it is over by itself or cancelled."""

    __slots__ = (
        "_done",
        "_is_stepping",
        "_lane",
        "_steps",
        "error",
        "is_cancelled",
        "is_over",
        "result",
    )

    def __init__(self, steps: Steps[T], done: "Callable[[Work[T]], None] | None") -> None:
        self._steps = steps
        self._done = done
        self._lane: _Lane | None = None
        self._is_stepping = False
        self.is_over = False
        self.is_cancelled = False
        # What it came to: one of the two, once it is over by itself.
        self.result: T | None = None
        self.error: Exception | None = None

    def cancel(self) -> None:
        """Do no further step, and give up its place. Nobody is told. Safe to repeat."""
        if self.is_over:
            return
        self.is_over = self.is_cancelled = True
        self._leave()
        # A step that cancels its own work is closed when it has come to its rest.
        if not self._is_stepping:
            self._steps.close()

    def _leave(self) -> None:
        if self._lane is not None:
            self._lane.discard(self)
            self._lane = None

    def _step(self) -> bool:
        """Do one step; False when there is none left."""
        self._is_stepping = True
        try:
            next(self._steps)
        except StopIteration as stop:
            self.result = stop.value
        except Exception as error:
            self.error = error
        else:
            if self.is_cancelled:
                self._steps.close()
            return not self.is_over
        finally:
            self._is_stepping = False
        if not self.is_over:
            self._end()
        return False

    def _end(self) -> None:
        self.is_over = True
        if self._lane is not None:
            self._leave()
        try:
            if self._done is not None:
                self._done(self)
            elif self.error is not None:
                _log.error("work failed", exc_info=self.error)
        except Exception:
            _log.exception("what follows on work failed")


class _Lane:
    """The works of one lane of an owner, the next one first."""

    __slots__ = ("_account", "key", "works")

    def __init__(self, account: "_Account", key: Hashable) -> None:
        self._account = account
        self.key = key
        self.works: dict[Work[Any], None] = {}

    def discard(self, work: Work[Any]) -> None:
        del self.works[work]
        if not self.works:
            del self._account.lanes[self.key]
        self._account.scheduler.waiting -= 1

    def rotate(self, work: Work[Any]) -> None:
        """Behind the others with it, if it is still there."""
        if len(self.works) > 1 and work in self.works:
            del self.works[work]
            self.works[work] = None


class _Account:
    """An owner with work."""

    __slots__ = ("credit", "lanes", "owner", "scheduler")

    def __init__(self, scheduler: "Scheduler", owner: Owner, credit: float) -> None:
        self.scheduler = scheduler
        self.owner = owner
        # Seconds it may still use; negative: what it has used beyond its quanta.
        self.credit = credit
        self.lanes: dict[Hashable, _Lane] = {}

    def put(self, work: Work[Any], key: Hashable) -> None:
        lane = self.lanes.get(key)
        if lane is None:
            lane = self.lanes[key] = _Lane(self, key)
        lane.works[work] = None
        work._lane = lane
        self.scheduler.waiting += 1

    def rotate(self, lane: _Lane) -> None:
        if len(self.lanes) > 1 and self.lanes.get(lane.key) is lane:
            del self.lanes[lane.key]
            self.lanes[lane.key] = lane


class Scheduler:
    """Work by owner and lane, served a slice at a time. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float], quantum: float = QUANTUM) -> None:
        self._clock = clock
        self._quantum = quantum
        self._accounts: dict[Owner, _Account] = {}
        self._new: deque[_Account] = deque()
        self._old: deque[_Account] = deque()
        self._turn = 0
        # Works that are not over.
        self.waiting = 0
        # Whether a slice is being done: none may be begun inside it.
        self.is_serving = False
        # Of owners without work: seconds owed, and as of when.
        self._debts: dict[Owner, tuple[float, float]] = {}

    def __bool__(self) -> bool:
        """Whether anything is waiting to be done."""
        return self.waiting > 0

    @property
    def owners(self) -> int:
        """How many have work."""
        return len(self._accounts)

    def put(
        self,
        steps: Steps[T],
        owner: Owner,
        lane: Hashable = None,
        done: Callable[[Work[T]], None] | None = None,
    ) -> Work[T]:
        """Take work in; `done` is told when it is over, unless it was cancelled."""
        work = Work(steps, done)
        account = self._accounts.get(owner)
        if account is None:
            owed = self._owed(owner)
            account = self._open(owner, -owed, self._old if owed else self._new)
        account.put(work, lane)
        return work

    def put_and_begin(
        self,
        steps: Steps[T],
        owner: Owner,
        lane: Hashable,
        done: Callable[[Work[T]], None] | None,
        seconds: float,
    ) -> tuple[Work[T], float]:
        """Take work in while nothing waits, and do the first of it: steps for about `seconds`.

        The time that it took is the second answer. What is over by then has stood in no line.
        """
        assert not self.waiting
        assert not self.is_serving
        work = Work(steps, done)
        clock = self._clock
        began = now = clock()
        self.is_serving = True
        try:
            while work._step():
                now = clock()
                if now - began >= seconds:
                    break
            else:
                now = clock()
        finally:
            self.is_serving = False
        used = now - began
        if not work.is_over:
            credit = self._quantum - used - self._owed(owner)
            # Its step may have handed in more work of the same owner's.
            account = self._accounts.get(owner)
            if account is None:
                account = self._open(owner, credit, self._new if credit > 0 else self._old)
            else:
                account.credit -= used
            account.put(work, lane)
        elif used > self._quantum:
            self._charge(owner, used - self._quantum)
        return work, used

    def _open(self, owner: Owner, credit: float, queue: "deque[_Account]") -> _Account:
        account = self._accounts[owner] = _Account(self, owner, credit)
        queue.append(account)
        return account

    def serve(self, seconds: float | None = None) -> None:
        """Do one slice: steps for about `seconds` (a quantum), never less than one step."""
        assert not self.is_serving
        clock = self._clock
        until = clock() + (self._quantum if seconds is None else seconds)
        self.is_serving = True
        try:
            while (account := self._next()) is not None:
                self._use(account, until)
                if clock() >= until:
                    return
        finally:
            self.is_serving = False

    def _next(self) -> _Account | None:
        """Who is served next, at the front of its queue; None: nobody has work."""
        passed = 0
        while queue := self._queue(passed):
            account = queue[0]
            if not account.lanes:
                queue.popleft()
                self._close(account)
            elif account.credit > 0:
                return account
            elif passed > len(self._old) + len(self._new):
                self._forgive()
                passed = 0
            else:
                account.credit += self._quantum
                if account.credit <= 0:
                    passed += 1
                    queue.popleft()
                    self._old.append(account)
        return None

    def _queue(self, passed: int) -> deque[_Account]:
        """Whose turn it is; `passed`: how many were passed over already, for they owe."""
        if self._new and (self._turn % _OLD_EVERY or passed >= len(self._old)):
            return self._new
        return self._old

    def _forgive(self) -> None:
        """Everybody owes: as many rounds at once as it takes until one does not."""
        waiting = [*self._new, *self._old]
        least = max(account.credit for account in waiting)
        for account in waiting:
            account.credit += self._quantum - least

    def _use(self, account: _Account, until: float) -> None:
        """Let the owner at the front of its queue use its credit, or what is left of the slice.

        Never less than one step.
        """
        clock, before = self._clock, self._clock()
        until = min(until, before + account.credit)
        now = before
        while account.lanes:
            lane = next(iter(account.lanes.values()))
            work = next(iter(lane.works))
            while work._step():
                now = clock()
                if now >= until:
                    break
            else:
                now = clock()
            lane.rotate(work)
            account.rotate(lane)
            if now >= until:
                break
        account.credit -= now - before
        self._pass_on(account)

    def _pass_on(self, account: _Account) -> None:
        self._turn += 1
        queue = self._new if self._new and self._new[0] is account else self._old
        if not account.lanes:
            queue.popleft()
            self._close(account)
        elif account.credit <= 0:
            queue.popleft()
            self._old.append(account)

    # Debts

    def _close(self, account: _Account) -> None:
        del self._accounts[account.owner]
        if account.credit < 0:
            self._owe(account.owner, -account.credit)

    def _charge(self, owner: Owner, seconds: float) -> None:
        account = self._accounts.get(owner)
        if account is None:
            self._owe(owner, seconds + self._owed(owner))
        else:
            account.credit -= seconds

    def _owe(self, owner: Owner, seconds: float) -> None:
        if len(self._debts) >= _MANY_DEBTS:
            self._drop_repaid()
        self._debts[owner] = (seconds, self._clock())

    def _owed(self, owner: Owner) -> float:
        if owner not in self._debts:
            return 0.0
        seconds, since = self._debts.pop(owner)
        return max(0.0, seconds - (self._clock() - since))

    def _drop_repaid(self) -> None:
        now = self._clock()
        self._debts = {
            owner: debt for owner, debt in self._debts.items() if debt[0] > now - debt[1]
        }


_LONGEST_REST = 0.05
# What an event loop's timers can tell apart.
_SHORTEST_REST = 0.001


class Budget:
    """Does work handed in, a slice a turn of the event loop it was made on, while `run` runs."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        gives_way_to: Sequence[Sized] = (),
        quantum: float = QUANTUM,
    ) -> None:
        """`gives_way_to` are empty as long as no change is on its way to its subscribers."""
        self._gives_way_to = gives_way_to
        self._clock = clock
        self._quantum = quantum
        self._scheduler = Scheduler(clock, quantum)
        self._loop = asyncio.get_running_loop()
        self._wanted = asyncio.Event()
        # Seconds of work that may still begin at once, in the turn it comes in; and whether the
        # next turn makes it a whole quantum again. It does not while most of one is left: a call
        # back for every short request would have the loop turn twice as often.
        self._left = quantum
        self._is_refilled = False

    def enter(
        self,
        steps: Steps[T],
        owner: Owner,
        lane: Hashable = None,
        done: Callable[[Work[T]], None] | None = None,
    ) -> Work[T]:
        """Have work done; it may be over when this returns. `done` is told, unless cancelled."""
        scheduler = self._scheduler
        if scheduler.waiting or scheduler.is_serving or self._left <= 0:
            work = scheduler.put(steps, owner, lane, done)
        else:
            work, used = scheduler.put_and_begin(steps, owner, lane, done, self._left)
            self._left -= used
            if scheduler.waiting and self._left > 0:
                # What follows on it: more work that its steps have handed in.
                began = self._clock()
                scheduler.serve(self._left)
                self._left -= self._clock() - began
            if self._left < self._quantum / 2 and not self._is_refilled:
                self._is_refilled = True
                self._loop.call_soon(self._next_turn)
        if scheduler.waiting:
            self._wanted.set()
        return work

    async def do(self, steps: Steps[T], owner: Owner, lane: Hashable = None) -> T:
        """Have work done and wait for its result; cancelling the wait cancels the work."""
        over: asyncio.Future[T] = self._loop.create_future()

        def tell(work: Work[T]) -> None:
            if over.done():
                return
            if work.error is not None:
                over.set_exception(work.error)
            else:
                over.set_result(work.result)  # type: ignore[arg-type]

        work = self.enter(steps, owner, lane, tell)
        try:
            return await over
        finally:
            work.cancel()

    def _next_turn(self) -> None:
        self._left, self._is_refilled = self._quantum, False

    async def run(self) -> None:
        """Do what is handed in until cancelled."""
        while True:
            self._wanted.clear()
            if not self._scheduler:
                await self._wanted.wait()
            began = self._clock()
            self._scheduler.serve()
            await asyncio.sleep(self._rest(self._clock() - began))

    def _rest(self, used: float) -> float:
        """Seconds that the loop is left alone after a slice that took `used`; 0: one turn."""
        if used > 4 * self._quantum or any(self._gives_way_to):
            return min(max(used, _SHORTEST_REST), _LONGEST_REST)
        return 0.0


class Slots:
    """`count` slots, of which one owner holds at most all but one."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._most = max(count - 1, 1)
        self._held: Counter[Owner] = Counter()
        self._waiting: dict[Owner, deque[asyncio.Future[None]]] = {}

    @property
    def waiting(self) -> int:
        """How many wait for a slot."""
        return sum(map(len, self._waiting.values()))

    @asynccontextmanager
    async def hold(self, owner: Owner) -> AsyncIterator[None]:
        """A slot, from when there is one for this owner."""
        if self._free and self._held[owner] < self._most:
            self._take(owner)
        else:
            await self._wait(owner)
        try:
            yield
        finally:
            self._give_back(owner)

    def _take(self, owner: Owner) -> None:
        self._free -= 1
        self._held[owner] += 1

    async def _wait(self, owner: Owner) -> None:
        given: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(given)
        try:
            await given
        except asyncio.CancelledError:
            if given.done() and not given.cancelled():
                self._give_back(owner)
            else:
                self._forget(owner, given)
            raise

    def _forget(self, owner: Owner, given: "asyncio.Future[None]") -> None:
        queue = self._waiting.get(owner)
        if queue is not None and given in queue:
            queue.remove(given)
            if not queue:
                del self._waiting[owner]

    def _give_back(self, owner: Owner) -> None:
        self._free += 1
        self._held[owner] -= 1
        if not self._held[owner]:
            del self._held[owner]
        for waiting in [*self._waiting]:
            if not self._free:
                return
            if self._held[waiting] < self._most:
                self._hand_over(waiting)

    def _hand_over(self, owner: Owner) -> None:
        """To whoever of this owner has waited longest; the owner then stands behind the others."""
        queue = self._waiting.pop(owner)
        while queue:
            given = queue.popleft()
            if not given.done():
                self._take(owner)
                given.set_result(None)
                break
        if queue:
            self._waiting[owner] = queue
