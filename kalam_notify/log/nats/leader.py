"""The worker of a node that reads the stream and applies it to the node's file.

    wait for the lock -> fence -> read the stream -> (lost, astray, trimmed, parted) -> fence -> ...

On every connection, and whenever something is amiss, it is first found out whether the stream is
still the one that was applied (`fence`): it may have been made anew, have lost its end (a power
failure of servers that do not sync, an older backup), or have been trimmed while this node was
away. Such a node copies the file of another node that goes on with the stream. Where none does, and
the stream lost its end but reaches back to its beginning, the node replays it. Else it stands still
until an operator decides. Where seqs that were told could be given again, an `Epoch` lets them go
on behind all of them: clients begin anew, with a snapshot.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from sqlite3 import Connection
from typing import Any, TypeVar

from kalam_notify.errors import LogUnavailable, StorageFault
from kalam_notify.log.base import OnStep
from kalam_notify.log.following import Doorbell, Follower
from kalam_notify.log.nats import node_file
from kalam_notify.log.nats.applier import Applier, Messages, Progress, Report, Stuck, Task
from kalam_notify.log.nats.applying import Owes, go_on_behind, set_created, set_paid
from kalam_notify.log.nats.copying import fetch_snapshot
from kalam_notify.log.nats.faults import (
    Astray,
    CopyFault,
    NoAnswer,
    NoStream,
    StreamFault,
    Trimmed,
    WrongLast,
)
from kalam_notify.log.nats.fence import CURE, LostEnd, Parted, compare, compare_message
from kalam_notify.log.nats.link import Link, StreamInfo, StreamMessage
from kalam_notify.log.nats.message import NOTHING_SEEN, Epoch, Seen, Sync
from kalam_notify.log.nats.offering import SnapshotServer
from kalam_notify.log.nats.publisher import Publisher
from kalam_notify.log.nats.standing import Standing
from kalam_notify.log.nats.tail import Tail
from kalam_notify.log.writing import IndexOrder, Recovered
from kalam_notify.model import TableDef, TableId
from kalam_notify.store import schema
from kalam_notify.store.files import LogFiles
from kalam_notify.store.reader import ReaderPool

LOCK_NAME = "applier.lock"

ROOM_BYTES = 8 * 1024 * 1024
"""So much may wait for the applier before no more is asked for."""

_LOCK_SECONDS = 0.2
_RETRY_SECONDS = 1.0
_EPOCH_ATTEMPTS = 50

_logger = logging.getLogger(__name__)

T = TypeVar("T")


class Leader:
    """Leads from the moment that the node's lock is had, until `close`.

    `on_file` is told of the identity of a file that has taken the place of another, `on_disk` why
    it takes nothing at the moment (None: it does), `on_fault` of what goes wrong in any thread.
    `new_base` gives the seq behind which a log begins.
    """

    def __init__(
        self,
        path: Path,
        link: Link,
        standing: Standing,
        publisher: Publisher,
        follower: Follower,
        pool: ReaderPool,
        doorbell: Doorbell,
        files: LogFiles,
        declared: Mapping[TableId, TableDef],
        *,
        on_file: Callable[[LogFiles], None],
        on_disk: Callable[[str | None], None],
        on_step: OnStep,
        on_fault: Callable[[BaseException], None],
        new_base: Callable[[], int],
    ) -> None:
        self._path = path
        self._link = link
        self._standing = standing
        self._publisher = publisher
        self._follower = follower
        self._pool = pool
        self._doorbell = doorbell
        self._files = files
        self._declared = declared
        self._on_file = on_file
        self._on_disk = on_disk
        self._on_step = on_step
        self._on_fault = on_fault
        self._new_base = new_base
        self._applier: Applier | None = None
        self._ended: asyncio.Future[None] | None = None
        self._tail: Tail | None = None
        self._reading: asyncio.Task[None] | None = None
        # Bytes of messages that the applier has been given and has not applied.
        self._waiting_bytes = 0
        self._snapshots = SnapshotServer(link, self._make_snapshot, path.parent)
        self._copied_bytes = 0
        # What another node's digest was found to say; whether that node is right.
        self._disagreement: str | None = None
        self._is_overruled = False
        self._disagreements = 0
        standing.on_heard = self._hear

    # -- life ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Wait for the lock, then lead until cancelled."""
        descriptor = os.open(self._path.parent / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o640)
        try:
            while not try_lock(descriptor):
                await self._standing.more(_LOCK_SECONDS)
            self._loop = asyncio.get_running_loop()
            await self._lead()
        finally:
            await self._snapshots.stop()
            await self._stop_applier()
            os.close(descriptor)

    @property
    def leads(self) -> bool:
        """Whether this process is the one of its node that applies."""
        return self._applier is not None

    async def serve_snapshots(self, wanted: bool) -> None:
        """Offer this node's file to others, or do not."""
        if wanted and self.leads and self._standing.is_level:
            await self._snapshots.start()
        else:
            await self._snapshots.stop()

    def put(self, order: Any) -> None:
        """An order for the writing thread, where this process has it."""
        if self._applier is not None:
            self._applier.put(order)

    def look_again(self) -> None:
        """Something is amiss with the stream: compare it with the file anew."""
        if self._reading is not None:
            self._reading.cancel()

    async def begin_epoch(self) -> None:
        """Let seqs go on behind all that any node may have told before, where that is owed.

        Where this node's rows stand, that has to be said right behind what it has applied: others
        may be quicker, and then it is to be said again.
        """
        standing = self._standing
        for _ in range(_EPOCH_ATTEMPTS):
            state = standing.state
            base, number = max(self._new_base(), self._follower.last_seq + 1), state.epoch + 1
            try:
                match state.owes:
                    case Owes.NOTHING:
                        return
                    case Owes.EPOCH:
                        await self._publisher.publish(Epoch(standing.seen, number, base))
                    case Owes.STANDS:
                        mid = "" if state.last is None else state.last.mid
                        seen = Seen(state.applied, mid, state.digest)
                        epoch = Epoch(seen, number, base, stands=True)
                        await self._publisher.publish(epoch, expected_last=state.applied)
            except WrongLast:
                await standing.applied_upto(standing.heard)
            else:
                await self._in_applier(set_paid)

    def statistics(self) -> dict[str, float]:
        return {
            "digest_mismatches": self._disagreements,
            "snapshot_bytes_sent": self._snapshots.sent_bytes,
            "snapshot_bytes_received": self._copied_bytes,
        }

    async def _lead(self) -> None:
        while True:
            try:
                if self._applier is None:
                    await self._start_applier()
                await self._link.wait_connected()
                await self._follow_stream()
            except NoAnswer as fault:
                _logger.debug("the stream does not answer: %s", fault)
                await asyncio.sleep(random.uniform(0.02, 0.2))
            except (Trimmed, Astray) as fault:
                _logger.warning("%s; looking at the stream anew", fault)
                await asyncio.sleep(_RETRY_SECONDS)
            except (StreamFault, StorageFault, LogUnavailable) as fault:
                self._standing.part(str(fault))
                await asyncio.sleep(_RETRY_SECONDS)
            except Exception as fault:
                _logger.exception("the stream cannot be followed")
                self._standing.part(f"the stream cannot be followed: {fault!r}")
                await asyncio.sleep(_RETRY_SECONDS)

    async def _follow_stream(self) -> None:
        try:
            await self._fence()
        except Parted as parted:
            await self._rejoin(parted)
        else:
            self._standing.rejoin()
            await self._read()

    # -- the applier -----------------------------------------------------------------------------

    async def _start_applier(self) -> None:
        self._ended = self._loop.create_future()
        applier = Applier(
            self._link.stream,
            # What the disk loses, the stream has: a commit need not wait for it.
            lambda: schema.open_writer(self._path, "os"),
            self._files,
            self._path.parent,
            self._declared,
            self._report,
            self._on_fault,
        )
        await asyncio.to_thread(applier.start)
        applier.put(IndexOrder())
        self._applier = applier
        self._waiting_bytes = 0
        self._standing.advance(applier.state)

    async def _stop_applier(self) -> None:
        if self._applier is None or self._ended is None:
            return
        applier, self._applier = self._applier, None
        applier.stop()
        await self._ended
        applier.join()

    async def _in_applier(self, work: Callable[[Connection], T]) -> T:
        """What `work` gives in a transaction, behind all that the applier was given."""
        assert self._applier is not None
        applier, done = self._applier, self._loop.create_future()

        def tell(found: Any, fault: BaseException | None) -> None:
            self._loop.call_soon_threadsafe(_settle, done, found, fault)

        applier.put(Task(work, tell))
        found: T = await done
        self._standing.advance(applier.state)
        return found

    def _report(self, report: Report) -> None:
        """In the applying thread."""
        self._loop.call_soon_threadsafe(self._take_report, report)
        if isinstance(report, Progress):
            self._doorbell.ring_others()

    def _take_report(self, report: Report) -> None:
        match report:
            case Progress():
                self._on_disk(None)
                self._take_progress(report)
            case Stuck(reason=reason, for_good=True):
                self._standing.break_off(reason)
            case Stuck(reason=reason):
                self._on_disk(reason)
            case Recovered():
                self._on_disk(None)
            case None:
                if self._ended is not None and not self._ended.done():
                    self._ended.set_result(None)

    def _take_progress(self, progress: Progress) -> None:
        applied, standing = progress.applied, self._standing
        self._waiting_bytes -= progress.size
        self._on_step("apply", progress.seconds)
        for group in applied.groups:
            if group.changes is None:
                self._follower.hear_of(group.last_seq)
            else:
                self._follower.advance(group.before, group.changes, group.sizes)
        if progress.edges is not None:
            self._follower.learn(progress.edges)
            self._follower.skip_to(applied.last_seq, progress.edges.floor)
        for answer in applied.answers:
            self._publisher.answered(answer)
        if applied.disagrees is not None:
            self._disagreements += 1
            self._disagreement = applied.disagrees
            self._is_overruled = applied.is_overruled
            self.look_again()
        standing.advance(applied.state)
        if self._tail is not None:
            self._tail.wake()

    # -- is it the same stream? ------------------------------------------------------------------

    async def _fence(self) -> None:
        """Raise Parted, or another fault, unless the stream goes on where the file ends."""
        # Everything that was taken has to be applied before the file is compared.
        await self._in_applier(lambda connection: None)
        if self._disagreement is not None:
            raise Parted(self._disagreement, owes_epoch=not self._is_overruled)
        info = await self._info()
        await self._begin_rebuilt(info)
        try:
            compare(self._standing.state, info)
        except LostEnd:
            await self._confirm()
            raise
        if not self._standing.state.created:
            await self._begin_with(info)
        last = self._standing.state.last
        if last is not None and last.seq >= info.first_seq:
            compare_message(last, await self._link.message(last.seq), self._standing.state, info)
        self._standing.hear(info.last_seq)

    async def _info(self) -> StreamInfo:
        state = self._standing.state
        if not state.created:
            return await self._link.ensure_stream()
        try:
            return await self._link.info()
        except NoStream as fault:
            raise StorageFault(
                f"{fault}, but this node has applied it up to message {state.applied}: {CURE}"
            ) from fault

    async def _begin_rebuilt(self, info: StreamInfo) -> None:
        """A file that was rebuilt from what the stream held begins with what it holds by now."""
        state = self._standing.state
        is_rebuilt = state.owes is Owes.STANDS and state.last is None
        if is_rebuilt and info.created == state.created and info.first_seq > state.applied + 1:
            _logger.warning("the stream has been trimmed to message %d meanwhile", info.first_seq)
            before = info.first_seq - 1
            await self._in_applier(
                lambda connection: go_on_behind(connection, info.created, before)
            )

    async def _confirm(self) -> None:
        """Raise NoAnswer unless the stream does end before what was applied.

        A leader that was deposed while it was frozen may tell of an older end. What it cannot do is
        take a message: where one comes to stand tells where the stream ends.
        """
        stored = await self._publisher.publish_only(Sync(NOTHING_SEEN))
        if stored > self._standing.state.applied:
            raise NoAnswer("an old leader of the stream has answered")

    async def _begin_with(self, info: StreamInfo) -> None:
        """Nothing has been applied yet: begin with the beginning of this stream."""
        if info.last_seq == 0:
            # Where another node is first, its message is as good. Acknowledged is enough: it is
            # applied when the stream is read.
            with contextlib.suppress(WrongLast):
                first = Epoch(NOTHING_SEEN, 1, self._new_base())
                await self._publisher.publish_only(first, expected_last=0)
        await self._in_applier(lambda connection: set_created(connection, info.created))

    # -- another file ----------------------------------------------------------------------------

    async def _rejoin(self, parted: Parted) -> None:
        """Come back to the stream with another file: another node's, or an empty one."""
        if self._standing.standstill is None:
            _logger.warning("%s", parted)
        with self._standing.between_files():
            await self._find_back(parted)

    async def _find_back(self, parted: Parted) -> None:
        await self._snapshots.stop()
        into = self._path.with_suffix(".copy")
        await asyncio.to_thread(node_file.remove, into)
        try:
            await fetch_snapshot(self._link, into)
            await asyncio.to_thread(node_file.examine, into, self._link.stream)
            self._copied_bytes += into.stat().st_size
        except CopyFault as fault:
            if not parted.can_replay:
                self._standing.part(f"{parted}; {fault}; {CURE}")
                await asyncio.sleep(_RETRY_SECONDS)
                return
            await asyncio.to_thread(node_file.prepare, into, self._link.stream)
            _logger.warning("the stream is replayed from its beginning")
        if parted.owes_epoch:
            await asyncio.to_thread(node_file.owe, into, Owes.EPOCH)
        await self._take_over(into)
        self._disagreement, self._is_overruled = None, False

    async def _take_over(self, file: Path) -> None:
        """Go on with another file in the place of this node's own."""
        await self._stop_applier()
        await asyncio.to_thread(node_file.replace, self._path, file)
        # Behind the rename, so that no connection to the old file is kept that was made before it.
        self._pool.forget()
        self._files = LogFiles(self._path)
        self._on_file(self._files)
        self._standing.file_replaced()
        await self._start_applier()
        await self._follower.begin_anew()
        await asyncio.to_thread(self._doorbell.ring_others)

    async def _make_snapshot(self, path: Path) -> dict[str, Any]:
        """Put a copy of the file, as it is now, under a path; what goes with it."""
        await asyncio.to_thread(node_file.copy_whole, self._path, path)
        return {"applied": self._standing.state.applied, "epoch": self._standing.state.epoch}

    # -- the stream ------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Give the applier what the stream holds, until the connection is lost or `look_again`."""
        tail = Tail(self._link, self._standing.state.applied, self._take_messages, self._has_room)
        tail.hear(self._standing.heard)
        self._tail = tail
        self._reading = asyncio.create_task(tail.run(), name="tail")
        try:
            await asyncio.wait({self._reading})
            if not self._reading.cancelled():
                self._reading.result()
        finally:
            self._tail = None
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    def _take_messages(self, messages: Sequence[StreamMessage]) -> None:
        assert self._applier is not None
        self._waiting_bytes += sum(len(message.data) for message in messages)
        self._standing.hear(messages[-1].seq)
        self._applier.put(Messages(messages))

    def _has_room(self) -> bool:
        return self._waiting_bytes < ROOM_BYTES and self._standing.standstill is None

    def _hear(self, seq: int) -> None:
        if self._tail is not None:
            self._tail.hear(seq)


def _settle(done: asyncio.Future[Any], found: Any, fault: BaseException | None) -> None:
    if done.done():
        return
    if fault is None:
        done.set_result(found)
    else:
        done.set_exception(LogUnavailable(f"the file could not be written: {fault}"))


def try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
