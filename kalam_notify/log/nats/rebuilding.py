"""An operator's decision about a node that does not find back to the stream by itself.

Either the rows of this node stand, whatever the stream has lost (`KEEP_ROWS`), or they are given up
and the node begins with what the stream holds, though its beginning be gone (`FROM_STREAM`). In
both cases the file is put where the stream can go on from it, with a note of what this node owes to
the others: when it has caught up, it publishes an epoch that says that its rows stand. Who has
others copies its file then. Clients begin anew everywhere, and no seq is given twice.

Each step leaves a file that the decision can be made for again.
"""

import asyncio
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from kalam_notify.errors import StorageFault
from kalam_notify.log.nats import node_file
from kalam_notify.log.nats.applying import NodeState, Owes, go_on_behind, read_state, set_owes
from kalam_notify.log.nats.faults import NoAnswer, StreamFault
from kalam_notify.log.nats.leader import LOCK_NAME, try_lock
from kalam_notify.log.nats.link import Link, StreamInfo, StreamMessage
from kalam_notify.log.nats.message import MID_HEADER
from kalam_notify.store import schema

CONNECT_SECONDS = 15.0


class Way(Enum):
    """What is decided."""

    KEEP_ROWS = "keep-rows"
    FROM_STREAM = "from-stream"


class Found(NamedTuple):
    """What there is, before anything is changed. `contents`: tables, rows, last seq of the file."""

    path: Path
    info: StreamInfo
    state: NodeState | None
    contents: tuple[int, int, int]
    # The message that file and stream both have, and go on from; None: nothing in common.
    common: int | None

    def described(self, way: Way) -> str:
        """What will be, for who decides."""
        tables, rows, last_seq = self.contents
        info = self.info
        has = f"{self.path}: {tables} tables, {rows} rows, last seq {last_seq}"
        holds = f"the stream holds {info.messages} messages"
        if info.messages:
            holds += f", from {info.first_seq} to {info.last_seq}"
        if way is Way.KEEP_ROWS:
            will = (
                "the rows of this file stand, on every node. What the stream holds beyond message"
                f" {self.behind} is applied to them. What other nodes have otherwise is lost"
            )
        elif info.first_seq > 1:
            will = (
                "the rows of this file are given up, on every node: all begin with what the stream"
                " holds. Rows that no message of it brings are lost"
            )
        else:
            will = "the rows of this file are given up; the stream is replayed from its beginning"
        return f"{has}\n{holds}\n{will}; every client begins anew, with a snapshot"

    @property
    def behind(self) -> int:
        """The message that this file goes on from."""
        return max(self.info.first_seq, 1) - 1 if self.common is None else self.common


@contextmanager
def alone(data_dir: Path) -> Iterator[None]:
    """Nobody else applies anything meanwhile; StorageFault where a server runs there."""
    try:
        descriptor = os.open(data_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o640)
    except OSError as fault:
        raise StorageFault(f"{data_dir}: {fault.strerror}; name the server's data_dir") from fault
    try:
        if not try_lock(descriptor):
            raise StorageFault(f"{data_dir}: a server is running on it; stop it first")
        yield
    finally:
        os.close(descriptor)


async def look(link: Link, path: Path) -> Found:
    """What there is; nothing is changed, but for a stream that is created where it is absent.

    Raises StorageFault where the stream cannot be reached or the file is none of this stream's.
    """
    if not await link.wait_connected(CONNECT_SECONDS):
        raise StorageFault(f"the stream {link.stream} cannot be reached: see to the NATS servers")
    try:
        info = await link.ensure_stream()
        state, contents = await asyncio.to_thread(_read, path, link.stream)
        common = None
        if state is not None and state.created == info.created:
            common = await _common(link, path, state, info)
    except (NoAnswer, StreamFault) as fault:
        raise StorageFault(f"the stream {link.stream}: {fault}") from fault
    return Found(path, info, state, contents, common)


def carry_out(found: Found, way: Way) -> str:
    """Do it; what has been done. Blocking."""
    if way is Way.KEEP_ROWS:
        if found.state is None or not found.state.created:
            raise StorageFault(f"{found.path}: there are no rows here that could stand")
        with closing(schema.open_writer(found.path, "commit")) as connection:
            connection.execute("BEGIN IMMEDIATE")
            go_on_behind(connection, found.info.created, found.behind)
            set_owes(connection, Owes.STANDS)
            connection.execute("COMMIT")
        return "the rows of this node stand: start it, and then the others"
    aside = _put_aside(found)
    begins_whole = found.info.first_seq <= 1
    if found.info.last_seq:
        fresh = found.path.with_suffix(".rebuilt")
        node_file.remove(fresh)
        node_file.prepare(fresh, found.info.config["name"])
        with closing(schema.open_writer(fresh, "commit")) as connection:
            connection.execute("BEGIN IMMEDIATE")
            go_on_behind(connection, found.info.created, max(found.info.first_seq, 1) - 1)
            set_owes(connection, Owes.EPOCH if begins_whole else Owes.STANDS)
            connection.execute("COMMIT")
        node_file.replace(found.path, fresh)
    kept = f"; the file of before is {aside}" if aside is not None else ""
    return f"this node begins with what the stream holds: start it, and then the others{kept}"


def _put_aside(found: Found) -> Path | None:
    if not found.path.exists():
        return None
    at = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
    aside = found.path.with_name(f"{found.path.name}.before-{at}")
    for suffix in ("-wal", "-shm", ""):
        beside = Path(f"{found.path}{suffix}")
        if beside.exists():
            beside.rename(f"{aside}{suffix}")
    return aside


def _read(path: Path, stream: str) -> tuple[NodeState | None, tuple[int, int, int]]:
    if not path.exists():
        return None, (0, 0, 0)
    node_file.prepare(path, stream)
    with closing(schema.open_reader(path)) as connection:
        counts = connection.execute(
            "SELECT (SELECT count(*) FROM tables), (SELECT count(*) FROM rows), last_seq FROM state"
        ).fetchone()
        return read_state(connection), counts


async def _common(link: Link, path: Path, state: NodeState, info: StreamInfo) -> int | None:
    """The newest message that both have; what came behind it was not of this file's stream."""
    known = await asyncio.to_thread(_messages, path, info.first_seq, info.last_seq)
    if not known:
        can_go_on = info.first_seq - 1 <= state.applied <= info.last_seq
        return state.applied if can_go_on else None
    # Two streams of one beginning are the same up to where they part.
    same, other = 0, len(known)
    while same < other:
        middle = (same + other) // 2
        seq, mid, at = known[middle]
        if _is_same(await link.message(seq), mid, at):
            same = middle + 1
        else:
            other = middle
    if same == 0:
        return None
    newest = known[same - 1][0]
    if state.last is not None and newest == state.last.seq:
        # Behind it there may have been messages of nobody's, which were passed over.
        return min(state.applied, info.last_seq)
    return newest


def _messages(path: Path, first: int, last: int) -> list[tuple[int, str, int]]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(
            "SELECT stream_seq, mid, at FROM messages WHERE stream_seq BETWEEN ? AND ?"
            " ORDER BY stream_seq",
            (first, last),
        ).fetchall()


def _is_same(theirs: StreamMessage | None, mid: str, at: int) -> bool:
    if theirs is None:
        return False
    return (theirs.headers or {}).get(MID_HEADER) == mid and theirs.at == at
