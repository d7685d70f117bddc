"""Asking a filter about many rows without holding the event loop up.

Rows are read in threads, and SQLite does that without the interpreter lock. Decoding and filtering
them needs the lock, and a thread that has it keeps it for a switch interval (5 ms) however urgently
the loop asks, and the loop asks anew after each of its own system calls: a scan in a thread makes
every walk over a thousand sockets many times longer. So it is the loop that asks the filter, a
quarter of a millisecond a turn, whatever the number of scans; they take their slices in the order
in which they come. An idle loop has nothing but such turns, and a busy one is late by one slice a
turn at most.

A few rows are not worth the way to the loop and back; the thread asks about them itself.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence

from kalam_notify.model import Row
from kalam_notify.store.base import Matches

Candidate = tuple[int, Row]

_SLICE_SECONDS = 0.00025
_FEW_ROWS = 64
_FEW_BYTES = 32 * 1024

RowFilter = Callable[[Sequence[Candidate], Matches], list[Candidate]]
"""The candidates that match. Called in a thread other than the loop's."""


class LoopFilter:
    """A RowFilter for all threads that serve one event loop, made on that loop."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._slice = asyncio.Lock()

    def __call__(self, candidates: Sequence[Candidate], matches: Matches) -> list[Candidate]:
        """Wait for the loop to row_filter the candidates. Raises what `matches` raises."""
        if _are_few(candidates):
            return [found for found in candidates if matches(found[1].values)]
        judged = self._keep_matching(candidates, matches)
        return asyncio.run_coroutine_threadsafe(judged, self._loop).result()

    async def _keep_matching(
        self, candidates: Sequence[Candidate], matches: Matches
    ) -> list[Candidate]:
        waiting = iter(candidates)
        kept: list[Candidate] = []
        is_done = False
        while not is_done:
            async with self._slice:
                is_done = self._judge_some(waiting, matches, kept)
                # Under the lock: the next slice, whosesoever it is, belongs to another turn.
                await asyncio.sleep(0)
        return kept

    def _judge_some(
        self, waiting: Iterator[Candidate], matches: Matches, kept: list[Candidate]
    ) -> bool:
        """One slice; True when nothing waits any more."""
        clock = self._clock
        until = clock() + _SLICE_SECONDS
        for found in waiting:
            if matches(found[1].values):
                kept.append(found)
            if clock() >= until:
                return False
        return True


def _are_few(candidates: Sequence[Candidate]) -> bool:
    if len(candidates) > _FEW_ROWS:
        return False
    return sum(len(row.json) for _, row in candidates) <= _FEW_BYTES
