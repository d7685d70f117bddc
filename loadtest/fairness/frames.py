"""Frames as a client sends them, made beforehand so that sending them costs the sender nothing.

The masking key is zero, which RFC 6455 allows: the payload stands there as it is.
"""

import json
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

TEXT, CONTINUATION, PING = 0x1, 0x0, 0x9


def frame(payload: bytes, opcode: int = TEXT, *, fin: bool = True, packed: bool = False) -> bytes:
    """One masked frame; `packed`: with the bit of permessage-deflate."""
    head = bytes([opcode | (0x80 if fin else 0) | (0x40 if packed else 0)])
    size = len(payload)
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65536:
        head += bytes([0x80 | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([0x80 | 127]) + size.to_bytes(8, "big")
    return head + b"\0\0\0\0" + payload


def message(**fields: Any) -> bytes:
    return frame(json.dumps(fields, separators=(",", ":")).encode())


def subscribe(name: str, sql: str, options: Any = None) -> bytes:
    return message(type="subscribe", subscription={"id": name, "sql": sql, "options": options})


def bomb(inflated: int) -> bytes:
    """A `ping` message of so many bytes, most of them one letter, compressed."""
    text = b'{"type":"ping","padding":"' + b"a" * inflated + b'"}'
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = deflater.compress(text) + deflater.flush(zlib.Z_SYNC_FLUSH)
    return frame(packed[:-4], packed=True)


def write(path: Path, frames: Iterable[bytes]) -> Path:
    """A file that `read` gives back as the same frames."""
    with path.open("wb") as file:
        for one in frames:
            file.write(len(one).to_bytes(4, "big") + one)
    return path


def read(path: Path) -> Sequence[bytes]:
    data, at, frames = path.read_bytes(), 0, []
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        frames.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return frames
