"""CPU time and memory of processes, as the operating system counts them.

The clock of `/proc/<pid>/stat` ticks every 10 ms. POSIX gives every process a CPU-time clock with
nanoseconds (clock_getcpuclockid(3)); on Linux its id is computed from the pid, and any process may
read it. It counts user and system time of all threads, those that have ended included.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

_SCHED_CLOCK = 2  # CPUCLOCK_SCHED in the kernel's posix-timers: exact run time, not ticks


def cpu_ns(pid: int) -> int:
    """User and system time that a process has used, in nanoseconds; 0 when it is gone."""
    try:
        return time.clock_gettime_ns((~pid << 3) | _SCHED_CLOCK)
    except OSError:
        return 0


def process_tree(root: int) -> list[int]:
    """A process and all its descendants, by pid."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children.get(pid, [])
    return found


def resident_bytes(root: int) -> int:
    """Resident memory of a process and its descendants; shared pages count once for each sharer."""
    total = 0
    for pid in process_tree(root):
        with contextlib.suppress(OSError):
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += sum(
                int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Rss:")
            )
    return total * 1024


class CpuMeter:
    """CPU time used by process trees since the last lap; of `alone` without its descendants."""

    def __init__(self, *roots: int, alone: int | None = None) -> None:
        self._roots = roots
        self._alone = alone
        self._last = self._now()

    def _now(self) -> dict[int, int]:
        pids = [pid for root in self._roots for pid in process_tree(root)]
        if self._alone is not None:
            pids.append(self._alone)
        return {pid: cpu_ns(pid) for pid in pids}

    def lap(self) -> int:
        """Nanoseconds used since the lap before (of processes still there), all cores together."""
        now = self._now()
        used = sum(max(0, ns - self._last.get(pid, 0)) for pid, ns in now.items())
        self._last = now
        return used


class Cores:
    """Which core the measured side runs on and which the measuring side; empty: not pinned."""

    def __init__(self) -> None:
        available = sorted(os.sched_getaffinity(0))
        self.all = frozenset(available)
        apart = len(available) > 1
        self.server = frozenset(available[:1]) if apart else self.all
        self.client = frozenset(available[1:2]) if apart else self.all
        self.are_apart = apart

    @staticmethod
    @contextlib.contextmanager
    def inherit(cores: frozenset[int]) -> Iterator[None]:
        """Processes started inside run on these cores, all their threads included."""
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores)
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)
