"""The highest seq ever given in a data directory, in a file of its own beside the log.

A seq is all that a client knows of where it was. Where an older copy of the log is put back, or the
log is lost, the same seqs would be given again, to other changes, and a client from before would
be resumed into a history that is not its own. The mark is what outlives the log's file: a log that
ends below it has lost changes, and goes on behind it, with everything before out of reach
(schema.prepare), so that every client begins anew.

Format: the seq as 16 decimal digits and a line feed. Any other number, written by an operator who
brings a log to another directory, is as good.
"""

import logging
import os
from contextlib import suppress
from pathlib import Path

from kalam_notify.store.files import MovedFiles

_logger = logging.getLogger(__name__)

_HIGHEST = 2**52


def mark_path(log: Path) -> Path:
    """The file of the mark of the log in this file."""
    return log.with_suffix(".mark")


def read_high_water(log: Path) -> int:
    """The mark; 0 where there is none, or none that can be read (the log says so)."""
    path = mark_path(log)
    try:
        text = path.read_text("ascii").strip()
    except FileNotFoundError:
        return 0
    except (OSError, ValueError) as fault:
        _logger.warning("%s cannot be read, and is not heeded: %s", path, fault)
        return 0
    if not text.isdecimal() or int(text) > _HIGHEST:
        _logger.warning("%s holds no seq, and is not heeded: %.40r", path, text)
        return 0
    return int(text)


class HighWaterMark:
    """The writing side. A mark that cannot be written costs no change: what it says is a promise
    about a loss that may never come.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._path = mark_path(log)
        self._descriptor: int | None = None
        self._last = 0

    def set(self, seq: int) -> None:
        """Everything up to `seq` has been given."""
        self._last = seq
        with suppress(OSError):
            if self._descriptor is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
                self._descriptor = os.open(self._path, flags, 0o640)
            os.pwrite(self._descriptor, b"%016d\n" % seq, 0)

    def check(self) -> None:
        """Write another file where the mark's has been removed; raise MovedFiles where one that
        says more has been put in its place.
        """
        if self._descriptor is None:
            return
        ours = os.fstat(self._descriptor)
        try:
            found = self._path.stat()
        except OSError:
            found = None
        if found is not None and (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino):
            return
        if found is not None and read_high_water(self._log) > self._last:
            raise MovedFiles(
                f"{self._path} is another file than the one in use, and says more: put the old one"
                " back, or restart the server to go on behind it"
            )
        _logger.warning("%s was removed or replaced: it is written anew", self._path)
        self.close()
        self.set(self._last)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
