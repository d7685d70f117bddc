"""Taking write_lock at writing, among the processes that share a log's file.

SQLite's own wait for its write lock is a poll with ever longer sleeps, up to a tenth of a second:
a process that commits without pause has the lock again before a sleeper looks, and the sleeper's
posts wait for hundreds of milliseconds. `flock` waits in the kernel and is woken by the release.
SQLite's lock is still what protects the file; this one only says who asks for it next, so a system
that cannot give it loses nothing but pace. Like SQLite's, it is let go when its holder dies.

The lock is on the directory, which is always there and is nobody else's to lock.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class WriteLock:
    """The write_lock at writing in one directory, as one thread takes them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._descriptor: int | None = None

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn, and pass it on at the end."""
        with suppress(OSError):
            if self._descriptor is None:
                self._descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            if self._descriptor is not None:
                with suppress(OSError):
                    fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the directory."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
