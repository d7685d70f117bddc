"""A server on a disk that errs when it is told to (broken_disk.c), without a device or rights."""

import errno
import mmap
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers.server import Server, merged

SOURCE = Path(__file__).with_suffix(".c")
# The order of struct orders.
ON_READ, ON_WRITE, ON_SYNC, ON_OPEN, HANG, HITS = range(6)
_SIZE = 4

PRELOADED = """
import os, sys
library, directory, orders = sys.argv[1:4]
os.environ.update(LD_PRELOAD=library, BROKEN_DISK_DIR=directory, BROKEN_DISK_ORDERS=orders)
os.execv(sys.executable, [sys.executable, *sys.argv[4:]])
"""


def compiled(directory: Path) -> Path:
    """The library, or a skip where it cannot be had."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: a disk that errs is a library to be preloaded")
    library = directory / "broken_disk.so"
    flags = ["-O2", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    done = subprocess.run([compiler, *flags], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"the library that makes a disk err does not compile: {done.stderr[:200]}")
    return library


class BrokenDisk:
    """The disk of one server's data directory; whole until it is ordered to err."""

    def __init__(self, library: Path, directory: Path) -> None:
        self._orders = directory / "orders"
        self._orders.write_bytes(bytes(mmap.PAGESIZE))
        self._data = directory / "data"
        self._data.mkdir()
        self._library = library
        with self._orders.open("r+b") as file:
            self._mapped = mmap.mmap(file.fileno(), mmap.PAGESIZE)

    @property
    def python(self) -> list[str]:
        """What goes between the interpreter and its `-m kalam_notify`."""
        return ["-c", PRELOADED, str(self._library), str(self._data), str(self._orders)]

    @property
    def hits(self) -> int:
        """How many calls have met an order."""
        return int(struct.unpack_from("i", self._mapped, HITS * _SIZE)[0])

    def _order(self, kind: int, value: int) -> None:
        struct.pack_into("i", self._mapped, kind * _SIZE, value)

    @contextmanager
    def erring(self, *kinds: int, number: int = errno.EIO) -> Iterator[None]:
        """Calls of these kinds fail with this errno; of HANG, they wait."""
        for kind in kinds:
            self._order(kind, number)
        try:
            yield
        finally:
            for kind in kinds:
                self._order(kind, 0)

    def close(self) -> None:
        self._mapped.close()


@contextmanager
def server_on_broken_disk(
    directory: Path, workers: int, **settings: object
) -> Iterator[tuple[Server, BrokenDisk]]:
    """A running server and its disk."""
    disk = BrokenDisk(compiled(directory), directory)
    whole = merged({"server": {"workers": workers}}, settings)
    server = Server(directory, whole, python=disk.python)
    try:
        yield server.start(), disk
    finally:
        # Whoever hangs in a call could not even be ended by signals that are handled.
        disk._order(HANG, 0)
        server.close()
        disk.close()
