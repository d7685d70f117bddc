"""How the processes that share a log's file tell each other of a commit.

Each process keeps a named pipe beside the file and watches it from its event loop; after a commit
the writer drops a byte into everybody else's. A byte says "look at the file", nothing more, so a
full pipe needs no second byte and a lost one costs no change: whoever is rung next, or looks for
another reason, reads all that is new. Named pipes, because the path of a socket is limited to some
hundred bytes and a data directory's is not.

A process that was killed leaves its pipe behind. Nobody reads there any more, which the next writer
notices when it opens the pipe, and removes it. Names are never used twice.
"""

import asyncio
import contextlib
import errno
import os
import secrets
from collections.abc import Callable
from pathlib import Path

_PREFIX = "doorbell-"


class Doorbell:
    """The pipe of this process, and the way to everybody else's."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / f"{_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
        self._pipe: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def hang(self, on_ring: Callable[[], None]) -> None:
        """Make the pipe; `on_ring` is called on the running event loop."""
        # Under its name only once it is open, else a ringer would take it for a dead process's.
        made = self._path.with_name(f".{self._path.name}")
        os.mkfifo(made, mode=0o600)
        # Opened for writing as well, so that it never reads as ended.
        self._pipe = os.open(made, os.O_RDWR | os.O_NONBLOCK)
        made.rename(self._path)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._pipe, self._answer, self._pipe, on_ring)

    def take_down(self) -> None:
        if self._pipe is None or self._loop is None:
            return
        self._loop.remove_reader(self._pipe)
        os.close(self._pipe)
        self._pipe = None
        self._path.unlink(missing_ok=True)

    @staticmethod
    def _answer(pipe: int, on_ring: Callable[[], None]) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(pipe, 65536)
        on_ring()

    def ring_others(self) -> int:
        """Ring every other process; how many there are. Not for the event loop."""
        return sum(_ring(path) for path in _bells(self._directory) if path != self._path)


def ring_all(directory: Path) -> int:
    """Ring everybody who follows a log in this directory; how many there are.

    For whoever sees that a writer has died: it may have committed, and not rung any more.
    """
    return sum(_ring(path) for path in _bells(directory))


def _bells(directory: Path) -> list[Path]:
    try:
        return [path for path in directory.iterdir() if path.name.startswith(_PREFIX)]
    except OSError:
        # The commit stands whether or not anybody hears of it.
        return []


def _ring(path: Path) -> bool:
    try:
        pipe = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as fault:
        if fault.errno == errno.ENXIO:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        return False
    try:
        # Full, or closed this very moment: nothing is owed to either.
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(pipe, b"!")
    finally:
        os.close(pipe)
    return True
