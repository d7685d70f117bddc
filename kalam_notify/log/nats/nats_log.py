"""A node of a cluster: a log whose order is that of a stream on NATS JetStream.

    append --> Publisher --> stream --> Tail --> Applier (thread) --commit--> report --> event loop
                                                                                |
                 the post is answered <-- what its message came to <------------+

Every node publishes what is posted to it, and applies every message of the stream, its own ones
included, in the stream's order (`applying`). So all nodes have the same log without a leader of
their own. What is stored is what a quorum of the NATS servers has; this node's file is derived.

Where several workers share a node's file, the one that holds `applier.lock` reads the stream and
applies it; the others follow the file, and publish on connections of their own.

On every connection it is first found out whether the stream is still the one that was applied
(`_fence`): it may have been made anew, have lost its end (a power failure of servers that do not
sync, an older backup), or have been trimmed while this node was away. Such a node copies the file
of another node that goes on with the stream. Where none does, and the stream lost its end but
reaches back to its beginning, the node replays it. Else it stands still until an operator decides.
Where seqs that were told could be given again, an `Epoch` lets them go on behind all of them:
clients begin anew, with a snapshot.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import random
import sqlite3
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from kalam_notify.errors import LogFault, LogUnavailable, StorageFault
from kalam_notify.log.nats.applier import Applier, Messages, Progress, Report, Stuck, Task
from kalam_notify.log.nats.applying import (
    NodeState,
    answers_to,
    applied_message,
    prepare_state,
    read_state,
    set_created,
)
from kalam_notify.log.nats.copying import fetch_snapshot
from kalam_notify.log.nats.faults import (
    Astray,
    CopyFailed,
    CopyFault,
    NoAnswer,
    NoStream,
    StreamFault,
    Trimmed,
    WrongLast,
)
from kalam_notify.log.nats.link import Link, StreamInfo, StreamMessage
from kalam_notify.log.nats.message import MID_HEADER, Epoch, Seen, Sync, Trim, TrimStep
from kalam_notify.log.nats.offering import SnapshotServer
from kalam_notify.log.nats.publisher import Publisher
from kalam_notify.log.nats.tail import Tail
from kalam_notify.log.stored import WINDOW_BYTES, StoredLog, weight
from kalam_notify.log.writing import IndexOrder, Probe, Recovered
from kalam_notify.model import PostedChange
from kalam_notify.model.sourced import SourceMark, SourceState
from kalam_notify.singleflight import FreshCall
from kalam_notify.store import schema
from kalam_notify.store.base import Appended
from kalam_notify.store.catalog import refuse_unfit, stored_tables
from kalam_notify.store.files import LogFiles
from kalam_notify.store.retention import TRIM_SECONDS, AgeClass, Retention, age_classes
from kalam_notify.store.soundness import check
from kalam_notify.store.sourced import source_states, source_version
from kalam_notify.store.storing import NOTHING, Posting
from kalam_notify.store.trimming import Due, Edges, due_by_age, due_by_bytes, edges

LOCK_NAME = "applier.lock"

ROOM_BYTES = 8 * 1024 * 1024
"""So much may wait for the applier before no more is asked for."""

_LOOK_SECONDS = 1.0
_RETRY_SECONDS = 1.0
_LEVEL_SECONDS = 10.0
_TRIM_ENTRIES = 10_000
_TRIM_STEPS = 8

_logger = logging.getLogger(__name__)

T = TypeVar("T")


class Parted(LogFault):
    """The file of a node and the stream do not go together, and why.

    `owes_epoch`: seqs that this node has told may be given again. `can_replay`: the stream reaches
    back to its beginning, and is the one that this node has applied.
    """

    def __init__(self, reason: str, *, owes_epoch: bool = False, can_replay: bool = False) -> None:
        super().__init__(reason)
        self.owes_epoch = owes_epoch
        self.can_replay = can_replay


class NatsLog(StoredLog):
    """An EventLog that all nodes of a cluster share. `link` is not connected yet.

    `clock` gives Unix time in seconds; retention is told by it, and the life of a new stream. How
    long a post waits for its outcome is `append_timeout` seconds; after `stale_after` seconds
    without the stream the node is not ready, after `close_clients_after` its clients are sent away.
    A new stream's log begins after `begin` (None: at the time in microseconds).
    """

    def __init__(
        self,
        path: Path,
        link: Link,
        *,
        retention: Retention | None = None,
        window_bytes: int = WINDOW_BYTES,
        trim_seconds: float = TRIM_SECONDS,
        clock: Callable[[], float] = time.time,
        append_timeout: float = 15.0,
        stale_after: float = 15.0,
        close_clients_after: float = 60.0,
        begin: int | None = None,
        snapshot_serving: bool = True,
    ) -> None:
        super().__init__(path, window_bytes)
        self.append_timeout = append_timeout
        self.stale_after = stale_after
        self.close_clients_after = close_clients_after
        # Seconds that the start waits for the stream; it goes on without.
        self.start_patience = 5.0
        self._link = link
        self._retention = retention or Retention()
        self._trim_seconds = trim_seconds
        self._clock = clock
        self._begin = begin
        self.snapshot_serving = snapshot_serving
        self._snapshots = SnapshotServer(link, self._make_snapshot, path.parent)
        self._copied_bytes = 0
        # Seqs that were told here may be given again unless the log goes on behind them.
        self._owes_epoch = False
        self._publisher = Publisher(
            link, self._declared, self._hear_stored, lambda: self.append_timeout
        )
        self._applier: Applier | None = None
        self._applier_ended: asyncio.Future[None] | None = None
        self._tail_hear: Callable[[int], object] = _ignore
        self._tail_wake: Callable[[], object] = _ignore
        self._tail_stop: Callable[[], object] = _ignore
        # How far the stream has been applied to the file, and what is known to be in the stream.
        self._state = NodeState(link.stream, "", 0, 0, 0)
        self._waiting_sizes: deque[int] = deque()
        self._waiting_size = 0
        self._heard = 0
        self._applied_more = asyncio.Event()
        # Whether everything that was in the stream at the first connection has been applied.
        self._is_level = False
        # Why this node cannot go on with the stream: for as long as this process lives, or until it
        # has found its way back.
        self._broken: str | None = None
        self._parted: str | None = None
        self._disagreements = 0
        self._disagreement: str | None = None
        self._away_since: float | None = None
        self._heads = FreshCall(self._ask_head)
        self._walked: dict[AgeClass, int] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._is_rung = asyncio.Event()
        self._follower.on_ring = self._rung

    # -- life ------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        # The file is derived: an older copy of it is as good, and no mark says that it is not.
        schema.prepare(self._path, heeds_mark=False)
        connection = schema.open_writer(self._path, "os")
        try:
            prepare_state(connection, self._link.stream)
        except ValueError as fault:
            raise StorageFault(
                f"{self._path}: {fault}; start with another data_dir, or name that stream"
            ) from fault
        finally:
            connection.close()

    async def _begin_writing(self) -> None:
        self._away_since = self._loop.time()
        await self._link.start()

    async def start(self) -> None:
        await super().start()
        self._state = await self._pool.run(read_state)
        self._tasks = [
            asyncio.create_task(self._publisher.run(), name="publisher"),
            asyncio.create_task(self._lead(), name="applier"),
            asyncio.create_task(self._watch_link(), name="link"),
            asyncio.create_task(self._follow_file(), name="answers"),
        ]
        # Whoever starts to follow the log from here begins at its end, if that can be had.
        give_up = self._loop.time() + self.start_patience
        while not self._is_level and self._standstill is None and self._loop.time() < give_up:
            await self._more_applied(0.05)

    async def _end_writing(self) -> None:
        await self._drain()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._publisher.close()
        await self._link.close()

    async def _drain(self) -> None:
        """Let what was posted be answered, while there is hope."""
        give_up = self._loop.time() + self.append_timeout
        while self._pending.waiting_bytes and self._loop.time() < give_up:
            if not self._link.is_connected:
                return
            await self._more_applied(0.2)

    def _indexes_changed(self) -> None:
        if self._applier is not None:
            self._applier.put(IndexOrder())

    def _probe(self) -> None:
        if self._applier is not None:
            self._applier.put(Probe())

    # -- the one that applies --------------------------------------------------------------------

    async def _lead(self) -> None:
        """Wait for the lock, then read and apply the stream for as long as this process lives."""
        descriptor = os.open(self._path.parent / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o640)
        try:
            while not _try_lock(descriptor):
                await self._more_applied(0.2)
            await self._apply_stream()
        finally:
            await self._stop_applier()
            os.close(descriptor)

    async def _apply_stream(self) -> None:
        await self._start_applier()
        upkeep = asyncio.create_task(self._look_after(), name="log retention")
        try:
            while True:
                await self._link.wait_connected()
                try:
                    await self._fence()
                    await self._read_stream()
                except NoAnswer as fault:
                    _logger.debug("the stream does not answer: %s", fault)
                    await asyncio.sleep(random.uniform(0.02, 0.2))
                except (Trimmed, Astray) as fault:
                    _logger.warning("%s; looking at the stream anew", fault)
                    await asyncio.sleep(_RETRY_SECONDS)
                except Parted as fault:
                    await self._rejoin(fault)
                except StorageFault as fault:
                    self._stand_still(str(fault))
                    await asyncio.sleep(_RETRY_SECONDS)
                except (StreamFault, LogUnavailable) as fault:
                    _logger.warning("the stream cannot be read: %s", fault)
                    await asyncio.sleep(_RETRY_SECONDS)
        finally:
            upkeep.cancel()
            await asyncio.gather(upkeep, return_exceptions=True)
            await self._snapshots.stop()

    async def _start_applier(self) -> None:
        self._applier_ended = self._loop.create_future()
        applier = Applier(
            self._link.stream,
            # What the disk loses, the stream has: a commit need not wait for it.
            lambda: schema.open_writer(self._path, "os"),
            self._files,
            self._path.parent,
            self._declared,
            self._report,
            self._soundness.met,
        )
        await asyncio.to_thread(applier.start)
        self._state = applier.state
        self._applier = applier
        applier.put(IndexOrder())

    async def _stop_applier(self) -> None:
        if self._applier is None or self._applier_ended is None:
            return
        self._applier.stop()
        await self._applier_ended
        self._applier.join()
        self._applier = None

    async def _fence(self) -> None:
        """Is the stream the one that this file was made of? Raises what stands in the way."""
        # Everything that was taken has to be applied before the file is compared.
        await self._settle()
        state = self._state
        if not state.created:
            await self._begin_with(await self._link.ensure_stream())
            return
        try:
            info = await self._link.info()
        except NoStream as fault:
            raise StorageFault(
                f"{fault}, but this node has applied it up to message {state.applied}: {_CURE}"
            ) from fault
        if self._disagreement is not None:
            raise Parted(self._disagreement, owes_epoch=True)
        await self._compare(info)
        self._hear(info.last_seq)
        self._parted = None

    async def _compare(self, info: StreamInfo) -> None:
        """Raise Parted unless the stream goes on where this file ends."""
        state, name = self._state, self._link.stream
        if info.created != state.created:
            raise Parted(
                f"the stream {name} was made anew: it is not the one that this node has applied"
            )
        is_whole = info.first_seq <= 1
        if info.last_seq < state.applied:
            raise Parted(
                f"the stream {name} ends at message {info.last_seq}, having lost its end: this"
                f" node has applied it up to message {state.applied}",
                owes_epoch=True,
                can_replay=is_whole,
            )
        if info.first_seq > state.applied + 1:
            raise Parted(
                f"the stream {name} begins at message {info.first_seq}, and this node has been away"
                f" since message {state.applied}"
            )
        known = await self._pool.run(applied_message, state.applied)
        if known is None or known.seq < info.first_seq:
            return
        theirs = await self._link.message(known.seq)
        mid = None if theirs is None else (theirs.headers or {}).get(MID_HEADER)
        if theirs is None or mid != known.mid or theirs.at != known.at:
            raise Parted(
                f"message {known.seq} of the stream {name} is not the one that was applied here",
                owes_epoch=True,
                can_replay=is_whole,
            )

    async def _rejoin(self, parted: Parted) -> None:
        """Come back to the stream with another file: another node's, or an empty one."""
        if self._parted is None:
            _logger.warning("%s", parted)
        self._is_level = False
        await self._snapshots.stop()
        into = self._path.with_suffix(".copy")
        try:
            await fetch_snapshot(self._link, into)
            await asyncio.to_thread(self._examine, into)
        except CopyFault as fault:
            if not parted.can_replay:
                self._stand_still(f"{parted}; {fault}; {_CURE}")
                await asyncio.sleep(_RETRY_SECONDS)
                return
            await asyncio.to_thread(into.unlink, missing_ok=True)
            await asyncio.to_thread(self._prepare_empty, into)
            _logger.warning("the stream is replayed from its beginning")
        else:
            self._copied_bytes += into.stat().st_size
        await self._take_over(into)
        self._owes_epoch |= parted.owes_epoch
        self._disagreement = None

    def _examine(self, copy: Path) -> None:
        """Raise CopyFailed unless the file is sound, and a node's of this stream."""
        try:
            connection = schema.open_writer(copy, "os")
            try:
                fault = check(connection)
                prepare_state(connection, self._link.stream)
            finally:
                connection.close()
        except (sqlite3.Error, ValueError) as found:
            fault = str(found)
        if fault is not None:
            copy.unlink(missing_ok=True)
            raise CopyFailed(f"the copy of another node's file cannot be used: {fault}")

    def _prepare_empty(self, path: Path) -> None:
        schema.prepare(path, heeds_mark=False)
        connection = schema.open_writer(path, "os")
        try:
            prepare_state(connection, self._link.stream)
        finally:
            connection.close()

    async def _take_over(self, file: Path) -> None:
        """Go on with another file in the place of this node's own."""
        await self._stop_applier()
        self._pool.forget()
        await asyncio.to_thread(self._replace, file)
        self._files = LogFiles(self._path)
        self._walked.clear()
        self._broken = None
        await self._start_applier()
        await self._follower.begin_anew()

    def _replace(self, file: Path) -> None:
        # What belongs to the old file must not be found beside the new one.
        for suffix in ("-wal", "-shm"):
            Path(f"{self._path}{suffix}").unlink(missing_ok=True)
        for suffix in ("-wal", "-shm"):
            Path(f"{file}{suffix}").unlink(missing_ok=True)
        file.rename(self._path)

    async def _make_snapshot(self, path: Path) -> dict[str, Any]:
        """Put a copy of the file, as it is now, under a path."""
        await asyncio.to_thread(self._copy_file, path)
        return {"applied": self._state.applied, "epoch": self._state.epoch}

    def _copy_file(self, path: Path) -> None:
        connection = sqlite3.connect(self._path)
        try:
            connection.execute("VACUUM INTO ?", (str(path),))
        finally:
            connection.close()

    async def _begin_with(self, info: StreamInfo) -> None:
        """Nothing has been applied yet: begin with the beginning of this stream."""
        if info.first_seq > 1:
            raise Parted(
                f"the stream {self._link.stream} begins at message {info.first_seq}, and this node"
                " has nothing of what came before"
            )
        if info.last_seq == 0:
            with contextlib.suppress(WrongLast):
                await self._publish_epoch()
        await self._in_applier(lambda connection: set_created(connection, info.created))
        self._hear(info.last_seq)
        self._parted = None

    async def _publish_epoch(self) -> None:
        """The first message of the stream, or nothing where another node was first."""
        base = self._begin
        if base is None:
            base = min(int(self._clock() * 1_000_000), 2**52)
        message = Epoch(Seen(0, 0), 1, base)
        # Acknowledged is enough: it is applied when the stream is read.
        await self._publisher.publish_only(message, expected_last=0)

    async def _read_stream(self) -> None:
        tail = Tail(self._link, self._state.applied, self._take_messages, self._has_room)
        tail.hear(self._heard)
        reading = asyncio.create_task(tail.run(), name="tail")
        self._tail_hear, self._tail_wake, self._tail_stop = tail.hear, tail.wake, reading.cancel
        try:
            await asyncio.wait({reading})
            if not reading.cancelled():
                reading.result()
        finally:
            self._tail_hear, self._tail_wake, self._tail_stop = _ignore, _ignore, _ignore
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    def _take_messages(self, messages: Sequence[StreamMessage]) -> None:
        assert self._applier is not None
        self._waiting_sizes.append(len(messages))
        self._waiting_size += sum(len(message.data) for message in messages)
        self._hear(messages[-1].seq)
        self._applier.put(Messages(messages))

    def _has_room(self) -> bool:
        return self._waiting_size < ROOM_BYTES and self._standstill is None

    async def _settle(self) -> None:
        """Until the applier has done what it has been given."""
        await self._in_applier(lambda connection: None)
        self._waiting_size = 0

    async def _in_applier(self, work: Callable[[Any], T]) -> T:
        """What `work` gives in a transaction of the applier, behind all that it was given."""
        assert self._applier is not None
        applier, done = self._applier, self._loop.create_future()

        def tell(found: Any, fault: BaseException | None) -> None:
            self._loop.call_soon_threadsafe(self._settled, done, found, fault)

        applier.put(Task(work, tell))
        found: T = await done
        self._state = applier.state
        return found

    @staticmethod
    def _settled(done: asyncio.Future[Any], found: Any, fault: BaseException | None) -> None:
        if done.done():
            return
        if fault is None:
            done.set_result(found)
        else:
            done.set_exception(LogUnavailable(f"the file could not be written: {fault}"))

    def _report(self, report: Report) -> None:
        """In the applying thread."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._take_report, report)
        if isinstance(report, Progress):
            self._doorbell.ring_others()

    def _take_report(self, report: Report) -> None:
        match report:
            case Progress(applied=applied):
                self._append_fault = None
                self._waiting_size = max(0, self._waiting_size - report.size)
                self._state = self._state._replace(
                    applied=applied.upto, digest=applied.digest, epoch=applied.epoch
                )
                for group in applied.groups:
                    if group.changes is None:
                        self._follower.hear_of(group.last_seq)
                    else:
                        self._follower.advance(group.before, group.changes, group.sizes)
                if report.edges is not None:
                    self._follower.learn(report.edges)
                    self._follower.skip_to(applied.last_seq, report.edges.floor)
                for answer in applied.answers:
                    self._publisher.answered(answer)
                if applied.disagrees is not None:
                    self._disagreements += 1
                    self._disagreement = applied.disagrees
                    self._stand_still(applied.disagrees)
                    self._tail_stop()
                self._tail_wake()
                self._advanced()
            case Stuck(reason=reason, for_good=for_good):
                if for_good:
                    _logger.error("%s", reason)
                    self._broken = reason
                else:
                    self._append_fault = reason
            case Recovered():
                self._append_fault = None
            case None:
                if self._applier_ended is not None and not self._applier_ended.done():
                    self._applier_ended.set_result(None)

    @property
    def _standstill(self) -> str | None:
        return self._broken or self._parted

    def _stand_still(self, reason: str) -> None:
        if self._parted != reason:
            _logger.error("%s", reason)
        self._parted = reason

    def _advanced(self) -> None:
        self._applied_more.set()
        self._applied_more = asyncio.Event()

    # -- the others ------------------------------------------------------------------------------

    def _rung(self) -> None:
        """Another process has applied something: perhaps what was posted here."""
        self._is_rung.set()

    async def _follow_file(self) -> None:
        while True:
            await self._is_rung.wait()
            self._is_rung.clear()
            if self._applier is not None:
                continue
            with contextlib.suppress(LogUnavailable):
                # The answers first: what they are answers to is in the file by then.
                state = await self._pool.run(read_state)
                if mids := self._publisher.unanswered:
                    for answer in await self._pool.run(answers_to, mids):
                        self._publisher.answered(answer)
                self._state = state
                self._advanced()

    # -- edges -----------------------------------------------------------------------------------

    @property
    def is_shared(self) -> bool:
        return True

    async def latest(self, at_least: int = 0) -> int:
        """See EventLog.latest."""
        self._require_open()
        self._require_level()
        if self._link.is_connected:
            try:
                await self._applied_upto(await self._heads())
            except NoAnswer as fault:
                _logger.debug("where the stream ends is not known: %s", fault)
        found = await self._follower.look()
        if found < at_least:
            # An old leader may have answered, or the stream is out of reach: a message of our own
            # comes behind whatever was acknowledged before.
            await self._publisher.publish(Sync(self._seen()))
            found = await self._follower.look()
        return found

    async def _ask_head(self) -> int:
        return (await self._link.info(_LOOK_SECONDS)).last_seq

    async def _applied_upto(self, stream_seq: int) -> None:
        self._hear(stream_seq)
        give_up = self._loop.time() + _LEVEL_SECONDS
        while self._state.applied < stream_seq:
            left = give_up - self._loop.time()
            if left <= 0:
                raise LogUnavailable("this node is behind the stream")
            await self._more_applied(left)

    async def _more_applied(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._applied_more.wait()

    def _hear(self, stream_seq: int) -> None:
        self._heard = max(self._heard, stream_seq)
        self._tail_hear(stream_seq)

    def _hear_stored(self, stream_seq: int) -> None:
        self._hear(stream_seq)

    def _seen(self) -> Seen:
        return Seen(self._state.applied, self._state.digest)

    def _require_level(self) -> None:
        if not self._is_level:
            raise LogUnavailable("this node has not caught up with the stream yet")

    @contextlib.asynccontextmanager
    async def _reading(self) -> AsyncIterator[None]:
        # Whoever reads a file that is behind all others would be told of a past.
        self._require_level()
        async with super()._reading():
            yield

    async def sources(self) -> dict[str, SourceState]:
        """See EventLog.sources. Asked at the start, whether or not this node has caught up."""
        return await self._pool.run(source_states)

    async def source_version(self) -> int:
        """See EventLog.source_version."""
        return await self._pool.run(source_version)

    # -- writing ---------------------------------------------------------------------------------

    async def append(
        self,
        batch: Sequence[PostedChange],
        batch_key: str | None = None,
        mark: SourceMark | None = None,
    ) -> Appended:
        """See EventLog.append."""
        refuse_unfit(batch, self._declared)
        self._require_open()
        if self._standstill is not None:
            raise LogUnavailable(self._standstill)
        if not batch and batch_key is None and mark is None:
            return NOTHING
        size = sum(weight(change) for change in batch)
        number, stored = self._pending.for_batch(size)

        def told(outcome: Appended | Exception) -> None:
            if isinstance(outcome, Appended):
                self._pending.answer(number, outcome, self.on_append)
            else:
                self._pending.refuse(number, outcome)

        self._publisher.post(Posting(batch, batch_key, mark), size, told)
        return await stored

    def retain(self, retention: Retention) -> None:
        self._retention = retention

    async def trim(self) -> int:
        """Publish what is due, until nothing is; the entries removed by it."""
        self._require_open()
        removed = 0
        while True:
            steps, found = await self._pool.run(self._due_and_edges)
            self._follower.learn(found)
            if not steps:
                return removed
            try:
                answer = await self._publisher.publish(Trim(self._seen(), tuple(steps)))
            except LogUnavailable:
                # What may still be there is found again from the beginning.
                self._walked.clear()
                raise
            removed += answer.removed

    def _due_and_edges(self, connection: Any) -> tuple[list[TrimStep], Edges]:
        return self._due(connection), edges(connection)

    def _due(self, connection: Any) -> list[TrimStep]:
        """What retention would have leave by this node's clock: some steps, of ages, else bytes."""
        names = {table.number: name for name, table in stored_tables(connection).items()}
        now, steps = self._clock(), list[TrimStep]()

        def step(due: Due) -> None:
            if due.upto > due.after and due.numbers != ():
                tables = None if due.numbers is None else tuple(names[n] for n in due.numbers)
                steps.append(TrimStep(due.after, due.upto, tables))

        for members in age_classes(self._retention, list(self._declared.values())):
            more = True
            while more and len(steps) < _TRIM_STEPS:
                after = self._walked.get(members, 0)
                due = due_by_age(connection, members, after, now, _TRIM_ENTRIES)
                self._walked[members] = due.upto
                step(due)
                more = due.more
        if not steps and self._retention.max_bytes is not None:
            step(due_by_bytes(connection, self._retention.max_bytes, _TRIM_ENTRIES))
        return steps

    async def _look_after(self) -> None:
        while True:
            # Not all nodes at the same moment: what one has published, the others need not.
            await asyncio.sleep(self._trim_seconds * random.uniform(1.0, 1.5))
            if not self._is_level or self._standstill is not None:
                continue
            try:
                await self.trim()
            except LogUnavailable as fault:
                _logger.debug("retention waits: %s", fault)

    # -- whether changes can be stored -----------------------------------------------------------

    async def _watch_link(self) -> None:
        """See to `_is_level`, and since when the stream has been out of reach."""
        while True:
            await self._link.wait_connected()
            generation = self._link.generation
            self._away_since = None
            await self._serve_until_lost(generation)
            self._away_since = self._loop.time()

    async def _serve_until_lost(self, generation: int) -> None:
        lost = asyncio.create_task(self._link.wait_lost(generation))
        while not lost.done():
            if self._applier is not None and self._is_level and self.snapshot_serving:
                await self._snapshots.start()
            elif not self._is_level:
                # The file is another one now.
                await self._get_level_until(lost)
            await asyncio.wait({lost}, timeout=_LOOK_SECONDS)

    async def _get_level_until(self, lost: asyncio.Task[None]) -> None:
        levelling = asyncio.create_task(self._get_level(), name="level")
        await asyncio.wait({levelling, lost}, return_when=asyncio.FIRST_COMPLETED)
        levelling.cancel()
        await asyncio.gather(levelling, return_exceptions=True)

    async def _get_level(self) -> None:
        while not self._is_level:
            with contextlib.suppress(StreamFault, LogUnavailable):
                head = (await self._link.info(_LOOK_SECONDS)).last_seq
                # An empty stream has no beginning yet.
                if head > 0 and self._state.created:
                    await self._applied_upto(head)
                    if self._owes_epoch:
                        await self._begin_anew()
                    self._is_level = self._standstill is None and not self._owes_epoch
            if not self._is_level:
                await self._more_applied(0.1)

    async def _begin_anew(self) -> None:
        """Let seqs go on behind all that any node may have told before."""
        base = max(int(self._clock() * 1_000_000), self.last_seq + 1)
        await self._publisher.publish(Epoch(self._seen(), self._state.epoch + 1, base))
        self._owes_epoch = False

    @property
    def away_seconds(self) -> float:
        """For how long the stream has been out of reach; 0 while it is not."""
        return 0.0 if self._away_since is None else self._loop.time() - self._away_since

    def why_not_ready(self) -> str | None:
        """See EventLog.why_not_ready."""
        if not self._open:
            return "the log is closed"
        if self._standstill is not None:
            return self._standstill
        if not self._is_level:
            left = max(0, self._heard - self._state.applied)
            return f"this node has not caught up with the stream: {left} messages are left"
        if self.away_seconds > self.stale_after:
            return f"no NATS server has been reached for {self.away_seconds:.0f} s"
        found = super().why_not_ready()
        if (
            found is not None
            and self._pending.longest_wait < self.stale_after
            and not self._is_faulty
        ):
            return None
        return found

    @property
    def _is_faulty(self) -> bool:
        return bool(self._append_fault or self._moved or self._soundness.reason)

    def adjust(self, nats: Mapping[str, Any]) -> None:
        """See EventLog.adjust."""
        self.append_timeout = nats["append_timeout"]
        self.stale_after = nats["stale_after"]
        self.close_clients_after = nats["close_clients_after"]
        self.snapshot_serving = nats["snapshot_serving"]

    def why_leave(self) -> str | None:
        """See EventLog.why_leave."""
        if self.away_seconds > self.close_clients_after:
            return f"no NATS server has been reached for {self.away_seconds:.0f} s"
        return None

    def statistics(self) -> dict[str, float]:
        return {
            **super().statistics(),
            "lag_messages": max(0, self._heard - self._state.applied),
            "connected": float(self._link.is_connected),
            "epoch": self._state.epoch,
            "digest_mismatches": self._disagreements,
            "snapshot_bytes_sent": self._snapshots.sent_bytes,
            "snapshot_bytes_received": self._copied_bytes,
        }


_CURE = (
    "this node goes no further until another node offers its file, or an operator decides: where"
    " this node's file is removed while it is stopped, it begins with what the stream holds"
)


def _ignore(*_: object) -> None:
    """There is no tail at the moment."""


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
