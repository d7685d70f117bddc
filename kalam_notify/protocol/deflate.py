"""Compress once, deliver to many: permessage-deflate (RFC 7692) in two independent pieces.

A message's payload is a run of DEFLATE blocks (RFC 1951) without the four bytes 00 00 FF FF that
a sync flush ends with. Blocks end on a byte after a sync flush, and blocks that refer to nothing
before their own start can follow anything. So a subscriber's head, compressed once by itself, and
a body, compressed once for all subscribers of a plan, are together one valid message:

    deflate(head) + 00 00 FF FF   |   deflate(body)

Neither side keeps a window between messages (`server_no_context_takeover` and
`client_no_context_takeover` are always negotiated), so compression costs an idle connection
nothing. Small messages are sent as they are: RSV1 says for each message which it is.
"""

import zlib

WORTHWHILE_BYTES = 256
"""Bodies below this are not compressed: head and body as blocks of their own would eat the gain."""

_TAIL = b"\x00\x00\xff\xff"
# Bodies are compressed on the event loop: a third of the effort for nine tenths of the gain.
_LEVEL = 3


def deflate_head(head: bytes) -> bytes:
    """The front piece: complete blocks, ending on a byte."""
    return _blocks(head)


def deflate_body(body: bytes) -> bytes:
    """The last piece: complete blocks, without the tail that a receiver puts back."""
    blocks = _blocks(body)
    assert blocks.endswith(_TAIL)
    return blocks[:-4]


def _blocks(data: bytes) -> bytes:
    # A window no larger than the data: most of what deflateInit costs is clearing it. RFC 7692
    # allows any window up to the one negotiated; 9 is the least that zlib gives for raw blocks.
    window_bits = min(max(len(data).bit_length(), 9), 15)
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, -window_bits, max(window_bits - 7, 1))
    return compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)
