"""Shared bodies and one subscriber's own head, joined into frames.

The WebSocket header of a message depends on nothing but its length. So for all heads of one
length the pieces between the heads are the same, and `head.join(pieces)` puts a whole run of
messages together in one call: the head is the separator.

    header0 | HEAD | body0 + header1 | HEAD | body1 + header2 | HEAD | body2
"""

from collections.abc import Sequence

from kalam_notify.protocol.frames import frame_header


class FrameSet:
    """The messages that every live subscriber of a plan gets of one batch."""

    __slots__ = ("_bodies", "_pieces", "row_count")

    def __init__(self, bodies: Sequence[bytes], row_count: int) -> None:
        self._bodies = bodies
        # Row-changes in the messages.
        self.row_count = row_count
        # Length of a head -> the pieces around heads of that length.
        self._pieces: dict[int, list[bytes]] = {}

    def for_head(self, head: bytes) -> bytes:
        """All the messages, framed, for the subscription whose messages start with `head`."""
        length = len(head)
        pieces = self._pieces.get(length)
        if pieces is None:
            pieces = self._pieces[length] = self._cut(length)
        return head.join(pieces)

    def _cut(self, head_length: int) -> list[bytes]:
        headers = [frame_header(head_length + len(body)) for body in self._bodies]
        pieces = [body + header for body, header in zip(self._bodies, headers[1:], strict=False)]
        return [headers[0], *pieces, self._bodies[-1]]
