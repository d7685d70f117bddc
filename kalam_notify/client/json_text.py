"""JSON of what a program hands over, exactly or not at all.

Datetimes, UUIDs and Decimals become text, dataclasses and Structs objects, integers keep all their
digits. NaN and infinities, which other encoders make null of, are refused.
"""

import json
from typing import Any

import msgspec

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def plain(value: Any) -> Any:
    """`value` in nothing but what JSON has.

    Raises TypeError for what has no JSON, ValueError for numbers and texts that JSON cannot carry.
    """
    builtins = msgspec.to_builtins(value, str_keys=True)
    _encode(builtins).encode()
    return builtins


def encode(value: Any) -> bytes:
    """The JSON of `value`; raises as `plain` does."""
    return _encode(msgspec.to_builtins(value, str_keys=True)).encode()
