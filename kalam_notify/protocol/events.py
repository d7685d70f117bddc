"""Server-Sent Events as bytes: the same messages, in another frame.

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html. A message is one event, its
JSON the `data`; `id` is the position that it brings its reader to, so that a `Last-Event-ID` is a
`from`. JSON has no line ends of its own. A subscriber's head is the front of an event, what all
subscribers share its end, as with WebSocket frames:

    data: HEAD | body, newline, id: SEQ, two newlines

Packed, the stream is gzip (RFC 1952): a header, then blocks of DEFLATE that refer to nothing before
themselves, made once for all, each ended on a byte; the stream itself never ends.
"""

from enum import Enum

from kalam_notify.protocol.deflate import deflate_body, deflate_head

GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
HEARTBEAT = b": \n\n"
"""A comment, which keeps what is on the way from thinking that nobody talks any more."""

_SYNC = b"\x00\x00\xff\xff"
_START = b"data: "


class Events(Enum):
    """How a connection takes its messages: as events, and how these are packed."""

    PLAIN = "plain"
    GZIP = "gzip"


class EventHead:
    """What an event of one subscription starts with."""

    __slots__ = ("framing", "start")

    def __init__(self, plain: bytes, framing: Events) -> None:
        self.framing = framing
        self.start = _START + plain
        if framing is Events.GZIP:
            self.start = deflate_head(self.start)


def event_end(body: bytes, seq: int | None, framing: Events) -> bytes:
    """The rest of an event behind its head; `seq` None: no position to go on from."""
    end = b"%b\n\n" % body if seq is None else b"%b\nid: %d\n\n" % (body, seq)
    return packed(end, framing)


def event(
    payload: bytes, framing: Events, name: bytes | None = None, seq: int | None = None
) -> bytes:
    """A whole event; one with a `name` is no message, `seq` is its position."""
    named = b"" if name is None else b"event: %b\n" % name
    placed = b"" if seq is None else b"id: %d\n" % seq
    return packed(b"%bdata: %b\n%b\n" % (named, payload, placed), framing)


def packed(text: bytes, framing: Events) -> bytes:
    """A piece of the stream as it goes out."""
    return deflate_body(text) + _SYNC if framing is Events.GZIP else text
