"""Memory that was needed for a while, given back to the system.

glibc keeps what is freed in its heaps, for the next who asks. After 1,000 readers had stalled and
gone, that was 250 MB that nobody asked for again. So it is looked at now and then: what has lain
idle for a whole period, and is a good part of what the process takes, goes back (malloc_trim(3)).

The C library counts pages it has given back as free like all others; so what counts here is what
became free since the last time.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

LEAST_BYTES: Final = 32 * 1024 * 1024
"""Less than this is not worth the page faults of whoever needs it next."""

PART: Final = 8
"""Nor is less than this part of what the process takes."""


class Heap(Protocol):
    """What the C library manages."""

    def free_bytes(self) -> int:
        """Bytes that are free in it, given back or not."""

    def trim(self) -> None:
        """Give back what is free."""


class Keeper:
    """Decides when there is enough to give back; `resident` tells what the process takes."""

    def __init__(self, heap: Heap, resident: Callable[[], int]) -> None:
        self._heap = heap
        self._resident = resident
        # What was free and given back; what of it is used again is not.
        self._given_back = 0
        self._idle_before = 0

    def is_due(self) -> bool:
        """Asked once a period: whether enough has lain idle since the last time."""
        free = self._heap.free_bytes()
        self._given_back = min(self._given_back, free)
        idle, before = free - self._given_back, self._idle_before
        self._idle_before = idle
        return min(idle, before) >= max(LEAST_BYTES, self._resident() // PART)

    def give_back(self) -> None:
        """Give it back. Takes some tenth of a second for 250 MB: best in a thread.

        Others may go on meanwhile, but for those who ask for more than small pieces of memory.
        """
        self._given_back, self._idle_before = self._heap.free_bytes(), 0
        self._heap.trim()


def open_keeper() -> Keeper | None:
    """A keeper of this process's heap, or None where the C library is another."""
    try:
        return Keeper(_Glibc(), resident_bytes)
    except (ImportError, OSError, AttributeError, MemoryError):
        return None


def resident_bytes() -> int:
    """What this process takes of the machine's memory; 0 where that cannot be told."""
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


# The fields of struct mallinfo2, all of type size_t: mallinfo(3).
_MALLINFO2: Final = (
    *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
    *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
)


class _Glibc:
    def __init__(self) -> None:
        # Where memory must not be both written and executed, importing it may fail.
        import ctypes

        class Mallinfo2(ctypes.Structure):
            _fields_ = tuple((name, ctypes.c_size_t) for name in _MALLINFO2)

        libc = ctypes.CDLL(None)
        self._info, self._trim = libc.mallinfo2, libc.malloc_trim
        self._info.restype = Mallinfo2
        self._trim.argtypes = (ctypes.c_size_t,)

    def free_bytes(self) -> int:
        return int(self._info().fordblks)

    def trim(self) -> None:
        self._trim(0)
