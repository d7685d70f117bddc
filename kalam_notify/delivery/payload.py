"""`change` messages as bytes: rows and bodies encoded once, joined with heads into frames.

`change` messages as bytes: every row encoded once per projection, every body once per plan.

A message is the subscriber's own head (`{"type":"change","subscription_id":"x",`) and a body that
all subscribers of a plan share (`"change_type":"insert","rows":[...]}`). Consecutive changes that
a plan sees the same way become rows of one message.

`_seq` is spliced behind the last column, as a decimal string: 2^53 is not far enough for every
JavaScript client that a bare number could not be rounded by.

Shared bodies and one subscriber's own head, joined into frames.

The WebSocket header of a message depends on nothing but its length. So for all heads of one
length the pieces between the heads are the same, and `head.join(pieces)` puts a whole run of
messages together in one call: the head is the separator.

    header0 | HEAD | body0 + header1 | HEAD | body1 + header2 | HEAD | body2

For connections that negotiated compression the same is done with deflated heads and bodies
(protocol/deflate.py); the bodies are compressed once, when the first such connection asks.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from kalam_notify.filters import Delta, Projection
from kalam_notify.model import Change, Row, TableDef
from kalam_notify.protocol.deflate import WORTHWHILE_BYTES, deflate_body
from kalam_notify.protocol.events import EventHead, Events, event_end
from kalam_notify.protocol.messages import DeflatedHead, Head, frame_header

MAX_MESSAGE_BYTES = 512 * 1024
"""No message's payload is larger unless a single row is."""

_LARGEST_EXACT = 2**53
# Rows without such a number have no integer beyond it.
_MANY_DIGITS = re.compile(rb"\d{16}")

# A head takes up to 128 code points, each up to 12 bytes when JSON escapes it, and its names.
_BODY_BYTES = MAX_MESSAGE_BYTES - 2048


def with_seq(row_json: bytes, seq: int) -> bytes:
    """A row's JSON object with its `_seq` as the last member."""
    if len(row_json) == 2:
        return b'{"_seq":"%d"}' % seq
    return b'%b,"_seq":"%d"}' % (row_json[:-1], seq)


class RowEncoder:
    """The rows of one projection of one table, each made at most once while this lives."""

    __slots__ = ("_changed", "_gone", "_names", "_primary_key", "_rows", "_write")

    def __init__(self, table: TableDef, projection: Projection) -> None:
        self._names = projection.names
        self._primary_key = table.primary_key
        self._write: Callable[[Any], bytes] = orjson.dumps
        if projection.bigints_as_text:
            self._write = _write_bigints_as_text
        self._rows: dict[int, bytes] = {}
        self._gone: dict[int, bytes] = {}
        self._changed: dict[int, bytes] = {}

    def project(self, row: Row, seq: int) -> bytes:
        """A row as this projection shows it; not remembered."""
        names = self._names
        if names is not None:
            values = row.values
            return with_seq(self._write({name: values.get(name) for name in names}), seq)
        if self._write is orjson.dumps or not _MANY_DIGITS.search(row.json):
            return with_seq(row.json, seq)
        return with_seq(self._write(row.values), seq)

    def row(self, change: Change) -> bytes:
        """The new row."""
        encoded = self._rows.get(change.seq)
        if encoded is None:
            assert change.row is not None
            encoded = self._rows[change.seq] = self.project(change.row, change.seq)
        return encoded

    def gone(self, change: Change) -> bytes:
        """The last row as it was, with the seq of the change that took it away."""
        encoded = self._gone.get(change.seq)
        if encoded is None:
            assert change.old is not None
            encoded = self._gone[change.seq] = self.project(change.old, change.seq)
        return encoded

    def changed(self, change: Change) -> bytes:
        """What an update replaced: key, old `_seq`, old values of changed projected columns."""
        encoded = self._changed.get(change.seq)
        if encoded is None:
            encoded = self._changed[change.seq] = self._replaced(change)
        return encoded

    def _replaced(self, change: Change) -> bytes:
        if change.old is None or change.row is None:
            return b"{}"
        old, new = change.old.values, change.row.values
        if self._names is not None:
            old = {name: old.get(name) for name in self._names}
            new = {name: new.get(name) for name in self._names}
        replaced: dict[str, Any] = {name: old.get(name) for name in self._primary_key}
        replaced |= {
            name: value
            for name, value in old.items()
            if name not in new or _differs(value, new[name])
        }
        encoded = self._write(replaced)
        return encoded if change.old_seq is None else with_seq(encoded, change.old_seq)


def _write_bigints_as_text(values: Any) -> bytes:
    return orjson.dumps(_with_texts(values))


def _with_texts(value: Any) -> Any:
    """A JSON value whose integers beyond 2^53 are their decimal digits."""
    match value:
        case bool():
            return value
        case int():
            return value if -_LARGEST_EXACT <= value <= _LARGEST_EXACT else str(value)
        case dict():
            return {name: _with_texts(inner) for name, inner in value.items()}
        case list():
            return [_with_texts(inner) for inner in value]
    return value


def _differs(old: Any, new: Any) -> bool:
    """Whether two JSON values are written differently (Python holds 1, 1.0 and True equal)."""
    if old is new:
        return False
    kind = type(old)
    if kind is not type(new):
        return True
    if kind is dict or kind is list or kind is float:
        return orjson.dumps(old) != orjson.dumps(new)
    return bool(old != new)


class BodyBuilder:
    """Collects what one plan sees of a batch into message bodies."""

    __slots__ = (
        "_bodies",
        "_delta",
        "_encoder",
        "_olds",
        "_rows",
        "_seq",
        "_size",
        "row_count",
        "seqs",
    )

    def __init__(self, encoder: RowEncoder) -> None:
        self._encoder = encoder
        self._bodies: list[bytes] = []
        self._delta: Delta | None = None
        self._rows: list[bytes] = []
        self._olds: list[bytes] = []
        self._size = 0
        self._seq = 0
        # The seq of the last change in each body.
        self.seqs: list[int] = []
        # Row-changes collected.
        self.row_count = 0

    @property
    def size(self) -> int:
        """Bytes of the message that is being collected."""
        return self._size

    def add(self, change: Change, seen: Delta) -> int:
        """Append one change; returns the bytes it takes."""
        row = old = b""
        if seen is Delta.INSERT or seen is Delta.ENTER:
            row = self._encoder.row(change)
        elif seen is Delta.UPDATE:
            row, old = self._encoder.row(change), self._encoder.changed(change)
        else:
            old = self._encoder.gone(change)
        size = len(row) + len(old) + 2
        if seen is not self._delta or self._size + size > _BODY_BYTES:
            self._close_body()
            self._delta = seen
        if row:
            self._rows.append(row)
        if old:
            self._olds.append(old)
        self._size += size
        self._seq = change.seq
        self.row_count += 1
        return size

    def bodies(self) -> list[bytes]:
        """Everything collected so far, as message bodies in order."""
        self._close_body()
        return self._bodies

    def _close_body(self) -> None:
        if self._delta is None:
            return
        parts = [b'"change_type":"%b"' % self._delta.change_type.encode()]
        if self._rows:
            parts.append(b'"rows":[%b]' % b",".join(self._rows))
        if self._olds:
            parts.append(b'"old_values":[%b]' % b",".join(self._olds))
        if self._delta.transition is not None:
            parts.append(b'"transition":"%b"' % self._delta.transition.encode())
        self._bodies.append(b",".join(parts) + b"}")
        self.seqs.append(self._seq)
        self._delta = None
        self._rows, self._olds, self._size = [], [], 0


class FrameSet:
    """The messages that every live subscriber of a plan gets of one batch."""

    __slots__ = ("_deflated", "_events", "_plain", "_seqs", "row_count", "size")

    def __init__(self, bodies: Sequence[bytes], row_count: int, seqs: Sequence[int] = ()) -> None:
        """`seqs` are the positions that the bodies bring their readers to, where they are known."""
        self._seqs = seqs
        # The same as events, made when somebody wants them.
        self._events: dict[Events, list[bytes]] | None = None
        self._plain = _Splices(bodies, compressed=False)
        # None until somebody wants it; the plain ones where compressing them does not pay.
        self._deflated: _Splices | None = None
        # Row-changes in the messages, and bytes of the bodies, uncompressed.
        self.row_count = row_count
        self.size = sum(map(len, bodies))

    @classmethod
    def joined(cls, sets: "Sequence[FrameSet]") -> "FrameSet":
        """The messages of several batches, one after the other."""
        bodies = [body for one in sets for body in one._plain.bodies]
        seqs = [seq for one in sets for seq in one._seqs]
        return cls(bodies, sum(one.row_count for one in sets), seqs)

    def for_head(self, head: Head) -> bytes:
        """All the messages, framed, for the subscription whose messages start with `head`."""
        splices = self._plain
        if type(head) is DeflatedHead:
            if self._deflated is None:
                self._deflated = _deflated(splices)
            splices = self._deflated
            start = head.deflated if splices.compressed else head.plain
        elif type(head) is EventHead:
            return head.start + head.start.join(self._ends(head.framing))
        else:
            assert type(head) is bytes
            start = head
        length = len(start)
        return start.join(splices.pieces.get(length) or splices.cut(length))

    def _ends(self, framing: Events) -> list[bytes]:
        """What follows on the heads of these messages as events."""
        if self._events is None:
            self._events = {}
        ends = self._events.get(framing)
        if ends is None:
            bodies = self._plain.bodies
            seqs: Sequence[int | None] = self._seqs or [None] * len(bodies)
            pairs = zip(bodies, seqs, strict=True)
            ends = self._events[framing] = [event_end(body, seq, framing) for body, seq in pairs]
        return ends

    def for_heads(self, heads: Sequence[Head]) -> tuple[bytes, list[int]]:
        """What `for_head` makes for each, one after the other, and the size of each."""
        plain = [head for head in heads if type(head) is bytes]
        if len(plain) == len(heads):
            return self._plain.around(plain)
        parts = [self.for_head(head) for head in heads]
        return b"".join(parts), list(map(len, parts))


class _Splices:
    """Bodies, and the pieces around heads of each length."""

    __slots__ = ("bodies", "compressed", "pieces")

    def __init__(self, bodies: Sequence[bytes], *, compressed: bool) -> None:
        self.bodies = bodies
        self.compressed = compressed
        # Length of a head -> what goes around heads of that length.
        self.pieces: dict[int, list[bytes]] = {}

    def around(self, heads: Sequence[bytes]) -> tuple[bytes, list[int]]:
        """The messages of all these heads, one after the other, and the size of each one's.

        Laid out by columns (all first pieces, all heads, all second pieces, ...), so that there
        are a few steps per message and none per subscriber but the copy.
        """
        lengths = list(map(len, heads))
        pieces = {length: self.pieces.get(length) or self.cut(length) for length in set(lengths)}
        columns = len(self.bodies) + 1
        width = 2 * columns - 1
        parts = [b""] * (width * len(heads))
        for column in range(columns):
            of = {length: cut[column] for length, cut in pieces.items()}
            parts[2 * column :: width] = map(of.__getitem__, lengths)
            if column:
                parts[2 * column - 1 :: width] = heads
        size = {
            length: sum(map(len, cut)) + length * (columns - 1) for length, cut in pieces.items()
        }
        return b"".join(parts), list(map(size.__getitem__, lengths))

    def cut(self, head_length: int) -> list[bytes]:
        """Make the pieces around heads of a length for the first time."""
        bodies, compressed = self.bodies, self.compressed
        headers = [frame_header(head_length + len(body), compressed=compressed) for body in bodies]
        between = [body + header for body, header in zip(bodies, headers[1:], strict=False)]
        pieces = self.pieces[head_length] = [headers[0], *between, bodies[-1]]
        return pieces


def _deflated(plain: _Splices) -> _Splices:
    size = sum(map(len, plain.bodies))
    if size < WORTHWHILE_BYTES:
        return plain
    bodies = [deflate_body(body) for body in plain.bodies]
    if sum(map(len, bodies)) >= size:
        return plain
    return _Splices(bodies, compressed=True)
