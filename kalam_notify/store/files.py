"""The files of a log, and whether they are still the ones that were opened.

An open file outlives its name: where somebody removes, replaces or moves the data directory, the
log or its write-ahead log, writing goes on into what nobody will find again. So before every
transaction the names are looked at (a microsecond each): they have to lead to the same files.

The files may come back by their names, and then everything is as it was. Where they do not, what
was acknowledged is still held by the open files, and a restart is needed to begin with others.
"""

import errno
import os
import sqlite3
from pathlib import Path

FileId = tuple[int, int]
"""Device and inode."""


class MovedFiles(Exception):
    """A file of the log is not the one that was opened; the message says which, and what to do."""


class LogFiles:
    """Remembers which files were opened. Used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._names = (path.parent, path, Path(f"{path.resolve()}-wal"))
        self._known: dict[Path, FileId] = {}

    def opened(self) -> None:
        """The files have been opened (anew): these are the right ones."""
        self._known.clear()
        self.check()

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


def cure(path: Path, fault: Exception) -> str:
    """What to do where a log's file cannot be opened or created."""
    directory = path.parent
    if isinstance(fault, sqlite3.DatabaseError) and not isinstance(fault, sqlite3.OperationalError):
        return f"restore a copy, or see what `kalam-notify doctor {directory}` tells"
    number, text = getattr(fault, "errno", None), str(fault)
    if number == errno.ENOSPC or "full" in text:
        return f"free some space on the disk of {directory}"
    if "locked" in text or "busy" in text:
        return "another program holds the file: end it"
    if number == errno.EROFS:
        return f"{directory} is read-only: mount it for writing, or give another data_dir"
    if number in (errno.EEXIST, errno.ENOTDIR) or (directory.exists() and not directory.is_dir()):
        return f"{directory} has to be a directory: give another data_dir"
    user = f"user {os.geteuid()}"
    return f"make {directory} and its files writable for {user}, or give another data_dir"
