"""A look at a data directory from outside: what is wrong with it, and what to do.

Everything is only read, so a server may be running on it. What is looked at, in this order: the
directory, the file and its format, SQLite's own check of its pages and of its indexes beside their
tables (longer than what the server does as it starts), whether what the
file says of itself agrees (no entry and no row beyond the last seq, every row where its entry is),
the high-water mark, and the space that is left on the disk.
"""

import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from kalam_notify.config.nats_place import node_file_name
from kalam_notify.store.files import cure, read_high_water
from kalam_notify.store.rows import STANDING, TEXT, WITH_TEXT
from kalam_notify.store.schema import APPLICATION_ID, FORMAT_VERSION, wal_path
from kalam_notify.store.soundness import no_json

_LOST = f"""
SELECT count(*) FROM rows AS r
LEFT JOIN rows_by_seq AS o ON o.tbl = r.tbl AND o.owner = r.owner AND o.seq = r.seq
    AND o.key = r.key AND {STANDING} {WITH_TEXT}
WHERE o.seq IS NULL OR {TEXT} IS NULL
"""
NODE_FILES = node_file_name("*")
"""The files of logs that live in a stream, beside or instead of the server's own."""

_LITTLE_SPACE = 256 * 1024 * 1024
_RESTORE = "restore a copy of the data directory, or begin with an empty one"

# What an index says beside its table: what it was made of is there to make it anew.
_INDEX_ALONE = re.compile("missing from index|non-unique entry in index|entries in index")


class Finding(NamedTuple):
    """One thing that was found: a fact (`cure` is None), or a fault and what to do about it."""

    text: str
    cure: str | None = None


def findings_in(directory: Path, name: str) -> Iterator[Finding]:
    """What there is to say of a data directory: of the log of this name, and of nodes' files."""
    nodes = sorted(directory.glob(NODE_FILES))
    if not nodes or (directory / name).exists():
        yield from findings(directory / name)
    for node in nodes:
        yield from findings(node)


def findings(log: Path) -> Iterator[Finding]:
    """What there is to say of the log in this file; ends early where nothing can be read."""
    directory = log.parent
    if not directory.is_dir():
        yield Finding(f"{directory} is no directory", "give the server's data_dir")
        return
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        user = f"user {os.geteuid()}"
        yield Finding(f"{directory} cannot be written by {user}", f"make it writable for {user}")
    if not log.exists():
        anew = "give the server's data_dir; a server that starts here begins anew"
        yield Finding(f"there is no {log.name} in {directory}", anew)
        return
    try:
        with closing(sqlite3.connect(f"{log.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            yield from _of_file(log, connection)
    except sqlite3.Error as fault:
        yield Finding(f"{log} cannot be read: {fault}", cure(log, fault).partition(", or see")[0])
    yield from _of_disk(log)


def _of_file(log: Path, connection: sqlite3.Connection) -> Iterator[Finding]:
    (owner,), (found,) = (
        connection.execute(f"PRAGMA {pragma}").fetchone()
        for pragma in ("application_id", "user_version")
    )
    if owner != APPLICATION_ID:
        yield Finding(f"{log} is a database of another program", "give the server's data_dir")
        return
    if found > FORMAT_VERSION:
        yield Finding(
            f"{log} has format {found}, this release knows {FORMAT_VERSION}",
            "use the release that wrote it, or a newer one",
        )
        return
    upgraded = "" if found == FORMAT_VERSION else "; the server brings it to the present one"
    yield Finding(f"{log} has format {found}{upgraded}")
    faults = [text for (text,) in connection.execute("PRAGMA integrity_check(5)") if text != "ok"]
    for text in faults:
        yield Finding(f"SQLite finds: {text}", _cure_of(log, text))
    if not faults:
        yield from (Finding(text, _RESTORE) for text in no_json(connection))
        yield from _of_contents(log, connection)
        yield from _of_stream(connection)


def _of_stream(connection: sqlite3.Connection) -> Iterator[Finding]:
    """Of a node's file: how far it has come in its stream."""
    found = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'stream'").fetchone()
    if found is None:
        return
    name, created, applied, epoch = connection.execute(
        "SELECT name, created, applied, epoch FROM stream"
    ).fetchone()
    if not created:
        yield Finding(f"nothing of the stream {name} has been applied to it yet")
        return
    yield Finding(
        f"it has applied the stream {name}, created at {created}, up to message {applied},"
        f" in epoch {epoch}"
    )


def _cure_of(log: Path, text: str) -> str:
    if _INDEX_ALONE.search(text):
        return (
            f"stop the server, run `sqlite3 {log} REINDEX` and then the doctor again; where it"
            f" still finds faults, {_RESTORE}"
        )
    return _RESTORE


def _of_contents(log: Path, connection: sqlite3.Connection) -> Iterator[Finding]:
    (last_seq,) = connection.execute("SELECT last_seq FROM state").fetchone()
    entries, newest = connection.execute("SELECT count(*), max(seq) FROM log").fetchone()
    rows, newest_row = connection.execute("SELECT count(*), max(seq) FROM rows").fetchone()
    yield Finding(f"{entries} changes and {rows} rows, the last seq is {last_seq}")
    for what, seq in (("change", newest), ("row", newest_row)):
        if seq is not None and seq > last_seq:
            yield Finding(f"there is a {what} with seq {seq}, beyond the last seq", _RESTORE)
    (lost,) = connection.execute(_LOST).fetchone()
    if lost:
        yield Finding(f"{lost} rows have no text, or no place in the order of seqs", _RESTORE)
    mark = read_high_water(log)
    if mark > last_seq:
        yield Finding(
            f"seqs up to {mark} have been given here: an older copy of the log was put back",
            "the server goes on behind that seq, and every client begins anew; to lose nothing,"
            " put the newer copy back before it starts",
        )


def _of_disk(log: Path) -> Iterator[Finding]:
    files = [log, wal_path(log)]
    held = sum(file.stat().st_size for file in files if file.exists())
    free = shutil.disk_usage(log.parent).free
    text = f"{held:,} bytes in files, {free:,} bytes free on their disk"
    is_little = free < _LITTLE_SPACE
    yield Finding(text, "free some space, or let retention keep less" if is_little else None)
