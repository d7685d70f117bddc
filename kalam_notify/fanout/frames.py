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
        if head.deflated is None:
            return self._plain.join(head.plain)
        splices = self._deflated
        if splices is None:
            splices = self._deflated = _deflated(self._plain)
        return splices.join(head.deflated if splices.compressed else head.plain)


class _Splices:
    """Bodies, and the pieces around heads of each length."""

    __slots__ = ("_pieces", "bodies", "compressed")

    def __init__(self, bodies: Sequence[bytes], *, compressed: bool) -> None:
        self.bodies = bodies
        self.compressed = compressed
        self._pieces: dict[int, list[bytes]] = {}

    def join(self, head: bytes) -> bytes:
        length = len(head)
        pieces = self._pieces.get(length)
        if pieces is None:
            pieces = self._pieces[length] = self._cut(length)
        return head.join(pieces)

    def _cut(self, head_length: int) -> list[bytes]:
        bodies, compressed = self.bodies, self.compressed
        headers = [frame_header(head_length + len(body), compressed=compressed) for body in bodies]
        between = [body + header for body, header in zip(bodies, headers[1:], strict=False)]
        return [headers[0], *between, bodies[-1]]


def _deflated(plain: _Splices) -> _Splices:
    size = sum(map(len, plain.bodies))
    if size < WORTHWHILE_BYTES:
        return plain
    bodies = [deflate_body(body) for body in plain.bodies]
    if sum(map(len, bodies)) >= size:
        return plain
    return _Splices(bodies, compressed=True)
