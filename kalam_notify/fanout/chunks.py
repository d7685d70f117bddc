"""One chunk of the fan-out: the same messages to a few hundred live subscriptions.

Nothing here waits and nobody else has a turn meanwhile, so what stands in a plan's roster stays as
it is. As long as doors are open, nothing is touched but the roster's flat lists
(subscriptions/roster.py tells why), and the kernel is handed a whole chunk at once where it can
take one (uring.py).
"""

import os
from collections.abc import Callable, Sequence
from itertools import accumulate, compress
from typing import NamedTuple

from kalam_notify.fanout.frames import FrameSet
from kalam_notify.fanout.stats import FanoutStats
from kalam_notify.fanout.uring import Ring
from kalam_notify.protocol.heads import Head
from kalam_notify.subscriptions.handle import Sink, SubscriptionHandle
from kalam_notify.subscriptions.plans import Plan
from kalam_notify.subscriptions.roster import SHUT

# Laying out a chunk for the kernel costs as much as a few sends.
_RING_PAYS = 8
# Sends in one call while batches wait to be stored, 0.2 ms or so: the log's writer may have neither
# core nor interpreter to itself.
_STEP_WHILE_STORING = 32
# Messages with heads of their own are copied into one piece for it; larger ones are not worth it.
_COPY_PAYS_BYTES = 4096


class _Chunk(NamedTuple):
    """Side by side: places in the roster, and the doors and heads that stood there."""

    places: Sequence[int]
    doors: Sequence[int]
    heads: Sequence[Head]

    def is_alike(self) -> bool:
        """Whether all heads are one and the same."""
        heads = self.heads
        return heads[0] is heads[-1] and heads.count(heads[0]) == len(heads)

    def parted(self) -> "tuple[_Chunk, _Chunk]":
        """Those whose doors are open, and those whose doors are shut."""
        is_open = [door >= 0 for door in self.doors]
        return self._those(is_open), self._those([not it for it in is_open])

    def _those(self, chosen: Sequence[bool]) -> "_Chunk":
        return _Chunk(
            list(compress(self.places, chosen)),
            list(compress(self.doors, chosen)),
            list(compress(self.heads, chosen)),
        )


class ChunkSender:
    """Hands messages to chunks of a plan's live subscriptions."""

    def __init__(
        self,
        stats: FanoutStats,
        ring: Ring | None = None,
        is_storing: Callable[[], bool] = lambda: False,
        write: Callable[[int, bytes], int] = os.write,
    ) -> None:
        """`ring` puts bytes through many open doors (None: there is none), `write` through one.

        `is_storing` tells whether batches wait for the log's writer.
        """
        self._is_storing = is_storing
        self._stats = stats
        self._ring = ring
        self._write = write

    def send(
        self,
        plan: Plan,
        start: int,
        end: int,
        frames: FrameSet,
        after: int,
        held: dict[Sink, None],
    ) -> None:
        """Hand `frames` to the live subscriptions in the places from `start` to `end`.

        Those that are too full fall back to the position `after`. Sinks that several
        subscriptions share are put into `held`, to be flushed.
        """
        chunk = _Chunk(range(start, end), plan.doors[start:end], plan.heads[start:end])
        if self._ring is not None and len(chunk.doors) >= _RING_PAYS:
            if SHUT in chunk.doors:
                chunk, others = chunk.parted()
                self._send_in_turn(plan, others, frames, after, held)
            if len(chunk.doors) >= _RING_PAYS:
                alike = chunk.is_alike()
                if alike or frames.size <= _COPY_PAYS_BYTES:
                    self._send_at_once(self._ring, plan, chunk, frames, alike=alike)
                    return
        self._send_in_turn(plan, chunk, frames, after, held)

    def _send_at_once(
        self, ring: Ring, plan: Plan, chunk: "_Chunk", frames: FrameSet, *, alike: bool
    ) -> None:
        places, doors, heads = chunk
        count = len(doors)
        step = _STEP_WHILE_STORING if self._is_storing() else None
        if alike:
            data = frames.for_head(heads[0])
            sizes = [len(data)] * count
            refused = ring.send(doors, data, step)
        else:
            data, sizes = frames.for_heads(heads)
            refused = ring.send_parts(doors, data, sizes, step)
        if refused:
            begins = [0] * count if alike else list(accumulate(sizes, initial=0))
            for index, sent in refused:
                part = data[begins[index] : begins[index] + sizes[index]]
                _sink_at(plan, places[index]).complete(part, sent)
        self._stats.deliveries += count * frames.row_count
        self._stats.delivery_bytes += sum(sizes)

    def _send_in_turn(
        self,
        plan: Plan,
        chunk: "_Chunk",
        frames: FrameSet,
        after: int,
        held: dict[Sink, None],
    ) -> None:
        write, head, data = self._write, None, b""
        taken = size = sent = 0
        for place, door, its_head in zip(*chunk, strict=True):
            if its_head is not head:
                head = its_head
                data = frames.for_head(head)
            if door >= 0:
                try:
                    sent = write(door, data)
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
        """Offer frames to a sink whose door is shut; False: it is full, or nobody is there."""
        if handle is None:
            return False
        if handle.has_company:
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
