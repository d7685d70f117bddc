"""The file of the SQLite log: its tables, its version, and how it is opened.

    tables      every table that has had data: its shape, and how far retention has gone in it
    log         one entry per change, keyed by seq; `size` is Change.size, `at` Unix milliseconds
    batch_keys  idempotency keys of whole batches, with the seq of the batch's last entry
    rows        the current rows of tables with a primary key: the seq that wrote each (rows.py)
    rows_by_seq, kept, stale   the same by that seq, and where their texts are (rows.py)
    indexes     the indexes of those rows, and how far each has been built (indexes.py)
    entries     what the indexes hold: sorted values, with the key of the row that has them
    state       one row: the last seq ever given, the bytes in the log, how far retention has gone,
                below which seq nothing can be told since changes were lost (high_water.py), where
                this life of the log began, how often the list of indexes has changed, up to which
                seq changes have come into the indexes, how often an edge has moved, and how often a
                source's table has been defined
    source_positions, source_tables   how far each source has been told, its tables (sourced.py)

All of one append happens in one transaction, so whatever the moment of a crash, the file holds
whole batches only, and rows that agree with the log. `state.last_seq` is kept apart from the log,
so that a seq is not given twice after retention has emptied it. Texts of rows are JSON as it was
posted, byte for byte.
"""

import logging
import os
import sqlite3
import time
from contextlib import closing
from io import FileIO
from pathlib import Path
from typing import Literal

from kalam_notify.errors import DamagedFile, StorageFault
from kalam_notify.store.files import cure, read_high_water
from kalam_notify.store.rows import CACHED_STATEMENTS
from kalam_notify.store.soundness import damage_text, is_damage

_logger = logging.getLogger(__name__)

Durability = Literal["commit", "os"]

APPLICATION_ID = 0x4B4C4E59  # "KLNY"
FORMAT_VERSION = 5
BUSY_SECONDS = 30.0
# The length of the write-ahead log at which its pages are copied into the database.
_WAL_PAGES = 4096
# Page by page: what is written at once may be one large piece of the system's cache from then on,
# and each frame that is written into that costs as much as the piece is long.
_ZEROS = 1 << 12
_MOST_WAL_BYTES = 64 * 1024 * 1024

_SCHEMA = """
CREATE TABLE tables (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    primary_key TEXT NOT NULL,
    horizon INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE log (
    seq INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    tbl INTEGER NOT NULL,
    owner TEXT NOT NULL,
    kind TEXT NOT NULL,
    size INTEGER NOT NULL,
    old_seq INTEGER,
    id TEXT,
    row TEXT,
    old TEXT
) STRICT;
CREATE INDEX log_by_owner ON log (tbl, owner, seq, old_seq);
CREATE UNIQUE INDEX log_by_id ON log (id) WHERE id IS NOT NULL;
CREATE TABLE batch_keys (key TEXT PRIMARY KEY, seq INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX batch_keys_by_seq ON batch_keys (seq);
CREATE TABLE state (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    last_seq INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    horizon INTEGER NOT NULL,
    floor INTEGER NOT NULL DEFAULT 0,
    base INTEGER NOT NULL DEFAULT 0,
    indexes INTEGER NOT NULL DEFAULT 0,
    indexed INTEGER NOT NULL DEFAULT 0,
    trims INTEGER NOT NULL DEFAULT 0,
    sources INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO state (one, last_seq, bytes, horizon) VALUES (1, 0, 0, 0);
"""
_ROWS = """
CREATE TABLE rows (
    tbl INTEGER NOT NULL,
    owner TEXT NOT NULL,
    key TEXT NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (tbl, owner, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE kept (seq INTEGER PRIMARY KEY, row TEXT NOT NULL) STRICT;
CREATE TABLE stale (
    tbl INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (tbl, seq)
) STRICT, WITHOUT ROWID;
"""
_ROWS_BY_SEQ = """
CREATE TABLE rows_by_seq (
    tbl INTEGER NOT NULL,
    owner TEXT NOT NULL,
    seq INTEGER NOT NULL,
    key TEXT NOT NULL,
    PRIMARY KEY (tbl, owner, seq)
) STRICT, WITHOUT ROWID;
"""
_INDEXES = """
CREATE TABLE indexes (
    id INTEGER PRIMARY KEY,
    tbl INTEGER NOT NULL,
    columns TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'building' CHECK (state IN ('building', 'ready', 'dropped')),
    owner TEXT NOT NULL DEFAULT '',
    key TEXT NOT NULL DEFAULT '',
    UNIQUE (tbl, columns)
) STRICT;
CREATE TABLE entries (
    idx INTEGER NOT NULL,
    owner TEXT NOT NULL,
    value BLOB NOT NULL,
    key TEXT NOT NULL,
    PRIMARY KEY (idx, owner, value, key)
) STRICT, WITHOUT ROWID;
"""
_SOURCES = """
CREATE TABLE source_positions (source TEXT PRIMARY KEY, position TEXT NOT NULL) STRICT;
CREATE TABLE source_tables (
    source TEXT NOT NULL,
    name TEXT NOT NULL,
    definition TEXT NOT NULL,
    PRIMARY KEY (source, name)
) STRICT;
"""
# Format -> what makes the next one of it. SQLite sorts nothing here, which would want a place for
# temporary files: rows come by an index in the order in which they are written.
_UPGRADES = {
    1: "ALTER TABLE state ADD COLUMN floor INTEGER NOT NULL DEFAULT 0",
    2: f"""
ALTER TABLE state ADD COLUMN base INTEGER NOT NULL DEFAULT 0;
ALTER TABLE state ADD COLUMN indexes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE state ADD COLUMN indexed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE state ADD COLUMN trims INTEGER NOT NULL DEFAULT 0;
{_INDEXES}
""",
    3: f"""
ALTER TABLE state ADD COLUMN sources INTEGER NOT NULL DEFAULT 0;
{_SOURCES}
""",
    4: f"""
ALTER TABLE rows RENAME TO old_rows;
{_ROWS}
INSERT INTO rows SELECT tbl, owner, key, seq FROM old_rows;
{_ROWS_BY_SEQ.replace("rows_by_seq", "places")}
INSERT INTO places SELECT tbl, owner, seq, key FROM old_rows INDEXED BY rows_by_seq
    ORDER BY tbl, owner, seq;
INSERT INTO kept SELECT seq, row FROM old_rows INDEXED BY rows_by_seq
    WHERE tbl >= 0 AND NOT EXISTS (SELECT 1 FROM log WHERE log.seq = old_rows.seq);
DROP TABLE old_rows;
ALTER TABLE places RENAME TO rows_by_seq;
""",
}


def prepare(path: Path, begin: int = 0, *, heeds_mark: bool = True) -> None:
    """Create the file, or make sure that it is a log of this version; else StorageFault.

    A log that has never given a seq begins after `begin`. `heeds_mark` is False for a file that is
    derived from elsewhere, of which an older copy is no loss.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(_connect(path)) as connection:
            if not _is_ready(path, connection):
                _create(path, connection)
            if begin and not _number(connection, "SELECT last_seq FROM state"):
                # Nothing has been given yet, by whichever release or worker.
                set_begin = "UPDATE state SET base = ?1, last_seq = ?1 WHERE last_seq = 0"
                connection.execute(set_begin, (begin,))
            if heeds_mark:
                _go_on_behind_the_mark(path, connection)
    except (sqlite3.Error, OSError) as fault:
        if is_damage(fault):
            raise DamagedFile(damage_text(path, str(fault))) from fault
        raise StorageFault(
            f"{path}: cannot be opened as a log: {fault}; {cure(path, fault)}"
        ) from fault


def _go_on_behind_the_mark(path: Path, connection: sqlite3.Connection) -> None:
    """Give no seq twice, and tell nothing of before, where the log has lost changes."""
    if read_high_water(path) <= _number(connection, "SELECT last_seq FROM state"):
        return
    # Nobody commits while this is open, so the two are of one moment.
    connection.execute("BEGIN IMMEDIATE")
    mark, last_seq = read_high_water(path), _number(connection, "SELECT last_seq FROM state")
    if mark > last_seq:
        # One beyond, for a client may stand at the mark itself.
        begin = mark + 1
        connection.execute(
            "UPDATE state SET last_seq = ?1, horizon = ?1, floor = ?1, trims = trims + 1", (begin,)
        )
        _logger.warning(
            "%s ends at seq %d, but seqs up to %d were given here: it is an older copy, or has lost"
            " its end. It goes on behind %d; every client begins anew, with a snapshot.",
            *(path, last_seq, mark, begin),
        )
    connection.execute("COMMIT")


def wal_path(log: Path) -> Path:
    """The file of the write-ahead log: beside the log itself, where `log` is a link to it."""
    return Path(f"{log.resolve()}-wal")


def open_writer(path: Path, durability: Durability) -> sqlite3.Connection:
    """The connection that appends. "commit": COMMIT returns when the disk has the data."""
    connection = _connect(path)
    _enter_wal(connection)
    connection.execute(f"PRAGMA synchronous = {'FULL' if durability == 'commit' else 'NORMAL'}")
    connection.execute("PRAGMA cache_size = -32768")
    # Larger than the default: each checkpoint costs an fsync of the database file.
    connection.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {_MOST_WAL_BYTES}")
    # Trimmed entries need not be wiped; some builds do so by default, at the price of the writes.
    connection.execute("PRAGMA secure_delete = FAST")
    # Lists of seqs at most: there may be no place for temporary files.
    connection.execute("PRAGMA temp_store = MEMORY")
    if durability == "commit":
        _lay_out_wal(connection, path)
    return connection


def _lay_out_wal(connection: sqlite3.Connection, path: Path) -> None:
    """Give the write-ahead log the length it will have, in zeros.

    An fsync of a file that has grown waits for the file system's journal too, so until the log had
    its length, every commit of a fresh server would take half as long again, in CPU as well.
    Zeros behind the last frame are no frames to SQLite: see "Checksum Algorithm" and "Reset" in
    https://sqlite.org/fileformat2.html#the_write_ahead_log.
    """
    page_size = _number(connection, "PRAGMA page_size")
    whole = min(32 + _WAL_PAGES * (24 + page_size), _MOST_WAL_BYTES)
    # Nobody appends to the file, nor shortens it, while this transaction is open.
    connection.execute("BEGIN IMMEDIATE")
    try:
        with wal_path(path).open("r+b", buffering=0) as file:
            _lengthen(file, whole)
    except OSError as fault:
        _logger.info("the write-ahead log grows as it is written: %s", fault)
    finally:
        connection.execute("COMMIT")


def _lengthen(file: FileIO, whole: int) -> None:
    length = file.seek(0, os.SEEK_END)
    try:
        for begin in range(length, whole, _ZEROS):
            file.write(bytes(min(_ZEROS, whole - begin)))
        os.fsync(file.fileno())
    except OSError:
        # No room: what is left is for changes.
        file.truncate(length)
        raise


def open_reader(path: Path) -> sqlite3.Connection:
    connection = _connect(path)
    connection.execute("PRAGMA query_only = ON")
    connection.execute("PRAGMA cache_size = -8192")
    return connection


def _connect(path: Path) -> sqlite3.Connection:
    # Each connection is used by one thread at a time, but not always by the one that made it.
    connection = sqlite3.connect(
        path,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=CACHED_STATEMENTS,
    )
    # Rows are bytes everywhere above; decoding them here would only be undone.
    connection.text_factory = bytes
    return connection


def _enter_wal(connection: sqlite3.Connection) -> None:
    # Changing the mode wants the file alone, and SQLite does not wait for that by itself.
    give_up = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as fault:
            if fault.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
            time.sleep(0.01)
        else:
            return


def _is_ready(path: Path, connection: sqlite3.Connection) -> bool:
    """Whether the file is a log of this version (True) or empty (False); else StorageFault."""
    application, version, objects = _marks(connection)
    if application == APPLICATION_ID:
        if version in _UPGRADES:
            version = _upgrade(connection)
        if version != FORMAT_VERSION:
            raise StorageFault(
                f"{path}: data format {version}, but this release reads format {FORMAT_VERSION};"
                " run the release that wrote it, or start with another data_dir"
            )
        if _number(connection, "SELECT count(*) FROM state") != 1:
            raise DamagedFile(damage_text(path, "the log's state is missing"))
        return True
    if application or version or objects:
        raise StorageFault(f"{path}: a database of another program; choose another data_dir")
    return False


def _marks(connection: sqlite3.Connection) -> tuple[int, int, int]:
    """Whose file it is, its format, and how many tables and indexes it has, all of one moment.

    Another worker may be creating it.
    """
    outermost = not connection.in_transaction
    if outermost:
        connection.execute("BEGIN")
    marks = (
        _number(connection, "PRAGMA application_id"),
        _number(connection, "PRAGMA user_version"),
        _number(connection, "SELECT count(*) FROM sqlite_schema"),
    )
    if outermost:
        connection.execute("COMMIT")
    return marks


def _upgrade(connection: sqlite3.Connection) -> int:
    """Bring a file of an older format to the newest that leads on from it."""
    connection.execute("BEGIN IMMEDIATE")
    # Another worker may have been first.
    version = _number(connection, "PRAGMA user_version")
    while version in _UPGRADES:
        _run(connection, _UPGRADES[version])
        version += 1
    connection.execute(f"PRAGMA user_version = {version}")
    connection.execute("COMMIT")
    return version


def _create(path: Path, connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    # Another worker may have been first.
    if not _is_ready(path, connection):
        _run(connection, _SCHEMA + _ROWS + _ROWS_BY_SEQ + _INDEXES + _SOURCES)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
    connection.execute("COMMIT")


def _run(connection: sqlite3.Connection, script: str) -> None:
    """Every statement of a script, inside the transaction that is open."""
    for statement in script.split(";\n"):
        connection.execute(statement)


def _number(connection: sqlite3.Connection, query: str) -> int:
    (value,) = connection.execute(query).fetchone()
    return int(value)
