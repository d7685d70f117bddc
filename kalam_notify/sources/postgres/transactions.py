"""From the messages of a stream to events: whole transactions, in the order of their commits.

    message --> Decoder --> open transaction --Commit--> Piece
    message between StreamStart and StreamStop --> file on disk --StreamCommit--> as above

A transaction that PostgreSQL streams before it is committed may be undone yet, so its messages wait
in a file of their own and are read at its commit, without those of subtransactions that were
undone. One that is long is told in pieces of bounded size, each with the number of changes that
have been told of it: memory does not grow with a transaction, and a crash in the middle of one is
gone on from there.

What is told of a table is what its last copy has not seen (`Cut`).
"""

import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Final, NamedTuple

from msgspec.structs import replace

from kalam_notify.model import PostedChange, TableId
from kalam_notify.sources.base import Altered, Event, Piece, Truncated, size_of
from kalam_notify.sources.postgres.catalogue import PgTable
from kalam_notify.sources.postgres.changes import Rows, fits
from kalam_notify.sources.postgres.pgoutput import (
    CHANGES,
    Begin,
    Commit,
    Decoder,
    Delete,
    Insert,
    Message,
    Relation,
    StreamAbort,
    StreamCommit,
    StreamStart,
    StreamStop,
    Truncate,
    Update,
    subxid_of,
)
from kalam_notify.sources.postgres.positions import Cut, Position

PIECE_CHANGES: Final = 2000
PIECE_BYTES: Final = 2 * 1024 * 1024
_REMEMBERED_XIDS: Final = 4096
_LENGTH = struct.Struct(">I")

REST_MESSAGES: Final = 200
"""After so many messages of a file others get a turn: a message takes some microseconds."""


class Rest(NamedTuple):
    """Nothing has happened: a place to let others have a turn."""


Spill = Callable[[], IO[bytes]]
"""Opens a new file that goes when it is closed."""


class _Streamed:
    """A transaction that is streamed before its commit: its messages, on disk."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._undone: set[int] = set()

    def add(self, data: bytes) -> None:
        self._file.write(_LENGTH.pack(len(data)) + data)

    def undo(self, subxid: int) -> None:
        self._undone.add(subxid)

    def messages(self) -> Iterator[bytes]:
        """Those that stand, in order."""
        self._file.seek(0)
        while head := self._file.read(_LENGTH.size):
            data = self._file.read(_LENGTH.unpack(head)[0])
            # What a relation looks like is told once, whoever was the first to touch it.
            subxid = subxid_of(data)
            if data[0] not in CHANGES or subxid not in self._undone:
                yield data

    def close(self) -> None:
        self._file.close()


class Transactions:
    """Reads a stream from `position` on. `open_file` opens the file of a long transaction.

    A piece of more than one change has no more than `largest` bytes.
    """

    def __init__(self, position: Position, open_file: Spill, largest: int | None = None) -> None:
        # Up to where everything has been told, and is in the events given.
        self.position = position
        self._resumed = position
        self._open_file = open_file
        self._piece_bytes = PIECE_BYTES if largest is None else min(PIECE_BYTES, largest)
        self._decoder = Decoder()
        self._tables: dict[int, PgTable] = {}
        self._cuts: dict[int, Cut] = {}
        self._rows: dict[int, Rows] = {}
        self._relations: dict[int, Relation] = {}
        self._streamed: dict[int, _Streamed] = {}
        self._current: _Streamed | None = None
        # Of the transaction that is being read: its number, where and when it commits, how many
        # changes of it have come, and which of them wait to be told.
        self._xid = self._commit = self._count = 0
        self._at = 0.0
        self._changes: list[PostedChange] = []
        self._bytes = 0
        # Whether a transaction has come in part, so that the stream is not told beyond it.
        self.is_inside = False
        self.recent_xids: deque[int] = deque(maxlen=_REMEMBERED_XIDS)

    def know(self, tables: Iterable[PgTable], cuts: Mapping[TableId, Cut]) -> None:
        """What tables there are from here on, and what their copies have seen."""
        self._tables = {table.facts.oid: table for table in tables}
        self._cuts = {
            table.facts.oid: cuts[table.id] for table in self._tables.values() if table.id in cuts
        }
        self._rows = {}
        for oid in self._relations:
            self._set_rows(oid)

    def close(self) -> None:
        for streamed in self._streamed.values():
            streamed.close()
        self._streamed.clear()

    def feed(self, data: bytes) -> Iterable[Event | Rest]:
        """What a message leads to. Events are to be dealt with before the next one is asked for."""
        if self._current is not None and data[:1] not in (b"E", b"A", b"c", b"S"):
            self._current.add(data)
            return ()
        return self._take(self._decoder.decode(data))

    def _take(self, message: Message | None) -> Iterable[Event | Rest]:
        match message:
            case Insert() | Update() | Delete():
                return self._change(message)
            case Begin(final_lsn, at, xid):
                self._begin(xid, final_lsn, at)
            case Commit(_, end_lsn, _):
                return self._committed(end_lsn)
            case Relation():
                return self._relation(message)
            case Truncate(oids):
                return self._truncate(oids)
            case StreamStart(xid):
                self._current = self._streamed.get(xid) or self._new_streamed(xid)
            case StreamStop():
                self._current = None
            case StreamAbort(xid, subxid):
                self._current = None
                self._undo(xid, subxid)
            case StreamCommit():
                self._current = None
                return self._replay(message)
        return ()

    # Transactions

    def _begin(self, xid: int, commit_lsn: int, at: float) -> None:
        self._xid, self._commit, self._at, self._count = xid, commit_lsn, at, 0
        self.is_inside = True
        self.recent_xids.append(xid)

    def _committed(self, end_lsn: int) -> Iterable[Event]:
        self.is_inside = False
        self.position = replace(self.position, lsn=end_lsn, commit=0, done=0)
        return self._piece()

    def _new_streamed(self, xid: int) -> _Streamed:
        one = self._streamed[xid] = _Streamed(self._open_file())
        return one

    def _undo(self, xid: int, subxid: int) -> None:
        if xid != subxid:
            if xid in self._streamed:
                self._streamed[xid].undo(subxid)
        elif (streamed := self._streamed.pop(xid, None)) is not None:
            streamed.close()

    def _replay(self, commit: StreamCommit) -> Iterator[Event | Rest]:
        streamed = self._streamed.pop(commit.xid, None)
        self._begin(commit.xid, commit.lsn, commit.at)
        if streamed is not None:
            self._decoder.in_stream = True
            try:
                for number, data in enumerate(streamed.messages(), 1):
                    yield from self._take(self._decoder.decode(data))
                    if number % REST_MESSAGES == 0:
                        yield Rest()
            finally:
                self._decoder.in_stream = False
                streamed.close()
        yield from self._committed(commit.end_lsn)

    # Changes

    def _is_told(self, oid: int) -> bool:
        """Count a change; whether a table has it to tell, and the log does not know it."""
        resumed = self._resumed
        if self._commit == resumed.commit and self._count <= resumed.done:
            return False
        cut = self._cuts.get(oid)
        return cut is None or not cut.covers(self._xid, self._commit)

    def _change(self, message: Insert | Update | Delete) -> Iterable[Event]:
        self._count += 1
        rows = self._rows.get(message.oid)
        if rows is None or not self._is_told(message.oid):
            return ()
        changes = rows.changes(message)
        size = sum(map(size_of, changes))
        before: Iterable[Event] = ()
        if self._changes and self._bytes + size > self._piece_bytes:
            self._done(self._count - 1)
            before = self._piece()
        self._changes += changes
        self._bytes += size
        if len(self._changes) >= PIECE_CHANGES or self._bytes >= self._piece_bytes:
            self._done(self._count)
            return (*before, *self._piece())
        return before

    def _done(self, count: int) -> None:
        """So many changes of this transaction have been told with the next event."""
        self.position = replace(self.position, commit=self._commit, done=count)

    def _piece(self) -> Iterable[Event]:
        if not self._changes:
            return ()
        changes, self._changes, self._bytes = self._changes, [], 0
        return (Piece(changes, self.position.encode(), self._at),)

    def _truncate(self, oids: tuple[int, ...]) -> Iterable[Event]:
        self._count += 1
        gone = tuple(
            self._tables[oid].id for oid in oids if oid in self._tables and self._is_told(oid)
        )
        if not gone:
            return ()
        # Everything before it, as of before it: until the rows are gone it has not been told.
        before = replace(self.position, commit=self._commit, done=self._count - 1)
        self._done(self._count)
        after = self.position
        self.position = before
        events = [*self._piece(), Truncated(gone, after.encode())]
        self.position = after
        return events

    # Tables

    def _relation(self, relation: Relation) -> Iterable[Event]:
        self._relations[relation.oid] = relation
        self._rows.pop(relation.oid, None)
        table = self._tables.get(relation.oid)
        if table is None or fits(table, relation):
            self._set_rows(relation.oid)
            return ()
        return self.altered()

    def altered(self) -> Iterable[Event]:
        """That tables have changed, between any two messages.

        First what waits of a transaction that has come in part: it is of the tables as they were,
        and a copy that is made of one now has seen it.
        """
        if self._changes:
            self._done(self._count)
        return [*self._piece(), Altered()]

    def _set_rows(self, oid: int) -> None:
        table, relation = self._tables.get(oid), self._relations[oid]
        if table is None:
            return
        names = [column.name for column in relation.columns]
        if set(names) >= set(table.key):
            self._rows[oid] = Rows(table, names)
