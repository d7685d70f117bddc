"""Values as bytes that sort as the values compare, for the entries of an index.

    absent, NULL, array, object   00                in a first column: no entry at all
    FALSE, TRUE                   01 00, 01 01
    number                        02 and 8 bytes    the nearest double, its bits turned to sort
    text                          03 ... 00 00      UTF-8, 00 inside as 00 FF, cut after 64 bytes

The bytes of several columns stand one behind the other; each part tells its own end, so an entry
sorts by its first column, then by its second, and those that begin alike are neighbours.

Equal values have equal bytes, and a value below another never has greater bytes. Not more than
that: integers beyond 2**53 and long texts may share theirs. So who looks for bytes finds all that
he wants and perhaps a little more, and asks the filter about it.
"""

from collections.abc import Sequence
from struct import Struct
from typing import Any

MAX_TEXT = 64
"""Bytes of a text that are told apart."""

NOTHING = b"\x00"
_FALSE, _TRUE = b"\x01\x00", b"\x01\x01"
_NUMBER, _TEXT = b"\x02", b"\x03"
_END = b"\x00\x00"
# Above every byte that can follow a whole part, and above every byte of UTF-8; numbers have it.
ABOVE = b"\xff"

Span = tuple[bytes, bytes]
"""Entries from the first bytes, included, to the second, not included."""

_double = Struct(">d")
_bits = Struct(">Q")
_SIGN = 1 << 63
_ALL = (1 << 64) - 1


def encode(value: object) -> bytes:
    """A value's bytes; NOTHING for what equals nothing and is in no order."""
    kind = value.__class__
    if kind is str:
        return _TEXT + _text(value) + _END  # type: ignore[arg-type]
    if kind is int or kind is float:
        return _NUMBER + _number(value)  # type: ignore[arg-type]
    if kind is bool:
        return _TRUE if value else _FALSE
    return NOTHING


def _text(text: str) -> bytes:
    cut = text.encode("utf-8", "surrogatepass")[:MAX_TEXT]
    return cut.replace(b"\x00", b"\x00\xff") if b"\x00" in cut else cut


def _number(number: float) -> bytes:
    try:
        # Adding zero makes one of the two zeros.
        (bits,) = _bits.unpack(_double.pack(number + 0.0))
    except OverflowError:
        bits = _SIGN | _ALL >> 1 if number < 0 else _ALL >> 1
    return _bits.pack(bits ^ _ALL if bits & _SIGN else bits | _SIGN)


def between(begin: bytes, low: Any, high: Any) -> Span:
    """The entries whose columns begin with these bytes, and then lie between two values.

    Both ends are included; None: no bound, but one of them is given.
    """
    family = _TEXT if isinstance(high if low is None else low, str) else _NUMBER
    first = begin + (family if low is None else encode(low))
    if high is None:
        return first, begin + bytes((family[0] + 1,))
    return first, begin + encode(high) + ABOVE


def beginning(begin: bytes, prefix: str) -> Span:
    """The same for texts with a prefix."""
    low = begin + _TEXT + _text(prefix)
    return low, low + ABOVE


def merged(spans: Sequence[Span]) -> list[Span]:
    """The same entries in spans that do not overlap, in order."""
    result: list[Span] = []
    for low, high in sorted(spans):
        if low >= high:
            continue
        if result and low <= result[-1][1]:
            result[-1] = (result[-1][0], max(result[-1][1], high))
        else:
            result.append((low, high))
    return result
