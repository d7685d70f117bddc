"""Server frames as bytes: RFC 6455 section 5.2, unmasked, final, text.

The fan-out makes frames itself, because one frame is made for thousands of sockets; everything
else that a connection says goes through websockets' ServerProtocol.
"""

from struct import Struct

_FIN_TEXT = 0x81
_FIN_TEXT_COMPRESSED = 0xC1  # RSV1 marks a permessage-deflate message, RFC 7692 section 6
_MEDIUM = Struct("!BBH").pack
_LONG = Struct("!BBQ").pack


def frame_header(length: int, *, compressed: bool = False) -> bytes:
    """The 2, 4 or 10 bytes in front of a text message of `length` payload bytes."""
    first = _FIN_TEXT_COMPRESSED if compressed else _FIN_TEXT
    if length < 126:
        return bytes((first, length))
    if length < 65536:
        return _MEDIUM(first, 126, length)
    return _LONG(first, 127, length)


def text_frame(payload: bytes) -> bytes:
    """One whole text message as one frame."""
    return frame_header(len(payload)) + payload
