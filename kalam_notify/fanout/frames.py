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
from kalam_notify.protocol.heads import Head


class FrameSet:
    """The messages that every live subscriber of a plan gets of one batch."""

    __slots__ = ("_deflated", "_plain", "row_count")

    def __init__(self, bodies: Sequence[bytes], row_count: int) -> None:
        self._plain = _Splices(bodies, compressed=False)
        # None until somebody wants it; the plain ones where compressing them does not pay.
        self._deflated: _Splices | None = None
        # Row-changes in the messages.
        self.row_count = row_count

    def for_head(self, head: Head) -> bytes:
        """All the messages, framed, for the subscription whose messages start with `head`."""
        splices, start = self._plain, head.plain
        if head.deflated is not None:
            if self._deflated is None:
                self._deflated = _deflated(splices)
            splices = self._deflated
            if splices.compressed:
                start = head.deflated
        length = len(start)
        return start.join(splices.pieces.get(length) or splices.cut(length))


class _Splices:
    """Bodies, and the pieces around heads of each length."""

    __slots__ = ("bodies", "compressed", "pieces")

    def __init__(self, bodies: Sequence[bytes], *, compressed: bool) -> None:
        self.bodies = bodies
        self.compressed = compressed
        # Length of a head -> what goes around heads of that length.
        self.pieces: dict[int, list[bytes]] = {}

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
