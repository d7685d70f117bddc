"""One chunk of the fan-out: messages to a few hundred live subscriptions, of one plan or several.

Nothing here waits and nobody else has a turn meanwhile, so what stands in a plan's roster stays as
it is. As long as fds are open, nothing is touched but the roster's flat lists
(subscriptions/roster.py tells why), and the kernel is handed a whole chunk at once where it can
take one (uring.py).
"""

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import compress
from typing import NamedTuple

from kalam_notify.delivery.frames import FrameSet
from kalam_notify.delivery.ring import Alike, Ring, Run
from kalam_notify.delivery.stats import FanoutStats
from kalam_notify.protocol.heads import Head
from kalam_notify.subscriptions.handle import Sink, SubscriptionHandle
from kalam_notify.subscriptions.plans import Plan
from kalam_notify.subscriptions.roster import NO_FD

# Laying out a chunk for the kernel costs as much as a few sends.
_RING_PAYS = 8
# Sends in one call while batches wait to be stored, 0.2 ms or so: the log's writer may have neither
# core nor interpreter to itself.
_STEP_WHILE_STORING = 32
# Messages with heads of their own are copied into one piece for it; larger ones are not worth it.
_COPY_PAYS_BYTES = 4096


class _Chunk(NamedTuple):
    """Side by side: places in the roster, and the fds and heads that stood there."""

    places: Sequence[int]
    fds: Sequence[int]
    heads: Sequence[Head]

    def is_alike(self) -> bool:
        """Whether all heads are one and the same."""
        heads = self.heads
        count = len(heads)
        return count == 1 or (heads[0] is heads[-1] and heads.count(heads[0]) == count)

    def parted(self) -> "tuple[_Chunk, _Chunk]":
        """Those whose fds are open, and those whose fds are shut."""
        is_open = [direct_fd >= 0 for direct_fd in self.fds]
        return self._those(is_open), self._those([not it for it in is_open])

    def _those(self, chosen: Sequence[bool]) -> "_Chunk":
        return _Chunk(
            list(compress(self.places, chosen)),
            list(compress(self.fds, chosen)),
            list(compress(self.heads, chosen)),
        )


class Job(NamedTuple):
    """`frames` for the live subscriptions in the places from `start` to `end` of a plan.

    Those that are too full fall back to the position `after`.
    """

    plan: Plan
    start: int
    end: int
    frames: FrameSet
    after: int

    def chunk(self) -> _Chunk:
        plan, start, end, _, _ = self
        return _Chunk(range(start, end), plan.fds[start:end], plan.heads[start:end])


class _Bundle:
    """Visits to open fds, laid out for one call."""

    __slots__ = ("_parts", "_visits", "fds", "runs")

    def __init__(self) -> None:
        self.fds: list[int] = []
        self.runs: list[Run] = []
        self._parts: list[bytes] = []
        self._visits: list[tuple[Job, _Chunk]] = []

    def __iter__(self) -> Iterator[tuple[Job, _Chunk]]:
        return iter(self._visits)

    def add(self, job: Job, chunk: _Chunk) -> None:
        """Take a job to open fds."""
        self._visits.append((job, chunk))
        self.fds += chunk.fds
        if chunk.is_alike():
            part = job.frames.for_head(chunk.heads[0])
            self._add_alike(len(chunk.fds), len(part))
        else:
            part, sizes = job.frames.for_heads(chunk.heads)
            self.runs.append(sizes)
        self._parts.append(part)

    def _add_alike(self, count: int, size: int) -> None:
        if count > 1:
            self.runs.append(Alike(count, size))
        elif self.runs and isinstance(self.runs[-1], list):
            self.runs[-1].append(size)
        else:
            self.runs.append([size])

    def data(self) -> bytes:
        """The bytes that `runs` are about; of a single part that part itself."""
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def size(self) -> int:
        """How many bytes go through all fds."""
        return sum(
            run.size * run.times if isinstance(run, Alike) else sum(run) for run in self.runs
        )

    def sink_at(self, index: int) -> tuple[Sink, bytes]:
        """Who is behind a direct_fd, and what was for it."""
        for job, chunk in self._visits:
            if index < len(chunk.places):
                frames = job.frames.for_head(chunk.heads[index])
                return _sink_at(job.plan, chunk.places[index]), frames
            index -= len(chunk.places)
        raise IndexError


class ChunkSender:
    """Hands messages to chunks of live subscriptions, of one plan or several."""

    def __init__(
        self,
        stats: FanoutStats,
        ring: Ring | None = None,
        is_storing: Callable[[], bool] = lambda: False,
        write: Callable[[int, bytes], int] = os.write,
    ) -> None:
        """`ring` puts bytes through many open fds (None: there is none), `write` through one.

        `is_storing` tells whether batches wait for the log's writer.
        """
        self._is_storing = is_storing
        self._stats = stats
        self._ring = ring
        self._write = write

    def send(self, jobs: Sequence[Job], held: dict[Sink, None]) -> None:
        """Make these jobs, which are to no more places than the ring has entries.

        Sinks that several subscriptions share are put into `held`, to be flushed.
        """
        ring, bundle = self._ring, _Bundle()
        for job in jobs:
            chunk = job.chunk()
            if ring is not None and NO_FD in chunk.fds:
                chunk, others = chunk.parted()
                self._send_in_turn(job, others, held)
            if not chunk.fds:
                continue
            if ring is None:
                self._send_in_turn(job, chunk, held)
            elif job.frames.size <= _COPY_PAYS_BYTES:
                bundle.add(job, chunk)
            elif len(chunk.fds) >= _RING_PAYS and chunk.is_alike():
                # By itself, for then nothing is copied.
                alone = _Bundle()
                alone.add(job, chunk)
                self._send_at_once(ring, alone)
            else:
                self._send_in_turn(job, chunk, held)
        if ring is not None and len(bundle.fds) >= _RING_PAYS:
            self._send_at_once(ring, bundle)
        else:
            for job, chunk in bundle:
                self._send_in_turn(job, chunk, held)

    def _send_at_once(self, ring: Ring, bundle: _Bundle) -> None:
        step = _STEP_WHILE_STORING if self._is_storing() else None
        for index, sent in ring.send(bundle.fds, bundle.data(), bundle.runs, step):
            sink, frames = bundle.sink_at(index)
            sink.complete(frames, sent)
        stats = self._stats
        for job, chunk in bundle:
            stats.deliveries += len(chunk.fds) * job.frames.row_count
        stats.delivery_bytes += bundle.size()

    def _send_in_turn(self, job: Job, chunk: _Chunk, held: dict[Sink, None]) -> None:
        plan, _, _, frames, after = job
        write, head, data = self._write, None, b""
        taken = size = sent = 0
        for place, direct_fd, its_head in zip(*chunk, strict=True):
            if its_head is not head:
                head = its_head
                data = frames.for_head(head)
            if direct_fd >= 0:
                try:
                    sent = write(direct_fd, data)
                except BlockingIOError:
                    sent = 0
                except OSError:
                    sent = -1
                if sent != len(data):
                    _sink_at(plan, place).complete(data, sent)
            elif not self._hand_over(plan.live[place], data, after, held):
                continue
            taken += 1
            size += len(data)
        self._stats.deliveries += taken * frames.row_count
        self._stats.delivery_bytes += size

    def _hand_over(
        self,
        handle: SubscriptionHandle | None,
        data: bytes,
        after: int,
        held: dict[Sink, None],
    ) -> bool:
        """Offer frames to a sink whose direct_fd is shut; False: it is full, or nobody is there."""
        if handle is None:
            return False
        if handle.shares_connection:
            taken = handle.sink.hold(data)
            held[handle.sink] = None
        else:
            taken = handle.sink.offer(data)
        if not taken:
            handle.overfull(after)
            self._stats.catch_ups += 1
        return taken


def _sink_at(plan: Plan, place: int) -> Sink:
    handle = plan.live[place]
    assert handle is not None
    return handle.sink
