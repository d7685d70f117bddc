"""How the value of one key is read: one reader per kind of value.

A reader takes what YAML, an environment variable (always text) or a flag gave, and answers the
typed value or raises `BadValue`, whose text is the cure the operator is told. Numbers and booleans
may come as text, so that one reader serves all sources.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from kalam_notify.config.cores import cores
from kalam_notify.config.units import DURATION_CURE, SIZE_CURE, parse_duration, parse_size

T = TypeVar("T")

_INTEGER = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_TRUTH = {"true": True, "yes": True, "on": True, "1": True}
_TRUTH |= {"false": False, "no": False, "off": False, "0": False}


class BadValue(ValueError):
    """A value that a key does not take. Its text tells what would be taken."""

    # The item to blame, where the value is a list.
    item: object = None
    # Further items that are not taken either.
    others: "tuple[BadValue, ...]" = ()
    # What to go on with to find the faults of other keys; None: the key's default.
    rest: object = None


class Reader(msgspec.Struct, Generic[T], frozen=True):
    """Marks a field of a settings struct with the way its value is read."""

    read: Callable[[object], T]
    # A secret's value never appears in a fault.
    is_secret: bool = False

    def hidden(self) -> "Reader[T]":
        return Reader(self.read, is_secret=True)


def nullable(reader: Reader[T]) -> Reader[T | None]:
    """The same, and null."""

    def read(value: object) -> T | None:
        return None if value is None else reader.read(value)

    return Reader(read, is_secret=reader.is_secret)


def integer(least: int, most: int = 2**53) -> Reader[int]:
    cure = f"give a whole number from {least} to {most}"
    if most == 2**53:
        cure = f"give a whole number, {least} or more"

    def read(value: object) -> int:
        if isinstance(value, str) and _INTEGER.fullmatch(value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise BadValue(cure)
        return value

    return Reader(read)


def duration(*, allow_zero: bool = False) -> Reader[float]:
    def read(value: object) -> float:
        seconds = parse_duration(value)
        if seconds is None:
            raise BadValue(DURATION_CURE)
        if seconds == 0 and not allow_zero:
            raise BadValue("give a duration above 0")
        return seconds

    return Reader(read)


def size(least: int = 1) -> Reader[int]:
    def read(value: object) -> int:
        parsed = parse_size(value)
        if parsed is None:
            raise BadValue(SIZE_CURE)
        if parsed < least:
            raise BadValue(f"give a size of at least {least} bytes")
        return parsed

    return Reader(read)


def choice(*names: str) -> Reader[str]:
    def read(value: object) -> str:
        if not isinstance(value, str) or value not in names:
            raise BadValue(f"give one of {', '.join(names)}")
        return value

    return Reader(read)


def list_of(reader: Reader[T]) -> Reader[tuple[T, ...]]:
    """A YAML list, a JSON list as text, or items separated by commas."""
    return Reader(lambda value: read_all(reader, as_list(value)))


def read_all(reader: Reader[T], items: Sequence[object]) -> tuple[T, ...]:
    """Every item as `reader` reads it; raises BadValue for the first bad one, with the others."""
    values: list[T] = []
    refusals: list[BadValue] = []
    for item in items:
        try:
            values.append(reader.read(item))
        except BadValue as refusal:
            refusal.item = item
            refusals.append(refusal)
    raise_all(refusals)
    return tuple(values)


def raise_all(refusals: Sequence[BadValue], rest: object = None) -> None:
    """Raise the first of them, with the others; nothing where there is none."""
    if refusals:
        refusals[0].others = tuple(refusals[1:])
        refusals[0].rest = rest
        raise refusals[0]


def one_or_more(reader: Reader[str]) -> Reader[str | tuple[str, ...]]:
    """A text, or a list of texts (as text: a JSON list, for a comma may be part of one)."""

    def read(value: object) -> str | tuple[str, ...]:
        items = _texts(value) if isinstance(value, str) else value
        if not isinstance(items, list):
            return reader.read(value)
        if not items:
            raise BadValue("give at least one, or null")
        if len(set(map(str, items))) < len(items):
            raise BadValue("one is given twice: keep one")
        return read_all(reader, items)

    return Reader(read, is_secret=reader.is_secret)


def _texts(value: str) -> list[object] | None:
    """The items of a JSON list of texts; None for what is a text by itself."""
    if not value.lstrip().startswith("["):
        return None
    try:
        items = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return items if isinstance(items, list) else None


def as_list(value: object) -> list[object]:
    """The items of a list however it was written; raises BadValue when it is none."""
    if isinstance(value, list):
        return value
    if not isinstance(value, str):
        raise BadValue("give a list")
    if value.lstrip().startswith("["):
        return _json_list(value)
    return [item for part in value.split(",") if (item := part.strip())]


def _json_list(text: str) -> list[object]:
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        raise BadValue("this starts like a JSON list but is not valid JSON") from None
    if not isinstance(items, list):
        raise BadValue("give a list")
    return items


def _read_boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    truth = _TRUTH.get(value.lower()) if isinstance(value, str) else None
    if truth is None:
        raise BadValue("give true or false")
    return truth


def _read_text(value: object) -> str:
    if not isinstance(value, str):
        raise BadValue("give text, in quotes where YAML would read something else")
    if not value:
        raise BadValue("give text that is not empty")
    return value


# What a template leaves behind where it was not filled in: ${NAME}, {{ name }}, $(name), <%= x %>.
_UNFILLED = re.compile(r"\$\{[^}]*\}|\{\{.*?\}\}|<%.*?%>|\$\([^)]*\)", re.DOTALL)
# ... and what only is one where it stands alone.
_UNFILLED_WHOLE = re.compile(
    r"\$\w+|%\w+%|<[^<>]*>|@@?[A-Za-z_]\w*@@?|#\{.*\}|\[\[.*\]\]|__[A-Z_]+__"
)
_INVISIBLE = "\ufeff\ufffe\u200b\u200c\u200d\u2060\x00"


def is_unfilled(value: str) -> bool:
    """Whether this looks like a variable of a template that nobody has filled in."""
    return _UNFILLED.search(value) is not None or _UNFILLED_WHOLE.fullmatch(value) is not None


def edges_are_blank(value: str) -> bool:
    """Whether white space, a line end or a byte order mark is at either end."""
    return value != value.strip() or value != value.strip(_INVISIBLE)


def _read_plain_text(value: object) -> str:
    plain = _read_text(value)
    if edges_are_blank(plain) and "-----BEGIN" not in plain:
        raise BadValue("take off the white space, line end or byte order mark at its ends")
    if is_unfilled(plain):
        raise BadValue("looks like a variable that nothing has filled in: give the value itself")
    return plain


def _read_workers(value: object) -> int:
    if value == "auto":
        return cores()
    try:
        return integer(1, 1024).read(value)
    except BadValue:
        raise BadValue("give a whole number from 1 to 1024, or auto for one per core") from None


def _read_auto_or_flag(value: object) -> bool | None:
    """None stands for `auto`."""
    if value == "auto":
        return None
    try:
        return boolean.read(value)
    except BadValue:
        raise BadValue("give true, false or auto") from None


def _read_auto_or_limit(value: object) -> int | None:
    """None stands for `auto`, 0 for no limit."""
    try:
        return None if value == "auto" else integer(0).read(value)
    except BadValue:
        raise BadValue("give a whole number, 0 or more (0: no limit), or auto") from None


boolean = Reader(_read_boolean)
text = Reader(_read_text)
plain_text = Reader(_read_plain_text)
"""Text that is no language of its own: without white space at its ends, and filled in."""
file_path = Reader(lambda value: Path(_read_plain_text(value)))
workers = Reader(_read_workers)
auto_or_flag = Reader(_read_auto_or_flag)
auto_or_limit = Reader(_read_auto_or_limit)
