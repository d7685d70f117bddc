"""What one socket sends: bytes in, messages out, one at a time and only when asked for.

websockets' parser hears all that it is given at once, and inflates it on the way: 256 KiB of small
frames that are 250 MB when inflated are one call. So it is given one frame at a time, whose end is
found from its header; what lies behind waits. And a compressed message is only inflated when it has
come whole, here, within the bound of a message. Whoever asks for `next` can stop at any frame.

No asyncio: bytes and calls.

Whether a socket is read: one owner of the transport's pause_reading and resume_reading.

Several parts of a connection have reasons to stop hearing a client for a while, and none may wake
it while another still has one. Each reason is held and released by whoever has it; reading goes on
when none is left. What was read before the pause waits, unheard, in the connection's Inbound.
"""

import asyncio
import zlib
from enum import IntEnum
from typing import Any, Final, NamedTuple

from websockets.exceptions import ProtocolError
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import CTRL_OPCODES, Frame, Opcode
from websockets.protocol import State as WireState
from websockets.server import ServerProtocol

from kalam_notify.protocol import close
from kalam_notify.protocol.close import Close

# As the present websockets calls it. In 15 it was the other one; what nobody reads is no limit.
_WIRES_LIMIT = "max_message_size" if hasattr(ServerProtocol(), "max_message_size") else "max_size"
_END_OF_BLOCK = b"\x00\x00\xff\xff"


class Text(NamedTuple):
    """A whole text message of `size` bytes."""

    text: str
    size: int


class Binary(NamedTuple):
    """A whole binary message of `size` bytes, which nobody has a use for."""

    size: int


class Piece(NamedTuple):
    """A frame that is no whole message: a part of one, a ping, a pong."""

    size: int


Heard = Text | Binary | Piece | Close
"""`Close`: what was heard ends the connection."""


class Inbound:
    """The receiving side of a wire, whose messages may take `limit` bytes."""

    __slots__ = (
        *("_at", "_fragments", "_is_binary", "_is_compressed", "_left", "_limit", "_unread"),
        "_wire",
    )

    def __init__(self, wire: ServerProtocol, limit: int) -> None:
        self._wire = wire
        _inflate_late(wire)
        self.limit = limit
        # What has come and was not given to the wire: it lies behind `_at`.
        self._unread: bytes = b""
        self._at = 0
        # Bytes that the wire still needs for the frame it has begun; -1: it hears no more.
        self._left = 0
        # The parts of a message in several frames so far, as they came.
        self._fragments: bytearray | None = None
        self._is_binary = False
        self._is_compressed = False

    @property
    def limit(self) -> int:
        """The largest message, inflated. What comes next is judged by it."""
        return self._limit

    @limit.setter
    def limit(self, size: int) -> None:
        self._limit = size
        setattr(self._wire, _WIRES_LIMIT, size)

    @property
    def held(self) -> int:
        """Bytes that have come and are not heard, or are no whole message yet."""
        fragments = 0 if self._fragments is None else len(self._fragments)
        return self.unread + len(self._wire.reader.buffer) + fragments

    @property
    def unread(self) -> int:
        """Bytes that have come and were not looked at."""
        return len(self._unread) - self._at

    def take(self, data: bytes) -> None:
        """Bytes have come."""
        if self._left < 0:
            return
        self._unread = self._unread[self._at :] + data if self.unread else data
        self._at = 0

    def drop(self) -> None:
        """Hear no more, and forget what was not heard."""
        self._left = -1
        self._unread, self._at, self._fragments = b"", 0, None
        self._wire.reader.discard()

    def next(self) -> Heard | None:
        """The next thing that was heard; None: more must come first."""
        if self._left == 0:
            self._left = frame_size(self._unread, self._at)
        if self._left <= 0:
            return None
        piece = self._piece()
        self._left -= len(piece)
        wire = self._wire
        wire.receive_data(piece)
        for frame in wire.events_received():
            if isinstance(frame, Frame) and frame.opcode is not Opcode.CLOSE:
                return self._heard(frame)
        if self._left == 0 or wire.parser_exc is not None:
            # The wire has said goodbye, or was said goodbye to.
            self.drop()
        return None

    def _piece(self) -> bytes:
        """What has come of the present frame."""
        unread, start = self._unread, self._at
        end = start + self._left
        if end < len(unread):
            self._at = end
            return unread[start:end]
        self._unread, self._at = b"", 0
        return unread[start:] if start else unread

    def _heard(self, frame: Frame) -> Heard:
        opcode, data = frame.opcode, frame.data
        if opcode in CTRL_OPCODES:
            return Piece(len(data))
        if self._wire.state is not WireState.OPEN:
            return Piece(len(data))  # whatever it is, nobody listens
        if opcode is not Opcode.CONT:
            self._is_binary = opcode is Opcode.BINARY
            self._is_compressed = isinstance(frame, _Compressed)
            if frame.fin:
                return self._message(data)
            self._fragments = bytearray()
        assert self._fragments is not None
        self._fragments += data
        if not frame.fin:
            return Piece(len(data))
        whole, self._fragments = self._fragments, None
        return self._message(whole)

    def _message(self, data: Any) -> Heard:
        try:
            if self._is_compressed:
                data = inflate(data, self.limit)
            if self._is_binary:
                return Binary(len(data))
            return Text(str(data, "utf-8"), len(data))
        except UnicodeDecodeError:
            return close.INVALID_UTF8
        except zlib.error:
            return close.BROKEN_COMPRESSION
        except _TooLarge:
            return close.TOO_LARGE


class _TooLarge(Exception):
    """A message inflates to more than a message may be."""


def frame_size(data: bytes, at: int) -> int:
    """Bytes of the frame that begins at `at`, its header included; 0: that has not come whole.

    RFC 6455, section 5.2.
    """
    have = len(data) - at
    if have < 2:
        return 0
    length, mask = data[at + 1] & 0x7F, 4 if data[at + 1] & 0x80 else 0
    if length < 126:
        return 2 + mask + length
    wide = 2 if length == 126 else 8
    if have < 2 + wide:
        return 0
    return 2 + wide + mask + int.from_bytes(data[at + 2 : at + 2 + wide])


def inflate(data: bytes | bytearray, limit: int) -> bytes:
    """A compressed message's content (RFC 7692, section 7.2.2); raises what `_message` knows."""
    decoder = zlib.decompressobj(wbits=-15)
    content = decoder.decompress(bytes(data) + _END_OF_BLOCK, limit + 1)
    if len(content) > limit:
        raise _TooLarge
    return content


class _Compressed(Frame):
    """The first frame of a compressed message, its data as it came."""


class _LateDeflate(PerMessageDeflate):
    """permessage-deflate that checks the bit of a compressed message and leaves the data alone."""

    def __init__(self) -> None:
        super().__init__(True, True, 15, 15)

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        if frame.opcode in CTRL_OPCODES or not frame.rsv1:
            return frame
        if frame.opcode is Opcode.CONT:
            raise ProtocolError("RSV1 bit set in continuation frame")
        return _Compressed(frame.opcode, frame.data, frame.fin, rsv2=frame.rsv2, rsv3=frame.rsv3)


# It remembers nothing, so one is enough for all.
_LATE_DEFLATE = _LateDeflate()


def _inflate_late(wire: ServerProtocol) -> None:
    if wire.extensions:
        wire.extensions = [_LATE_DEFLATE]


class Reason(IntEnum):
    """Why a client is not heard at the moment: one bit each."""

    SEND_BUFFER = 1  # answers pile up, for it does not read them
    KEY = 2  # the key its token is signed with is being fetched
    RATE = 4  # it has made more work than its rate allows
    REQUESTS = 8  # requests of its own wait to be served
    TURN = 16  # it has been heard for long enough; others first


# No reason, but the end: nothing is heard any more.
_SHUT: Final = 32


class ReadingGate:
    """Open while there is no reason against reading."""

    __slots__ = ("_held", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        # The reasons held, added up: there may be 25,000 of these.
        self._held = 0

    @property
    def is_open(self) -> bool:
        return not self._held

    def holds(self, reason: Reason) -> bool:
        return bool(self._held & reason)

    def hold(self, reason: Reason) -> None:
        """Stop reading for this reason, whatever others there are."""
        if not self._held and not self._transport.is_closing():
            self._transport.pause_reading()
        self._held |= reason

    def release(self, reason: Reason) -> bool:
        """A reason is gone; True: it was the last one, and reading goes on."""
        if not self._held & reason:
            return False
        self._held &= ~reason
        return self._resumes()

    def release_all(self) -> bool:
        """No reason counts any more; True: there was one, and reading goes on."""
        if not self._held or self._held & _SHUT:
            return False
        self._held = 0
        return self._resumes()

    def shut(self) -> None:
        """Nothing is read any more, whoever releases what."""
        self._held |= _SHUT

    def _resumes(self) -> bool:
        if self._held or self._transport.is_closing():
            return False
        self._transport.resume_reading()
        return True
