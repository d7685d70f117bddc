"""The thread that applies the stream to the node's file, many messages in a transaction.

It takes messages in the order of the stream, without a gap, and reports each transaction with what
its messages came to. A disk that errs is waited out: the messages stay, and are tried again when
the file takes writes. A message of a newer format, or one that cannot be applied, stops this node
where it is.
"""

import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kalam_notify.log.nats.applying import (
    Applicable,
    Applied,
    Applying,
    NodeState,
    prepare_state,
    read_state,
)
from kalam_notify.log.nats.faults import NewerFormat
from kalam_notify.log.nats.link import StreamMessage
from kalam_notify.log.nats.message import MID_HEADER, Batches, decode
from kalam_notify.log.writing import Recovered, WriteLock, WritingThread
from kalam_notify.model import TableDef, TableId
from kalam_notify.store.files import LogFiles, MovedFiles
from kalam_notify.store.soundness import is_damage
from kalam_notify.store.trimming import Edges, edges

GROUP_CHANGES = 4096
GROUP_BYTES = 8 * 1024 * 1024

_logger = logging.getLogger(__name__)


class Messages(NamedTuple):
    """Messages that follow on those that were put before."""

    messages: Sequence[StreamMessage]


class Task(NamedTuple):
    """Something else to do with the file, in a transaction of its own, behind what was put before.

    `done` is called in the thread, with what `work` gave or with its exception.
    """

    work: Callable[[sqlite3.Connection], Any]
    done: Callable[[Any, BaseException | None], None]


class Progress(NamedTuple):
    """A transaction that was committed. `edges` is None where they have not moved."""

    applied: Applied
    messages: int
    size: int
    edges: Edges | None
    # It took so many seconds.
    seconds: float


class Stuck(NamedTuple):
    """Nothing is applied at the moment, and why.

    `for_good`: not before something is done about it; else it is tried again.
    """

    reason: str
    for_good: bool


Report = Progress | Stuck | Recovered | None


class Applier(WritingThread):
    """The thread of the one process of a node that applies; see WritingThread.

    `state` is where the file stood when it was opened.
    """

    name = "kalam-log-applier"
    state: NodeState

    def __init__(
        self,
        stream: str,
        connect: Callable[[], sqlite3.Connection],
        files: LogFiles,
        directory: Path,
        declared: Mapping[TableId, TableDef],
        report: Callable[[Report], None],
        on_fault: Callable[[BaseException], None],
    ) -> None:
        self._stream = stream
        self._applying = Applying(declared)
        numbers = self._applying.numbers
        lock = WriteLock(directory)
        super().__init__(connect, files, lock, None, declared, numbers, report, on_fault)
        self._read: deque[Applicable] = deque()
        self._unread: deque[StreamMessage] = deque()
        self._tasks: deque[Task] = deque()
        self._is_stuck = self._is_broken = False
        # The message read last: what is given again after it is passed over.
        self._upto = 0

    def _opened(self, connection: sqlite3.Connection) -> None:
        self.state = prepare_state(connection, self._stream)
        self._upto = self.state.applied

    def _take(self, order: Messages | Task) -> None:
        match order:
            case Messages(messages=messages):
                self._unread += messages
            case Task():
                self._tasks.append(order)

    def _has_work(self) -> bool:
        can_apply = not (self._is_stuck or self._is_broken)
        return bool(self._tasks or (can_apply and (self._unread or self._read)))

    def _must_finish(self) -> bool:
        # What is not applied now is in the stream still.
        return bool(self._tasks)

    def _work(self) -> None:
        if not self._stopping and not (self._is_stuck or self._is_broken):
            group = self._next_group()
            if group:
                self._apply(group)
        # Behind everything that was put before, unless nothing of that can be done.
        while self._tasks and not (self._has_messages() and not self._stopping):
            self._do(self._tasks.popleft())

    def _has_messages(self) -> bool:
        return bool(self._unread or self._read) and not (self._is_stuck or self._is_broken)

    # Applying

    def _next_group(self) -> list[Applicable]:
        group: list[Applicable] = []
        changes = size = 0
        while changes < GROUP_CHANGES and size < GROUP_BYTES:
            message = self._next()
            if message is None:
                break
            group.append(message)
            size += message.size
            if isinstance(message.body, Batches):
                changes += sum(len(posting.batch) for posting in message.body.postings)
        return group

    def _next(self) -> Applicable | None:
        if self._read:
            return self._read.popleft()
        while self._unread and self._unread[0].seq <= self._upto:
            self._unread.popleft()
        if not self._unread:
            return None
        seq, at, headers, data = self._unread[0]
        if seq != self._upto + 1:
            self._break(f"message {seq} of the stream does not follow on {self._upto}")
            return None
        try:
            body = decode(headers, data)
        except NewerFormat as fault:
            self._break(str(fault))
            return None
        self._unread.popleft()
        self._upto = seq
        mid = (headers or {}).get(MID_HEADER) or f"?{seq}"
        return Applicable(seq, at, mid, body, len(data))

    def _apply(self, group: list[Applicable]) -> None:
        began = time.monotonic()
        try:
            with self._write_lock.turn(), self._transaction() as connection:
                applied = self._applying.apply(connection, self._indexes, group)
                moved = edges(connection) if applied.edges_moved else None
        except (sqlite3.OperationalError, MovedFiles) as fault:
            self._wait(group, fault)
        except Exception as fault:
            if is_damage(fault):
                self._wait(group, fault)
                return
            self._read.extendleft(reversed(group))
            _logger.exception("messages %d to %d cannot be applied", group[0].seq, group[-1].seq)
            self._break(f"a message of the stream cannot be applied: {fault!r}")
        else:
            if self._complaints.standing:
                self._complaints.over()
            size = sum(message.size for message in group)
            seconds = time.monotonic() - began
            self._report(Progress(applied, len(group), size, moved, seconds))

    def _wait(self, group: list[Applicable], fault: Exception) -> None:
        kind = type(fault).__name__
        self._complaints.say(kind, f"the stream could not be applied: {kind}: {fault}")
        self._read.extendleft(reversed(group))
        self._is_stuck = True
        self._report(Stuck(f"the stream could not be applied: {fault}", for_good=False))

    def _break(self, reason: str) -> None:
        self._is_broken = True
        self._report(Stuck(reason, for_good=True))

    def _probe(self) -> None:
        super()._probe()
        if self._is_stuck and not self._complaints.standing:
            self._is_stuck = False

    # Tasks

    def _do(self, task: Task) -> None:
        try:
            with self._write_lock.turn(), self._transaction() as connection:
                found = task.work(connection)
                self.state = read_state(connection)
            if not self._has_messages():
                # The task may have said where to go on.
                self._upto = self.state.applied
        except Exception as fault:
            task.done(None, fault)
        else:
            task.done(found, None)
