"""state + message -> state: what a node makes of the stream, in its own file.

A node's file is derived: any node that applies the same messages from the same beginning has the
same log, the same rows and the same keys, whatever its clock, its settings and the way it grouped
messages into transactions. So nothing here reads a clock or a setting: times are the messages' own,
tables come with the shape they were posted under, and what retention removes is named by a message.

Beside the tables of every log (`schema`) the file holds

    stream     one row: which stream it is, the last message applied, a digest of all changes
               (`digest`), the number of the log's life, and whether this node owes an epoch
    messages   one row per message of ours that was applied: who published it, when it came into the
               stream, where the log stood after it, and what was answered
    source_marks  the last mark of each source: a batch whose mark follows on another one is
               refused, on every node alike (`OVERTAKEN`)

A message and its row come in one transaction, so that whatever the moment of a crash the file is
the state after a whole number of messages.
"""

from collections import ChainMap
from collections.abc import Mapping, Sequence
from enum import IntEnum
from sqlite3 import Connection
from typing import Any, NamedTuple

import msgspec
from msgspec import structs

from kalam_notify.log.nats.message import (
    Batches,
    Body,
    Control,
    Epoch,
    Seen,
    Trim,
    TrimStep,
)
from kalam_notify.model import TableDef, TableId
from kalam_notify.model.changes import Appended
from kalam_notify.model.sourced import SourceMark, SourceState
from kalam_notify.store.access import Shape, stored_table, stored_tables
from kalam_notify.store.catalog import is_filled, shape_changed
from kalam_notify.store.digest import Digest
from kalam_notify.store.indexing import follow_all
from kalam_notify.store.rows import Indexes, Numbers, pieces
from kalam_notify.store.sourced import source_states, write_mark
from kalam_notify.store.storing import Group, Posting, store
from kalam_notify.store.trimming import remove

_TABLES = """
CREATE TABLE IF NOT EXISTS stream (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    format INTEGER NOT NULL,
    name TEXT NOT NULL,
    created TEXT NOT NULL DEFAULT '',
    applied INTEGER NOT NULL DEFAULT 0,
    digest INTEGER NOT NULL DEFAULT 0,
    epoch INTEGER NOT NULL DEFAULT 0,
    owes INTEGER NOT NULL DEFAULT 0
) STRICT
"""
_MESSAGES = """
CREATE TABLE IF NOT EXISTS messages (
    stream_seq INTEGER PRIMARY KEY,
    mid TEXT NOT NULL UNIQUE,
    at INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    digest INTEGER NOT NULL,
    answers BLOB NOT NULL
) STRICT
"""
_SOURCE_MARKS = """
CREATE TABLE IF NOT EXISTS source_marks (source TEXT PRIMARY KEY, last TEXT NOT NULL) STRICT
"""
STATE_FORMAT = 1

OVERTAKEN = "another node has told of this source meanwhile"
"""What a batch of a source is answered with whose mark does not follow on the last one."""

KEPT_MILLISECONDS = 600_000
"""So long, by the stream's clock, a message is remembered at least: what a publisher sends a second
time must be known, and it tries again for much less."""


class Applicable(NamedTuple):
    """A message of the stream, read. `body` is None where it is none of ours."""

    seq: int
    at: int
    mid: str
    body: Body | None
    # Of the message's body.
    size: int


class AppliedMessage(NamedTuple):
    """What the file remembers of a message."""

    seq: int
    mid: str
    at: int


class Owes(IntEnum):
    """What this node has to publish before it is level."""

    NOTHING = 0
    # Seqs that were told here may be given again, unless the log goes on behind them.
    EPOCH = 1
    # An operator has decided that the rows of this file stand.
    STANDS = 2


class NodeState(NamedTuple):
    """Where a node's file stands; `last` is the newest message of ours, at or before `applied`."""

    name: str
    created: str
    applied: int
    digest: int
    epoch: int
    last: AppliedMessage | None = None
    owes: Owes = Owes.NOTHING


class Answer(NamedTuple):
    """What became of a message: of each of its batches, or the entries that it removed.

    A batch is answered with a text where it was refused by rule.
    """

    mid: str
    batches: Sequence[Appended | str]
    removed: int = 0


class _PackedAppended(msgspec.Struct, array_like=True, frozen=True):
    accepted: int
    duplicates: int
    first_seq: int | None
    last_seq: int | None


class Applied(NamedTuple):
    """What one transaction has applied."""

    state: NodeState
    last_seq: int
    groups: Sequence[Group]
    answers: Sequence[Answer]
    # Whether horizons or the beginning of the log have moved.
    edges_moved: bool
    # A message told another digest than this node had at that place; whether it is known who is
    # right, which is not this node.
    disagrees: str | None
    is_overruled: bool


_pack = msgspec.msgpack.Encoder().encode
_unpack_answers = msgspec.msgpack.Decoder(tuple[list[_PackedAppended | str], int]).decode


def prepare_state(connection: Connection, name: str) -> NodeState:
    """Create the node's tables where they are missing; the state. ValueError for another stream."""
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(_TABLES)
    connection.execute(_MESSAGES)
    if not any(column[1] == b"owes" for column in connection.execute("PRAGMA table_info(stream)")):
        connection.execute("ALTER TABLE stream ADD COLUMN owes INTEGER NOT NULL DEFAULT 0")
    connection.execute(_SOURCE_MARKS)
    connection.execute(
        "INSERT OR IGNORE INTO stream (one, format, name) VALUES (1, ?, ?)", (STATE_FORMAT, name)
    )
    (number,) = connection.execute("SELECT format FROM stream").fetchone()
    state = read_state(connection)
    connection.execute("COMMIT")
    if number != STATE_FORMAT:
        raise ValueError(f"state format {number}, but this release reads format {STATE_FORMAT}")
    if state.name != name:
        raise ValueError(f"it is of the stream {state.name}, not of {name}")
    return state


def read_state(connection: Connection) -> NodeState:
    """Where the file stands."""
    name, created, applied, digest, epoch, owes = connection.execute(
        "SELECT name, created, applied, digest, epoch, owes FROM stream"
    ).fetchone()
    found = connection.execute(
        "SELECT stream_seq, mid, at FROM messages ORDER BY stream_seq DESC LIMIT 1"
    ).fetchone()
    last = None if found is None else AppliedMessage(found[0], found[1].decode(), found[2])
    return NodeState(name.decode(), created.decode(), applied, digest, epoch, last, Owes(owes))


def read_sources(connection: Connection) -> dict[str, SourceState]:
    """What the file knows of sources."""
    states = source_states(connection)
    for source, last in connection.execute("SELECT source, last FROM source_marks"):
        state = states.get(source.decode(), SourceState(None, {}))
        states[source.decode()] = structs.replace(state, last_mark=last.decode())
    return states


def set_created(connection: Connection, created: str) -> None:
    """The file is of the stream that was created then."""
    connection.execute("UPDATE stream SET created = ?", (created,))


def set_owes(connection: Connection, owes: Owes) -> None:
    """Note what this node has to publish; what it owes already it does not owe less."""
    connection.execute("UPDATE stream SET owes = max(owes, ?)", (owes,))


def set_paid(connection: Connection) -> None:
    """Note that this node has published what it owed."""
    connection.execute("UPDATE stream SET owes = ?", (Owes.NOTHING,))


def go_on_behind(connection: Connection, created: str, applied: int) -> None:
    """The file is of the stream that was created then, and goes on behind that message.

    What it remembers of messages from there on, and of any of another stream, was of others.
    """
    (before,) = connection.execute("SELECT created FROM stream").fetchone()
    kept = applied if before.decode() == created else 0
    connection.execute("DELETE FROM messages WHERE stream_seq > ?", (kept,))
    connection.execute("UPDATE stream SET created = ?, applied = ?", (created, applied))


def answers_to(connection: Connection, mids: Sequence[str]) -> list[Answer]:
    """What was answered to those of these messages that have been applied."""
    found: list[Answer] = []
    for start, size in pieces(len(mids)):
        marks = ",".join("?" * size)
        query = f"SELECT mid, answers FROM messages WHERE mid IN ({marks})"
        for mid, blob in connection.execute(query, mids[start : start + size]):
            batches, removed = _unpack_answers(blob)
            outcomes = [one if isinstance(one, str) else _appended(one) for one in batches]
            found.append(Answer(mid.decode(), outcomes, removed))
    return found


def _appended(packed: _PackedAppended) -> Appended:
    return Appended(packed.accepted, packed.duplicates, packed.first_seq, packed.last_seq)


class Applying:
    """The state machine. Its caller begins and ends the transactions, and says how they ended.

    `declared` are this node's own tables, for its indexes only.
    """

    def __init__(self, declared: Mapping[TableId, TableDef]) -> None:
        # The shapes under which tables were last posted.
        self._shapes: dict[TableId, TableDef] = {}
        # Only the first of them is ever written to.
        self.numbers = Numbers(ChainMap(self._shapes, declared))  # type: ignore[arg-type]

    def apply(
        self, connection: Connection, indexes: Indexes, messages: Sequence[Applicable]
    ) -> Applied:
        """Apply messages that follow on the last one; inside the caller's transaction."""
        work = _Transaction(connection, self.numbers, indexes, self._shapes)
        known = _known(connection, messages)
        for place, message in enumerate(messages):
            work.add(message, is_known=message.mid in known)
            if message.body is not None:
                known.add(message.mid)
            if isinstance(message.body, Trim):
                # It may have forgotten messages that were known when the transaction began.
                known = _known(connection, messages[place + 1 :])
        return work.finish(messages[-1].seq)


def _known(connection: Connection, messages: Sequence[Applicable]) -> set[str]:
    """The ids of those that have been applied before."""
    mids = [message.mid for message in messages if message.body is not None]
    return {answer.mid for answer in answers_to(connection, mids)}


class _Waiting(NamedTuple):
    """A message whose batches are to be stored, and the reasons why some are not."""

    message: Applicable
    refused: Mapping[int, str]
    batches: int


class _Transaction:
    """One transaction's messages: batches gathered until something else needs them stored."""

    def __init__(
        self,
        connection: Connection,
        numbers: Numbers,
        indexes: Indexes,
        shapes: dict[TableId, TableDef],
    ) -> None:
        self._connection = connection
        self._numbers = numbers
        self._indexes = indexes
        self._shapes = shapes
        self._digest = Digest(read_state(connection).digest)
        self._postings: list[Posting] = []
        self._waiting: list[_Waiting] = []
        self._groups: list[Group] = []
        self._answers: list[Answer] = []
        self._edges_moved = False
        self._disagrees: str | None = None
        self._is_overruled = False

    def add(self, message: Applicable, *, is_known: bool) -> None:
        if message.body is None or is_known:
            return
        match message.body:
            case Batches() as batches:
                self._add_batches(message, batches)
            case control:
                self._flush()
                self._control(message, control)

    def finish(self, upto: int) -> Applied:
        self._flush()
        self._connection.execute(
            "UPDATE stream SET applied = ?, digest = ?", (upto, self._digest.value)
        )
        (last_seq,) = self._connection.execute("SELECT last_seq FROM state").fetchone()
        return Applied(
            read_state(self._connection),
            last_seq,
            self._groups,
            self._answers,
            self._edges_moved,
            self._disagrees,
            self._is_overruled,
        )

    # Batches

    def _add_batches(self, message: Applicable, batches: Batches) -> None:
        refused: dict[int, str] = {}
        # The last mark of a source, as of the message's batches so far.
        marks: dict[str, str] = {}
        # What a mark makes a table forget depends on where the log ends then.
        alone = any(posting.mark is not None for posting in batches.postings)
        if alone or any(self._is_new(table) for tables in batches.tables for table in tables):
            self._flush()
        for place, tables in enumerate(batches.tables):
            posting = batches.postings[place]
            fault = self._overtaken(posting.mark, marks) or self._refused(tables)
            if fault is not None:
                refused[place] = fault
                continue
            self._postings.append(posting._replace(at=message.at))
            if posting.mark is not None and posting.mark.id is not None:
                marks[posting.mark.source] = posting.mark.id
        self._waiting.append(_Waiting(message, refused, len(batches.postings)))
        if alone:
            self._flush()

    def _overtaken(self, mark: SourceMark | None, marks: Mapping[str, str]) -> str | None:
        """Why the batch of a mark is refused: it follows on one that is not the last one."""
        if mark is None or mark.id is None:
            return None
        last = marks.get(mark.source)
        if last is None:
            last = _last_mark(self._connection, mark.source)
        return None if mark.follows == last else OVERTAKEN

    def _is_new(self, table: TableDef) -> bool:
        known = self._shapes.get(table.id)
        return known is None or Shape.of(known) != Shape.of(table)

    def _refused(self, tables: Sequence[TableDef]) -> str | None:
        for table in tables:
            if not self._is_new(table):
                continue
            stored = stored_table(self._connection, table.id)
            shape = Shape.of(table)
            if (
                stored is not None
                and stored.shape != shape
                and is_filled(self._connection, stored.number)
            ):
                return str(shape_changed(table.id, stored.shape, shape))
            self._shapes[table.id] = table
        return None

    def _flush(self) -> None:
        """Store the batches that were gathered."""
        waiting, postings = self._waiting, self._postings
        self._waiting, self._postings = [], []
        if not waiting:
            return
        group = store(self._connection, self._numbers, self._indexes, postings, 0.0)
        self._groups.append(group)
        for posting in postings:
            if posting.mark is not None:
                write_mark(self._connection, posting.mark)
                if posting.mark.id is not None:
                    self._connection.execute(_SET_LAST_MARK, (posting.mark.source, posting.mark.id))
                self._edges_moved |= bool(posting.mark.forgotten)
        self._remember(waiting, group)

    def _remember(
        self,
        waiting: Sequence[_Waiting],
        group: Group,
    ) -> None:
        results = iter(group.answers)
        changes, taken = group.changes, 0
        last_seq = group.before
        rows = []
        for message, refused, batches in waiting:
            before, answers = last_seq, list[Appended | str]()
            for place in range(batches):
                if place in refused:
                    answers.append(refused[place])
                    continue
                appended = next(results)
                answers.append(appended)
                last_seq = appended.last_seq or last_seq
            if changes is None:
                self._digest.add_stored(self._connection, before, last_seq)
            else:
                # Seqs are dense.
                begin, taken = taken, taken + last_seq - before
                self._digest.add(changes[begin:taken])
            answer = Answer(message.mid, answers)
            self._answers.append(answer)
            rows.append(self._row(message, last_seq, answer))
        self._connection.executemany(_INSERT_MESSAGE, rows)

    def _row(self, message: Applicable, last_seq: int, answer: Answer) -> tuple[Any, ...]:
        batches = [one if isinstance(one, str) else structs.astuple(one) for one in answer.batches]
        blob = _pack((batches, answer.removed))
        return (message.seq, message.mid, message.at, last_seq, self._digest.value, blob)

    # Everything else

    def _control(self, message: Applicable, control: Control) -> None:
        if not (isinstance(control, Epoch) and control.stands):
            self._compare(control.seen)
        removed = 0
        match control:
            case Trim(steps=steps):
                removed = self._trim(steps, message.at)
                self._edges_moved |= removed > 0
            case Epoch() as epoch:
                self._begin_epoch(epoch)
                self._edges_moved = True
        (last_seq,) = self._connection.execute("SELECT last_seq FROM state").fetchone()
        answer = Answer(message.mid, [], removed)
        self._answers.append(answer)
        self._connection.execute(_INSERT_MESSAGE, self._row(message, last_seq, answer))

    def _compare(self, seen: Seen) -> None:
        """Does whoever published this have at that place what is here at that place?"""
        found = self._connection.execute(
            "SELECT digest FROM messages WHERE stream_seq = ? AND mid = ?", (seen.applied, seen.mid)
        ).fetchone()
        if found is not None and found[0] != seen.digest:
            self._disagrees = (
                f"after message {seen.applied} of the stream another node's digest is"
                f" {seen.digest:08x}, but this one's is {found[0]:08x}"
            )

    def _trim(self, steps: Sequence[TrimStep], at: int) -> int:
        # What leaves the log, the indexes could not follow any more.
        follow_all(self._connection)
        tables = stored_tables(self._connection)
        removed = 0
        for after, upto, names in steps:
            numbers = None
            if names is not None:
                numbers = [tables[name].number for name in names if name in tables]
            if numbers != []:
                removed += remove(self._connection, after, upto, numbers)
        self._connection.execute(_FORGET_MESSAGES, (at - KEPT_MILLISECONDS,))
        return removed

    def _begin_epoch(self, epoch: Epoch) -> None:
        if epoch.stands and epoch.seen.digest != self._digest.value:
            self._is_overruled = True
            self._disagrees = (
                f"an operator has decided that the rows of another node stand, whose digest is"
                f" {epoch.seen.digest:08x}, and not this one's {self._digest.value:08x}"
            )
        self._connection.execute(_BEGIN_EPOCH, (epoch.base,))
        self._connection.execute("UPDATE stream SET epoch = ?", (epoch.number,))


# A log that has given no seq begins here. Whoever stands before a later life's base begins anew.
_BEGIN_EPOCH = """
UPDATE state SET
    base = CASE last_seq WHEN 0 THEN ?1 ELSE base END,
    last_seq = max(last_seq, ?1), horizon = max(last_seq, ?1), floor = max(last_seq, ?1),
    trims = trims + 1
"""
_INSERT_MESSAGE = """
INSERT INTO messages (stream_seq, mid, at, last_seq, digest, answers)
VALUES (?, ?, ?, ?, ?, ?)
"""
_SET_LAST_MARK = """
INSERT INTO source_marks (source, last) VALUES (?, ?)
ON CONFLICT (source) DO UPDATE SET last = excluded.last
"""
_FORGET_MESSAGES = """
DELETE FROM messages WHERE at < ?
    AND last_seq < ifnull((SELECT min(seq) FROM log), (SELECT last_seq FROM state))
"""


def _last_mark(connection: Connection, source: str) -> str:
    found = connection.execute(
        "SELECT last FROM source_marks WHERE source = ?", (source,)
    ).fetchone()
    return "" if found is None else str(found[0].decode())
