"""A node of a cluster: a log whose order is that of a stream on NATS JetStream.

    append --> Publisher --> stream --> Leader: Tail --> Applier (thread) --commit--> event loop
                                                                               |
                 the post is answered <-- what its message came to <-----------+

Every node publishes what is posted to it, and applies every message of the stream, its own ones
included, in the stream's order (`applying`). So all nodes have the same log without a leader of
their own. What is stored is what a quorum of the NATS servers has; this node's file is derived.

Where several workers share a node's file, one of them reads the stream and applies it (`leader`);
the others follow the file, and publish on connections of their own.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from pathlib import Path
from typing import Any

from kalam_notify.config import NatsSettings
from kalam_notify.errors import LogUnavailable
from kalam_notify.log.base import Step
from kalam_notify.log.nats import node_file
from kalam_notify.log.nats.applying import answers_to, read_sources, read_state
from kalam_notify.log.nats.faults import NoAnswer, NoStream, StreamFault
from kalam_notify.log.nats.leader import Leader
from kalam_notify.log.nats.link import Link, StreamInfo
from kalam_notify.log.nats.message import Sync, Trim
from kalam_notify.log.nats.publisher import HEADROOM, Publisher
from kalam_notify.log.nats.standing import Standing
from kalam_notify.log.nats.trims import Trims
from kalam_notify.log.stored import WINDOW_BYTES, StoredLog
from kalam_notify.log.writing import IndexOrder, Probe
from kalam_notify.model import PostedChange
from kalam_notify.model.changes import NOTHING, Appended, refuse_unfit
from kalam_notify.model.sourced import SourceMark, SourceState
from kalam_notify.singleflight import FreshCall
from kalam_notify.store.files import LogFiles, MovedFiles
from kalam_notify.store.retention import TRIM_SECONDS, Retention
from kalam_notify.store.sourced import source_version
from kalam_notify.store.storing import Posting

START_SECONDS = 5.0
"""So long a start waits for the stream; it goes on without."""

_LOOK_SECONDS = 1.0
_SOON_SECONDS = 0.05

_logger = logging.getLogger(__name__)


class NatsLog(StoredLog):
    """An EventLog that all nodes of a cluster share. `link` is not connected yet.

    `clock` gives Unix time in seconds; retention is told by it, and the life of a new stream. It
    heeds the settings that say how long something waits, and whether its file is offered. A new
    stream's log begins after `begin` (None: at the time in microseconds).
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
        begin: int | None = None,
        settings: NatsSettings | None = None,
    ) -> None:
        super().__init__(path, window_bytes)
        self._settings = settings or NatsSettings()
        self._link = link
        self._retention = retention or Retention()
        self._trim_seconds = trim_seconds
        self._clock = clock
        self._begin = begin
        self._standing = Standing(link.stream, time.monotonic)
        self._publisher = Publisher(
            link,
            self._declared,
            self._standing.hear,
            lambda: self._settings.append_timeout,
            lambda seconds: self._tell_step("publish", seconds),
        )
        self._leader = Leader(
            path,
            link,
            self._standing,
            self._publisher,
            self._follower,
            self._pool,
            self._doorbell,
            self._files,
            self._declared,
            on_file=self._take_file,
            on_disk=self._take_disk,
            on_step=self._tell_step,
            on_fault=self._soundness.met,
            new_base=self._new_base,
        )
        self._heads = FreshCall(self._ask_head)
        self._trims = Trims()
        self._tasks: list[asyncio.Task[None]] = []
        self._is_rung = asyncio.Event()
        self._follower.on_ring = self._is_rung.set

    # -- life ------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        node_file.prepare(self._path, self._link.stream)

    async def _begin_writing(self) -> None:
        await self._link.start()

    async def start(self) -> None:
        await super().start()
        standing = self._standing
        standing.advance(await self._pool.run(read_state))
        self._tasks = [
            self._owned(self._publisher.run(), "publisher"),
            self._owned(self._leader.run(), "leader"),
            self._owned(self._watch_stream(), "stream"),
            self._owned(self._follow_file(), "answers"),
            self._owned(self._look_after(), "log retention"),
        ]
        # Whoever starts to follow the log from here begins at its end, if that can be had.
        give_up = self._loop.time() + START_SECONDS
        while not standing.is_level and standing.standstill is None:
            if self._loop.time() > give_up:
                return
            await standing.more(_SOON_SECONDS)

    def _owned(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._has_ended)
        return task

    def _has_ended(self, task: asyncio.Task[None]) -> None:
        """None of them ends by itself: without it the node is none."""
        if not task.cancelled() and (fault := task.exception()) is not None:
            _logger.error("the task %r has failed", task.get_name(), exc_info=fault)
            self._standing.break_off(
                f"a task of the log has failed ({fault!r}): restart the server"
            )

    async def _end_writing(self) -> None:
        await self._drain()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._publisher.close()
        await self._link.close()

    async def _drain(self) -> None:
        """Let what was posted be answered, while there is hope."""
        give_up = self._loop.time() + self._settings.append_timeout
        while self._pending.waiting_bytes and self._loop.time() < give_up:
            if not self._link.is_connected:
                return
            await self._standing.more(_SOON_SECONDS)

    def _indexes_changed(self) -> None:
        self._leader.put(IndexOrder())

    def _probe(self) -> None:
        self._leader.put(Probe())

    def _new_base(self) -> int:
        if self._begin is not None and not self.last_seq:
            return self._begin
        return min(int(self._clock() * 1_000_000), 2**52)

    def _take_file(self, files: LogFiles) -> None:
        """The node's file is another one from now on."""
        self._files = files
        self._soundness.begin_anew()
        self._trims.begin_anew()

    def _tell_step(self, step: Step, seconds: float) -> None:
        if self.on_step is not None:
            self.on_step(step, seconds)

    def _take_disk(self, fault: str | None) -> None:
        """The disk does not take what is applied, or does again."""
        self._append_fault = fault

    # -- the stream ------------------------------------------------------------------------------

    async def _watch_stream(self) -> None:
        """Ask now and then whether the stream is there, and is the same; and get level with it.

        A connection proves nothing: the server at its other end may be without the others.
        """
        while True:
            await self._link.wait_connected()
            try:
                info = await self._link.info(_LOOK_SECONDS)
            except NoStream:
                self._leader.look_again()
            except StreamFault as fault:
                _logger.debug("the stream does not tell how it stands: %s", fault)
            else:
                await self._take_info(info)
            await self._leader.serve_snapshots(self._settings.snapshot_serving)
            if self._moved is not None:
                self._is_rung.set()
            await asyncio.sleep(_LOOK_SECONDS if self._standing.is_level else _SOON_SECONDS)

    async def _take_info(self, info: StreamInfo) -> None:
        standing = self._standing
        standing.hear(info.last_seq)
        state = standing.state
        if state.created and (info.created != state.created or info.last_seq < state.applied):
            self._leader.look_again()
        # An empty stream has no beginning yet, unless one is owed to it.
        elif not standing.is_level and state.created and (info.last_seq or state.owes):
            with contextlib.suppress(LogUnavailable):
                await standing.applied_upto(info.last_seq)
                if self._leader.leads and standing.can_be_level:
                    await self._leader.begin_epoch()
                standing.reached(info.last_seq)

    async def _follow_file(self) -> None:
        """Where another worker of this node applies: read off the file what it has come to."""
        while True:
            await self._is_rung.wait()
            self._is_rung.clear()
            if self._leader.leads:
                continue
            with contextlib.suppress(LogUnavailable):
                await self._follow_replacement()
                # The state first: an answer that is in the file by then is found.
                state = await self._pool.run(read_state)
                if mids := self._publisher.unanswered:
                    for answer in await self._pool.run(answers_to, mids):
                        self._publisher.answered(answer)
                self._standing.advance(state)

    async def _follow_replacement(self) -> None:
        """Go on with the file that the worker who applies has put in the place of another."""
        try:
            await asyncio.to_thread(self._files.check)
        except MovedFiles:
            files = LogFiles(self._path)
            # It may be replayed from the stream's beginning, and tell of a past until it is level.
            with self._standing.between_files():
                self._pool.forget()
                await self._follower.begin_anew()
                self._files, self._moved = files, None
                self._soundness.begin_anew()
                self._standing.advance(await self._pool.run(read_state))

    # -- edges -----------------------------------------------------------------------------------

    @property
    def steps(self) -> Collection[Step]:
        """See EventLog.steps."""
        return ("publish", "apply")

    @property
    def is_shared(self) -> bool:
        return True

    @property
    def cluster(self) -> str | None:
        return f"{self._link.stream} of {self._standing.state.created}"

    @property
    def largest_batch(self) -> int | None:
        return self._link.max_payload - HEADROOM

    async def latest(self, at_least: int = 0) -> int:
        """See EventLog.latest."""
        self._require_open()
        self._standing.require_level()
        if self._link.is_connected:
            try:
                await self._standing.applied_upto(await self._heads())
            except NoAnswer as fault:
                _logger.debug("where the stream ends is not known: %s", fault)
        found = await self._follower.look()
        if found < at_least:
            # An old leader may have answered, or the stream is out of reach: a message of our own
            # comes behind whatever was acknowledged before.
            await self._publisher.publish(Sync(self._standing.seen))
            found = await self._follower.look()
        # The file may have become another one meanwhile.
        self._standing.require_level()
        return found

    async def _ask_head(self) -> int:
        last_seq = (await self._link.info(_LOOK_SECONDS)).last_seq
        self._standing.hear(last_seq)
        return last_seq

    @contextlib.asynccontextmanager
    async def _reading(self) -> AsyncIterator[None]:
        # Whoever reads a file that is behind all others would be told of a past.
        self._standing.require_level()
        async with super()._reading():
            yield

    async def sources(self) -> dict[str, SourceState]:
        """See EventLog.sources. Asked at the start, whether or not this node has caught up."""
        return await self._pool.run(read_sources)

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
        if self._standing.standstill is not None:
            raise LogUnavailable(self._standing.standstill)
        if not batch and batch_key is None and mark is None:
            return NOTHING
        size = sum(change.size for change in batch)
        number, stored = self._pending.for_batch(size)

        def on_outcome(outcome: Appended | Exception) -> None:
            if isinstance(outcome, Appended):
                self._pending.answer(number, outcome, self.on_append)
            else:
                self._pending.refuse(number, outcome)

        self._publisher.post(Posting(batch, batch_key, mark), size, on_outcome)
        return await stored

    def retain(self, retention: Retention) -> None:
        self._retention = retention

    async def trim(self) -> int:
        """Publish what is due, until nothing is; the entries removed by it."""
        self._require_open()
        removed = 0
        while True:
            tables = list(self._declared.values())
            steps, found = await self._pool.run(
                self._trims.due, self._retention, tables, self._clock()
            )
            self._follower.learn(found)
            if not steps:
                return removed
            try:
                answer = await self._publisher.publish(Trim(self._standing.seen, tuple(steps)))
            except LogUnavailable:
                self._trims.begin_anew()
                raise
            removed += answer.removed

    async def _look_after(self) -> None:
        while True:
            # Not all nodes at the same moment: what one has published, the others need not.
            await asyncio.sleep(self._trim_seconds * random.uniform(1.0, 1.5))
            can_be = self._standing.is_level and self._standing.standstill is None
            if not (self._leader.leads and can_be):
                continue
            try:
                await self.trim()
            except LogUnavailable as fault:
                _logger.debug("retention waits: %s", fault)

    # -- whether changes can be stored -----------------------------------------------------------

    def why_not_ready(self) -> str | None:
        """See EventLog.why_not_ready."""
        if not self._open:
            return "the log is closed"
        # A new leader of the stream takes longer than a disk may.
        patience = self._settings.stale_after
        return self._standing.why_not_ready(patience) or self._why_not_storing(patience)

    def adjust(self, nats: NatsSettings) -> None:
        """See EventLog.adjust."""
        self._settings = nats

    def why_leave(self) -> str | None:
        """See EventLog.why_leave."""
        return self._standing.why_cut_off(self._settings.close_clients_after)

    def statistics(self) -> dict[str, float]:
        return {
            **super().statistics(),
            **self._leader.statistics(),
            "lag_messages": self._standing.lag,
            "connected": float(self._link.is_connected),
            "epoch": self._standing.state.epoch,
        }
