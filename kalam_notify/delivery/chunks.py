"""One chunk of the fan-out: messages to a few hundred live subscriptions, of one plan or several.

Nothing here waits and nobody else has a turn meanwhile. What happens to messages at a subscription
is one of three things:

    direct   they are written to its descriptor, whole chunks of them by one call (ring.py)
    held     its connection has another subscription that sees the same change: its outbox takes
             them, and writes them together with the other one's when both have been served
    offered  bytes wait for its socket, or it is under TLS: its outbox takes them behind these, or
             refuses, and then the subscription has fallen behind

As long as everything is direct, nothing is touched but the flat lists of plans (LiveList in
subscriptions/plans.py tells why). These are current at every moment, copies of them are not: a send
that is not taken whole changes them. So what is about to be written is held against them once more,
and a descriptor that stands in a chunk twice is written to once, with everything that is for it:
after a partial send nothing more may be written behind the back of the outbox.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from itertools import compress
from typing import NamedTuple

from kalam_notify.delivery.payload import FrameSet
from kalam_notify.delivery.ring import Alike, Ring, Run
from kalam_notify.delivery.stats import FanoutStats
from kalam_notify.protocol import close
from kalam_notify.protocol.messages import Head
from kalam_notify.subscriptions.plans import NO_FD, Plan, Sink, SubscriptionHandle

# Laying out a chunk for the kernel costs as much as a few sends.
_RING_PAYS = 8
# Sends in one call while batches wait to be stored, 0.2 ms or so: the log's writer may have neither
# core nor interpreter to itself.
_STEP_WHILE_STORING = 32
# Messages with heads of their own are copied into one piece for it; larger ones are not worth it.
_COPY_PAYS_BYTES = 4096
# Held bytes written by one call: they are copied into one piece.
_FLUSH_BYTES = 1024 * 1024

_log = logging.getLogger("kalam_notify.delivery")


class _Chunk(NamedTuple):
    """Side by side: slots of a live list, and the descriptors and heads that stand there."""

    slots: Sequence[int]
    fds: Sequence[int]
    heads: Sequence[Head]

    def is_alike(self) -> bool:
        """Whether all heads are one and the same."""
        heads = self.heads
        count = len(heads)
        return count == 1 or (heads[0] is heads[-1] and heads.count(heads[0]) == count)

    def chosen(self, chosen: Sequence[bool]) -> "_Chunk":
        return _Chunk(
            list(compress(self.slots, chosen)),
            list(compress(self.fds, chosen)),
            list(compress(self.heads, chosen)),
        )


class Job(NamedTuple):
    """`frames` for the live subscriptions in the slots from `start` to `end` of a plan.

    Those that are too full fall back to the position `after`. With `holds`, those that have a
    sibling hold them: the sibling's plan sees the same, and is served after this one.
    """

    plan: Plan
    start: int
    end: int
    frames: FrameSet
    after: int
    holds: bool = False

    def chunk(self) -> _Chunk:
        plan, start, end = self[:3]
        return _Chunk(range(start, end), plan.fds[start:end], plan.heads[start:end])

    def handle(self, slot: int) -> SubscriptionHandle:
        """Whose slot it is, one that is no hole."""
        handle = self.plan.live[slot]
        assert handle is not None
        return handle

    def handles(self) -> Sequence[SubscriptionHandle | None]:
        return self.plan.live[self.start : self.end]


class _Bundle:
    """Jobs with descriptors to write to, laid out for one call."""

    __slots__ = ("_jobs", "_parts", "fds", "plans", "runs")

    def __init__(self) -> None:
        self.fds: list[int] = []
        self.runs: list[Run] = []
        self._parts: list[bytes] = []
        self._jobs: list[tuple[Job, _Chunk]] = []
        self.plans: set[Plan] = set()

    def __iter__(self) -> Iterator[tuple[Job, _Chunk]]:
        return iter(self._jobs)

    def add(self, job: Job, chunk: _Chunk) -> None:
        """Take a job for subscriptions all of which have descriptors."""
        self._jobs.append((job, chunk))
        self.plans.add(job.plan)
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
        """How many bytes go out in all."""
        return sum(
            run.size * run.times if isinstance(run, Alike) else sum(run) for run in self.runs
        )

    def is_current(self) -> bool:
        """Whether every descriptor may still be written to, and none stands here twice."""
        return len(set(self.fds)) == len(self.fds) and all(
            _still_there(job, chunk) for job, chunk in self._jobs
        )

    def sink_at(self, index: int) -> tuple[Sink, bytes]:
        """Who is behind a descriptor, and what was for it."""
        for job, chunk in self._jobs:
            if index < len(chunk.slots):
                frames = job.frames.for_head(chunk.heads[index])
                return job.handle(chunk.slots[index]).sink, frames
            index -= len(chunk.slots)
        raise IndexError


def _still_there(job: Job, chunk: _Chunk) -> bool:
    fds, slots = job.plan.fds, chunk.slots
    if type(slots) is range:
        return fds[slots.start : slots.stop] == chunk.fds
    return [fds[slot] for slot in slots] == chunk.fds


class ChunkSender:
    """Hands messages to chunks of live subscriptions, of one plan or several."""

    def __init__(
        self,
        stats: FanoutStats,
        ring: Ring | None = None,
        waiting: Sized = (),
        write: Callable[[int, bytes], int] = os.write,
    ) -> None:
        """`ring` writes to many descriptors at once (None: there is none), `write` to one.

        `waiting` are the batches that wait for the log's writer.
        """
        self._waiting = waiting
        self._stats = stats
        self._ring = ring
        self._write = write

    def send(self, jobs: Sequence[Job], held: dict[Sink, None]) -> None:
        """Do these jobs, which are for no more slots than the ring has entries.

        Sinks that hold something are put into `held`, for `flush`.
        """
        bundle = _Bundle()
        for job in jobs:
            if job.plan in bundle.plans and (job.holds or NO_FD in job.plan.fds):
                # What is done at once must not overtake what the bundle has for the same plan.
                self._send_bundle(bundle, held)
                bundle = _Bundle()
            chunk = self._without_held(job, held)
            if self._ring is None:
                self._send_in_turn(job, chunk, held)
                continue
            if NO_FD in chunk.fds:
                is_direct = [fd >= 0 for fd in chunk.fds]
                self._send_in_turn(job, chunk.chosen([not it for it in is_direct]), held)
                chunk = chunk.chosen(is_direct)
            if not chunk.fds:
                continue
            if job.frames.size <= _COPY_PAYS_BYTES:
                bundle.add(job, chunk)
            else:
                self._send_bundle(bundle, held)
                bundle = _Bundle()
                self._send_large(job, chunk, held)
        self._send_bundle(bundle, held)

    def _without_held(self, job: Job, held: dict[Sink, None]) -> _Chunk:
        """The job's chunk without those that hold their messages, which do so here."""
        if not job.holds:
            return job.chunk()
        holds = [handle is not None and handle.has_sibling for handle in job.handles()]
        taken = size = 0
        for handle in compress(job.handles(), holds):
            assert handle is not None
            data = job.frames.for_head(handle.head)
            if self._hand_over(handle, data, job.after, held, holds=True):
                taken += 1
                size += len(data)
        self._count(taken * job.frames.row_count, size)
        return job.chunk().chosen([not it for it in holds])

    def _send_large(self, job: Job, chunk: _Chunk, held: dict[Sink, None]) -> None:
        """Messages too large to be copied, unless all are the same ones: by themselves then."""
        if len(chunk.fds) >= _RING_PAYS and chunk.is_alike():
            alone = _Bundle()
            alone.add(job, chunk)
            self._send_bundle(alone, held)
        else:
            self._send_in_turn(job, chunk, held)

    def _send_bundle(self, bundle: _Bundle, held: dict[Sink, None]) -> None:
        if self._ring is not None and len(bundle.fds) >= _RING_PAYS:
            if bundle.is_current():
                self._send_at_once(self._ring, bundle)
            else:
                self._send_merged(self._ring, bundle, held)
            return
        for job, chunk in bundle:
            self._send_in_turn(job, chunk, held)

    def _send_merged(self, ring: Ring, bundle: _Bundle, held: dict[Sink, None]) -> None:
        """Write once to each descriptor, in order, with everything in the bundle that is for it."""
        parts: dict[int, list[bytes]] = {}
        sinks: list[Sink] = []
        rows = 0
        for job, chunk in bundle:
            fds, frames = job.plan.fds, job.frames
            for slot, head in zip(chunk.slots, chunk.heads, strict=True):
                fd, data = fds[slot], frames.for_head(head)
                if fd < 0:
                    one = _Chunk((slot,), (fd,), (head,))
                    self._send_in_turn(job, one, held)
                    continue
                if fd in parts:
                    parts[fd].append(data)
                else:
                    parts[fd] = [data]
                    sinks.append(job.handle(slot).sink)
                rows += frames.row_count
        pieces = [b"".join(of) for of in parts.values()]
        self._write_pieces(ring, list(parts), pieces, sinks)
        self._count(rows, sum(map(len, pieces)))

    def _send_at_once(self, ring: Ring, bundle: _Bundle) -> None:
        for index, sent in ring.send(bundle.fds, bundle.data(), bundle.runs, self._step()):
            sink, frames = bundle.sink_at(index)
            _complete(sink, frames, sent)
        rows = sum(len(chunk.fds) * job.frames.row_count for job, chunk in bundle)
        self._count(rows, bundle.size())

    def _step(self) -> int | None:
        return _STEP_WHILE_STORING if self._waiting else None

    def _send_in_turn(self, job: Job, chunk: _Chunk, held: dict[Sink, None]) -> None:
        plan, frames = job.plan, job.frames
        write, head, data = self._write, None, b""
        taken = size = sent = 0
        fds = plan.fds
        for slot, its_head in zip(chunk.slots, chunk.heads, strict=True):
            # Read when its turn has come: a send before may have been to the same connection.
            fd = fds[slot]
            if its_head is not head:
                head = its_head
                data = frames.for_head(head)
            if fd >= 0:
                try:
                    sent = write(fd, data)
                except BlockingIOError:
                    sent = 0
                except OSError:
                    sent = -1
                if sent != len(data):
                    _complete(job.handle(slot).sink, data, sent)
            else:
                handle = plan.live[slot]
                if handle is None or not self._hand_over(handle, data, job.after, held):
                    continue
            taken += 1
            size += len(data)
        self._count(taken * frames.row_count, size)

    def _hand_over(
        self,
        handle: SubscriptionHandle,
        data: bytes,
        after: int,
        held: dict[Sink, None],
        *,
        holds: bool = False,
    ) -> bool:
        """Have a sink take frames; False: it is full, and the subscription behind from here."""
        sink = handle.sink
        try:
            if holds or sink in held:
                held[sink] = None
                taken = sink.hold(data)
            else:
                taken = sink.offer(data)
        except Exception as error:
            _fail(sink, error)
            return False
        if not taken:
            handle.overfull(after)
            self._stats.catch_ups += 1
        return taken

    def _count(self, rows: int, size: int) -> None:
        self._stats.deliveries += rows
        self._stats.delivery_bytes += size

    def flush(self, sinks: Iterable[Sink]) -> None:
        """Write what these hold, to no more of them than the ring has entries."""
        if self._ring is None:
            for sink in sinks:
                _flush(sink)
            return
        fds, parts, behind = list[int](), list[bytes](), list[Sink]()
        size = 0
        for sink in sinks:
            fd, data = sink.take_held()
            if fd >= 0:
                fds.append(fd)
                parts.append(data)
                behind.append(sink)
                size += len(data)
            if size >= _FLUSH_BYTES:
                self._write_pieces(self._ring, fds, parts, behind)
                fds, parts, behind, size = [], [], [], 0
        self._write_pieces(self._ring, fds, parts, behind)

    def _write_pieces(
        self, ring: Ring, fds: Sequence[int], pieces: Sequence[bytes], sinks: Sequence[Sink]
    ) -> None:
        """Write a piece of its own to each of these descriptors, no two of which are the same."""
        if not fds:
            return
        sizes = list(map(len, pieces))
        for index, sent in ring.send(fds, b"".join(pieces), [sizes], self._step()):
            _complete(sinks[index], pieces[index], sent)


def _complete(sink: Sink, frames: bytes, sent: int) -> None:
    try:
        sink.complete(frames, sent)
    except Exception as error:
        _fail(sink, error)


def _flush(sink: Sink) -> None:
    try:
        sink.flush()
    except Exception as error:
        _fail(sink, error)


def _fail(sink: Sink, error: Exception) -> None:
    """End one connection whose own sending raised: nobody else is to notice."""
    _log.error("a connection failed while it was sent to", exc_info=error)
    try:
        sink.end(close.INTERNAL_FAULT)
    except Exception:
        _log.exception("... and while it was closed")
