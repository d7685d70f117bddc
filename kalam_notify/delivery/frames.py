"""Shared bodies and one subscriber's own head, joined into frames.

The WebSocket header of a message depends on nothing but its length. So for all heads of one
length the pieces between the heads are the same, and `head.join(pieces)` puts a whole run of
messages together in one call: the head is the separator.

    header0 | HEAD | body0 + header1 | HEAD | body1 + header2 | HEAD | body2

For connections that negotiated compression the same is done with deflated heads and bodies
(protocol/deflate.py); the bodies are compressed once, when the first such connection asks.
"""

from collections.abc import Sequence

from kalam_notify.protocol.deflate import WORTHWHILE_BYTES, deflate_body
from kalam_notify.protocol.frames import frame_header
from kalam_notify.protocol.heads import DeflatedHead, Head


class FrameSet:
    """The messages that every live subscriber of a plan gets of one batch."""

    __slots__ = ("_deflated", "_plain", "row_count", "size")

    def __init__(self, bodies: Sequence[bytes], row_count: int) -> None:
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
        return cls(bodies, sum(one.row_count for one in sets))

    def for_head(self, head: Head) -> bytes:
        """All the messages, framed, for the subscription whose messages start with `head`."""
        splices = self._plain
        if type(head) is DeflatedHead:
            if self._deflated is None:
                self._deflated = _deflated(splices)
            splices = self._deflated
            start = head.deflated if splices.compressed else head.plain
        else:
            assert type(head) is bytes
            start = head
        length = len(start)
        return start.join(splices.pieces.get(length) or splices.cut(length))

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
