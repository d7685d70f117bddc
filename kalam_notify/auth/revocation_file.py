"""Revocations on disk: a file of JSON lines in the data directory, which all workers share.

Whoever revokes appends a line under a lock and has it on the disk before the answer. The others
look at the file's size (a microsecond) before they let a token pass, so none passes anywhere once
that answer was given, and twice a second for the sake of connections that are open. That needs
nobody to be told of anything: a worker that is starting, or whose supervisor has died, misses none.
A line without its line end was being written
in a crash, and never acknowledged. Lines that no longer matter are dropped at a start, by a file
that takes the place of the old one.
"""

import asyncio
import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from kalam_notify.auth.tokens import Revocation, Revocations
from kalam_notify.errors import StorageFault

FILE_NAME = "kalam.revoked"
LOOK_SECONDS = 0.5
"""How often the file is looked at without a token to judge: within this time every worker ends the
connections whose token another one has revoked."""

FORGET_SECONDS = 60.0
SPARE_LINES = 1000
"""As many lines that no longer matter are kept rather than the file written anew."""

_log = logging.getLogger("kalam_notify.auth")
_decode = msgspec.json.Decoder(Revocation).decode


class RevocationFile:
    """Keeps `revocations` and the file at one. `clock` is Unix time.

    Methods block for as long as the disk does; only `append` writes.
    """

    def __init__(
        self, path: Path, revocations: Revocations, clock: Callable[[], float] = time.time
    ) -> None:
        self._path = path
        self._name = str(path)
        self._revocations = revocations
        self._clock = clock
        # Which file has been read, and how far.
        self._inode = 0
        self._offset = 0
        self._on_found: Callable[[], None] = lambda: None
        # What the last look met with, told once.
        self._fault = ""

    def load(self) -> None:
        """Take in what the file says; raises StorageFault where it says something else."""
        try:
            lines = self._whole_lines()
            self._revocations.add(_parsed(lines))
            self._revocations.forget_expired(self._clock())
            if len(lines) > len(self._revocations) + SPARE_LINES:
                self._write_anew()
        except OSError as error:
            cure = "let the server read and write it"
            raise StorageFault(f"{self._path}: {error.strerror or error}: {cure}") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            cure = "mend the line or take it out; meanwhile revoked tokens might pass"
            raise StorageFault(
                f"{self._path}: not a list of revocations: {error}: {cure}"
            ) from None

    def append(self, revocation: Revocation) -> None:
        """Put one more on the disk; raises OSError."""
        with self._locked() as file:
            size = _without_torn_line(file)
            # Into a new file, or one that somebody has emptied, goes what is in force.
            lines = [] if size else [*self._revocations]
            file.writelines(map(_line, [*lines, revocation]))
            file.flush()
            os.fsync(file.fileno())
        _sync_directory(self._path)

    def look(self) -> Sequence[Revocation]:
        """What others have appended since the last look. Never raises: it is looked at again."""
        if not self._has_changed():
            self._fault = ""
            return ()
        fault = ""
        found: list[Revocation] = []
        try:
            for line in self._whole_lines():
                try:
                    found.append(_decode(line))
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    fault = f"a line that is no revocation: {error}"
        except OSError as error:
            fault = error.strerror or str(error)
        if fault and fault != self._fault:
            _log.error("%s: %s", self._path, fault)
        self._fault = fault
        self._revocations.add(found)
        if found:
            self._on_found()
        return found

    async def watch(self, on_found: Callable[[], None]) -> None:
        """Look for ever; `on_found` is called whenever something is found, by any look."""
        self._on_found = on_found
        forget_at = self._clock() + FORGET_SECONDS
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look()
            if self._clock() >= forget_at:
                self._revocations.forget_expired(self._clock())
                forget_at = self._clock() + FORGET_SECONDS

    def _has_changed(self) -> bool:
        """Whether there may be something that has not been read yet."""
        try:
            state = os.stat(self._name)  # noqa: PTH116 (asked for every token)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return state.st_ino != self._inode or state.st_size != self._offset

    def _whole_lines(self) -> list[bytes]:
        """The lines that have not been read yet."""
        if not self._has_changed():
            return []
        with self._path.open("rb") as file:
            state = os.fstat(file.fileno())
            if state.st_ino != self._inode or state.st_size < self._offset:
                self._inode, self._offset = state.st_ino, 0
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        return [line for line in whole.split(b"\n") if line.strip()]

    @contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        """The file that the path names, while nobody else writes to it."""
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(descriptor, "r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if self._is_current(file):
                    yield file
                    return

    def _is_current(self, file: BinaryIO) -> bool:
        """Whether the path still names this file: another worker may have replaced it."""
        try:
            return os.fstat(file.fileno()).st_ino == self._path.stat().st_ino
        except FileNotFoundError:
            return False

    def _write_anew(self) -> None:
        with self._locked():
            # What was appended before the lock was had.
            self._revocations.add(_parsed(self._whole_lines()))
            fresh = self._path.with_name(f"{self._path.name}.new")
            with fresh.open("wb") as file:
                file.writelines(map(_line, self._revocations))
                file.flush()
                os.fsync(file.fileno())
            fresh.chmod(0o600)
            fresh.replace(self._path)
        _sync_directory(self._path)


def _line(revocation: Revocation) -> bytes:
    return msgspec.json.encode(revocation) + b"\n"


def _parsed(lines: Sequence[bytes]) -> Iterator[Revocation]:
    return map(_decode, lines)


def _without_torn_line(file: BinaryIO) -> int:
    """The size of the file, after what a crash left behind the last line end is cut off."""
    file.seek(0)
    size = file.read().rfind(b"\n") + 1
    file.truncate(size)
    return size


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
