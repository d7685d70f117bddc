"""Durations and sizes as an operator writes them."""

import math
import re

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", re.ASCII)

# A century: beyond it a deadline is a slip of the keyboard, and timers overflow not far off.
LONGEST_SECONDS = 100 * 366 * 86400.0
LARGEST_BYTES = 1 << 50

DURATION_CURE = "give a number of seconds, or text such as 500ms, 10s, 5m, 24h, 7d"
SIZE_CURE = "give a number of bytes, or text such as 512B, 256KiB, 8MiB, 1GiB"


def parse_duration(value: object) -> float | None:
    """Seconds named by a number or by text such as `500ms`; None when it names no duration."""
    seconds = _duration_text(value) if isinstance(value, str) else _plain_number(value)
    if seconds is None or not 0 <= seconds <= LONGEST_SECONDS:
        return None
    return seconds


def parse_size(value: object) -> int | None:
    """Bytes named by a whole number or by text such as `256KiB`; None when it names no size."""
    if isinstance(value, str):
        size = _size_text(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        return None
    return size if size is not None and 0 <= size <= LARGEST_BYTES else None


def _plain_number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= LONGEST_SECONDS and not math.isnan(value) else None


def _duration_text(text: str) -> float | None:
    match = _AMOUNT.fullmatch(text.strip())
    if match is None:
        return None
    factor = _SECONDS.get(match[2].lower() or "s")
    return None if factor is None else float(match[1]) * factor


def _size_text(text: str) -> int | None:
    match = _AMOUNT.fullmatch(text.strip())
    if match is None:
        return None
    factor = _BYTES.get(match[2].lower() or "b")
    if factor is None:
        return None
    size = float(match[1]) * factor
    return int(size) if size <= LARGEST_BYTES and size.is_integer() else None
