"""The files of a log, the highest seq ever given, and the log's time.

The files: whether they are still the ones that were opened. An open file outlives its name. Where
somebody removes, replaces or moves the data directory, the log, its write-ahead log or the index of
that, writing goes on into what nobody will find again, or beside those who have opened another. So
before every transaction the names have to lead to the same files. A name can lead elsewhere only
when the directory's time of change moves, so most of the time one look at the directory is enough
(`entries_state`). For each call by which Python asks the system lets go of the interpreter, and a
busy event loop takes it.

The files may come back by their names, and then everything is as it was. Where they do not, what
was acknowledged is still held by the open files, and a restart is needed to begin with others.

The mark is the highest seq ever given in a data directory, in a file of its own beside the log. A
seq is all that a client knows of where it was. Where an older copy of the log is put back, or the
log is lost, the same seqs would be given again, to other changes, and a client from before would
be resumed into a history that is not its own. The mark is what outlives the log's file: a log that
ends below it has lost changes, and goes on behind it, with everything before out of reach
(schema.prepare), so that every client begins anew. Its format is the seq as 16 decimal digits and a
line feed. Any other number, written by an operator who brings a log to another directory, is as
good.

The time of the log is Unix time that never goes back. Entries leave the log by their age. Told by a
clock that has been put back, none would be due until it has made up for that, and those written
since would stand before older ones. So the log's time follows the clock forwards, and goes on at
its own pace while the clock is behind; a log that is opened goes on from its newest entry at least.
"""

import errno
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

FileId = tuple[int, int]
"""Device and inode."""

EntriesState = tuple[int, int, int]
"""Device, inode and time of change (nanoseconds) of a directory: equal ones mean equal entries."""

# Longer than the coarsest file system's clock takes to its next tick.
_SETTLED_NS = 3_000_000_000


def entries_state(directory: str, now_ns: Callable[[], int] = time.time_ns) -> EntriesState | None:
    """What stands for the names in a directory, and the files they lead to.

    None where they changed so lately that one more change might leave the directory's time as it
    is (as git asks of its index, "racy git"), or where the directory cannot be looked at. A mount
    over a single file moves no time: who must see that looks at the file.
    """
    try:
        found = os.stat(directory)  # noqa: PTH116 (asked before every transaction)
    except OSError:
        return None
    if now_ns() - found.st_mtime_ns < _SETTLED_NS:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


class MovedFiles(Exception):
    """A file of the log is not the one that was opened; the message says which, and what to do."""


class LogFiles:
    """Remembers which files were opened. Opened by one thread, checked by any."""

    def __init__(self, path: Path) -> None:
        whole = path.resolve()
        # These two go with the last user of the file, and come with the next.
        self._passing = (Path(f"{whole}-wal"), Path(f"{whole}-shm"))
        self._names = (path.parent, path, *self._passing)
        self._known: dict[Path, FileId] = {}
        # Where the names stand: two directories where the file's own is a link to another.
        self._directories = tuple({str(path.parent): None, str(whole.parent): None})
        # Under which all names led to the known files; None: not known.
        self._sound: Sequence[EntriesState | None] | None = None

    def opened(self) -> None:
        """The files have been opened, and are the right ones; raises MovedFiles where they had been
        opened before and are others now. The write-ahead log may be: it goes with its last user.
        """
        self._known.pop(self._names[-1], None)
        self.check()

    def check_if_changed(self) -> EntriesState | None:
        """`check`, unless no name has changed since; the state of the log's directory.

        That is from before the check, and None where it says nothing.
        """
        states = [entries_state(directory) for directory in self._directories]
        if states != self._sound:
            self.check()
            self._sound = None if None in states else states
        return states[0]

    def check(self) -> None:
        """Raise MovedFiles unless all files that were ever seen are where they were."""
        for name in self._names:
            found, known = _identity(name), self._known.get(name)
            if known is None and found is not None:
                # The write-ahead log comes into being with the first use of the file.
                self._known[name] = found
            elif found != known:
                what = "is gone" if found is None else "is another file than the one in use"
                raise MovedFiles(
                    f"{name} {what}: put it back, or restart the server to begin with what is there"
                )


def _identity(name: Path) -> FileId | None:
    try:
        found = os.stat(name)  # noqa: PTH116 (asked before every transaction)
    except OSError as fault:
        if fault.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise MovedFiles(f"{name} cannot be looked at: {fault}") from fault
    return found.st_dev, found.st_ino


def _is_read_only(directory: Path) -> bool:
    try:
        return bool(os.statvfs(directory).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def cure(path: Path, fault: Exception) -> str:
    """What to do where a log's file cannot be opened or created."""
    directory = path.parent
    if isinstance(fault, sqlite3.DatabaseError) and not isinstance(fault, sqlite3.OperationalError):
        return f"restore a copy, or see what `kalam-notify doctor {directory}` tells"
    if path.is_dir():
        return f"{path} is a directory: move it away, or give another data_dir"
    number, text = getattr(fault, "errno", None), str(fault)
    if number == errno.ENOSPC or "full" in text:
        return f"free some space on the disk of {directory}"
    if number == errno.EIO or "disk I/O" in text:
        return f"the disk of {directory} errs: see the kernel's log (dmesg), and replace it"
    if "locked" in text or "busy" in text:
        return "another program holds the file: end it"
    if number == errno.EROFS or _is_read_only(directory):
        return f"{directory} is read-only: mount it for writing, or give another data_dir"
    if number in (errno.EEXIST, errno.ENOTDIR) or (directory.exists() and not directory.is_dir()):
        return f"{directory} has to be a directory: give another data_dir"
    user = f"user {os.geteuid()}"
    return f"make {directory} and its files writable for {user}, or give another data_dir"


_logger = logging.getLogger(__name__)

_HIGHEST = 2**52


def mark_path(log: Path) -> Path:
    """The file of the mark of the log in this file."""
    return log.with_suffix(".mark")


def read_high_water(log: Path) -> int:
    """The mark; 0 where there is none, or none that can be read (the log says so)."""
    try:
        return found_high_water(log)
    except (OSError, ValueError) as fault:
        _logger.warning("%s is not heeded: %s", mark_path(log), fault)
        return 0


def found_high_water(log: Path) -> int:
    """The mark; 0 where there is none. Raises OSError or ValueError where it cannot be read."""
    try:
        text = mark_path(log).read_text("ascii").strip()
    except FileNotFoundError:
        return 0
    if not text.isdecimal() or int(text) > _HIGHEST:
        raise ValueError(f"it holds no seq: {text:.40}")
    return int(text)


def says_more(log: Path) -> str:
    """What is wrong where the mark is beyond the end of a log that is in use."""
    return (
        f"{mark_path(log)} is another file than the one in use, and says more: put the old one"
        " back, or restart the server to go on behind it"
    )


class HighWaterMark:
    """The writing side. A mark that cannot be written costs no change: what it says is a promise
    about a loss that may never come.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._path = mark_path(log)
        self._name = str(self._path)
        self._descriptor: int | None = None
        self._last = 0
        # That of the directory when the mark was last found to be ours.
        self._sound: EntriesState | None = None

    def set(self, seq: int) -> None:
        """Everything up to `seq` has been given."""
        self._last = seq
        with suppress(OSError):
            if self._descriptor is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
                self._descriptor = os.open(self._path, flags, 0o640)
            os.pwrite(self._descriptor, b"%016d\n" % seq, 0)

    def check(self, ends_at: Callable[[], int], entries: EntriesState | None = None) -> None:
        """Write another file where the mark's has been removed; raise MovedFiles where one that
        says more than the log's end has been put in its place.

        One that says no more is that of another worker, who was first to miss it. `ends_at` tells
        the log's last seq, and is asked after the mark: no mark is set before its commit. `entries`
        is the state of the mark's directory, from before this call.
        """
        if self._descriptor is None or (entries is not None and entries == self._sound):
            return
        ours = os.fstat(self._descriptor)
        try:
            found = os.stat(self._name)  # noqa: PTH116 (asked before every transaction)
        except OSError:
            found = None
        if found is not None and (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino):
            self._sound = entries
            return
        mark = read_high_water(self._log)
        if mark > self._last and mark > ends_at():
            raise MovedFiles(says_more(self._log))
        if found is None:
            _logger.warning("%s was removed: it is written anew", self._path)
        self.close()
        self.set(max(self._last, mark))

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class LogTime:
    """Seconds since 1970 by `clock`, held up by `ticking`, which only rises."""

    def __init__(
        self, clock: Callable[[], float], ticking: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._ticking = ticking
        self._now = 0.0
        self._seen = ticking()

    def not_before(self, seconds: float) -> None:
        """Something has been written at that time."""
        self._now = max(self._now, seconds)

    def __call__(self) -> float:
        seen = self._ticking()
        self._now = max(self._clock(), self._now + max(0.0, seen - self._seen))
        self._seen = seen
        return self._now
