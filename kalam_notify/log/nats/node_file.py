"""A node's file: made, examined, copied, put in the place of another. Blocking; for a thread."""

import sqlite3
from contextlib import closing
from pathlib import Path

from kalam_notify.errors import StorageFault
from kalam_notify.log.nats.applying import Owes, prepare_state, set_owes
from kalam_notify.log.nats.faults import CopyFailed
from kalam_notify.log.soundness import SMALL_BYTES
from kalam_notify.store import schema
from kalam_notify.store.soundness import check


def prepare(path: Path, stream: str) -> None:
    """Create the file, or make sure that it is a node's of this stream; else StorageFault.

    No mark is heeded: the file is derived, and an older copy of it is as good.
    """
    schema.prepare(path, heeds_mark=False)
    with closing(schema.open_writer(path, "os")) as connection:
        try:
            prepare_state(connection, stream)
        except ValueError as fault:
            raise StorageFault(
                f"{path}: {fault}; start with another data_dir, or name that stream"
            ) from fault


def examine(copy: Path, stream: str) -> None:
    """Raise CopyFailed, and remove it, unless another node's file can be used here.

    A large one is not looked through: that is for the check beside the server.
    """
    fault = None
    try:
        prepare(copy, stream)
        if copy.stat().st_size <= SMALL_BYTES:
            with closing(sqlite3.connect(copy)) as connection:
                connection.text_factory = bytes
                fault = check(connection)
    except (sqlite3.Error, OSError, StorageFault) as found:
        fault = str(found)
    if fault is not None:
        remove(copy)
        raise CopyFailed(f"the copy of another node's file cannot be used: {fault}")


def owe(file: Path, owes: Owes) -> None:
    """Note in a file, which nobody uses, what its node has to publish."""
    with closing(schema.open_writer(file, "os")) as connection:
        set_owes(connection, owes)


def copy_whole(path: Path, into: Path) -> None:
    """Put the file, as it stands at this moment, under another path; others go on writing it."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("VACUUM INTO ?", (str(into),))


def replace(path: Path, file: Path) -> None:
    """Put a file, which nobody uses, in the place of the node's own."""
    # What belongs to the old one must not be found beside the new one.
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    file.rename(path)


def remove(file: Path) -> None:
    """Remove a file, and what SQLite has put beside it."""
    for suffix in ("", "-wal", "-shm"):
        Path(f"{file}{suffix}").unlink(missing_ok=True)
