"""The types a declared column may have: KalamDB's closed list, and SQL's names for them."""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from difflib import get_close_matches
from typing import Any

import msgspec

from kalam_notify.model.readings import (
    clock_of,
    decimal_of,
    instant_of,
    uuid_of,
)

MAX_PRECISION = 38
MAX_DIMENSIONS = 8192

# Kind -> SQL's names for it, lower case.
_NAMES = {
    "Boolean": "bool",
    "SmallInt": "int2 smallserial serial2",
    "Int": "integer int4 serial serial4",
    "BigInt": "int8 bigserial serial8",
    "Float": "real float4",
    "Double": "double_precision float8",
    "Decimal": "numeric dec",
    "Text": "varchar character_varying char character bpchar nchar nvarchar string citext name",
    "Uuid": "",
    "Timestamp": "timestamptz timestamp_with_time_zone timestamp_without_time_zone",
    "Date": "",
    "DateTime": "",
    "Time": "timetz time_with_time_zone time_without_time_zone",
    "Json": "jsonb",
    "Bytes": "bytea blob binary varbinary",
    "Embedding": "vector",
    "File": "",
}
_KINDS = {
    name.replace("_", " "): kind
    for kind, names in _NAMES.items()
    for name in (kind.lower(), *names.split())
}
_SPELLING = re.compile(r"([a-z][a-z0-9 ]*?)\s*(?:\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\))?(\s[a-z ]+)?")
_TAKE_A_LENGTH = frozenset(("Text", "Timestamp", "Time", "DateTime", "Bytes"))


class UnknownType(ValueError):
    """A text that names no type; the message says what would."""


class ColumnType(msgspec.Struct, frozen=True, gc=False):
    """A column's type. `precision` None: a Decimal of any size; `size` is an Embedding's."""

    kind: str
    precision: int | None = None
    scale: int | None = None
    size: int | None = None

    def __str__(self) -> str:
        if self.precision is not None:
            return f"Decimal({self.precision},{self.scale})"
        return self.kind if self.size is None else f"{self.kind}({self.size})"

    @property
    def wire(self) -> str | dict[str, Any]:
        """The type as KalamDB's clients read it in an acknowledgement's schema."""
        if self.kind == "Decimal":
            precision, scale = self.precision or MAX_PRECISION, self.scale
            return {"Decimal": {"precision": precision, "scale": 10 if scale is None else scale}}
        return self.kind if self.size is None else {self.kind: self.size}

    @property
    def reading(self) -> str | None:
        """The name of what its values are compared as (see `readings`); None: as they are."""
        return _READINGS.get(self.kind)

    def fault(self, value: Any) -> str | None:
        """Why a JSON value contradicts this type; None when it does not. NULL never does."""
        if value is None or _CHECKS[self.kind](self, value):
            return None
        return f"{self} takes {_TAKES[self.kind].format(self=self)}, not {_shown(value)}"


def parse_type(text: str) -> ColumnType:
    """The type that KalamDB or SQL calls so, in any case. Raises UnknownType."""
    spelled = " ".join(text.lower().split())
    if spelled.endswith("[]"):
        parse_type(spelled[:-2])
        return ColumnType("Json")
    match = _SPELLING.fullmatch(spelled)
    if match is not None:
        name, first, second, rest = match.groups()
        kind = _KINDS.get(f"{name}{rest or ''}")
        if kind is not None:
            return _sized(text, kind, first, second)
        if name == "float" and first:
            return ColumnType("Double" if int(first) > 24 else "Float")
    raise UnknownType(f"{text!r} is no type; {_offer(spelled)}")


def _offer(spelled: str) -> str:
    near = get_close_matches(re.split(r"\W", spelled)[0], list(_KINDS), n=1, cutoff=0.6)
    known = (
        "Boolean SmallInt Int BigInt Float Double Decimal(p,s) Text Uuid Timestamp Date DateTime"
    )
    return f"{f'did you mean {near[0]}? ' if near else ''}there are {known} Time Json Bytes " + (
        "Embedding(n) File, and SQL's names for them"
    )


def _sized(text: str, kind: str, first: str | None, second: str | None) -> ColumnType:
    if kind == "Decimal" and first is not None:
        precision, scale = int(first), int(second or 0)
        if not 1 <= precision <= MAX_PRECISION or scale > precision:
            raise UnknownType(
                f"{text!r}: precision is 1 to {MAX_PRECISION} and scale at most that; "
                "numeric without them has no bound"
            )
        return ColumnType(kind, precision, scale)
    if kind == "Embedding":
        if first is None or second is not None or not 1 <= int(first) <= MAX_DIMENSIONS:
            raise UnknownType(f"{text!r}: write Embedding(n), n from 1 to {MAX_DIMENSIONS}")
        return ColumnType(kind, size=int(first))
    if second is not None or (first is not None and kind not in _TAKE_A_LENGTH | {"Float"}):
        raise UnknownType(f"{text!r}: {kind} takes no size")
    if kind == "Float" and first is not None and int(first) > 24:
        return ColumnType("Double")
    return ColumnType(kind)


_READINGS = {
    "Decimal": "numeric",
    "Timestamp": "timestamp",
    "DateTime": "timestamp",
    "Date": "timestamp",
    "Time": "time",
    "Uuid": "uuid",
}


def _integer(bits: int) -> Callable[[ColumnType, Any], bool]:
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    return lambda _, value: value.__class__ is int and low <= value <= high


def _text(_: ColumnType, value: Any) -> bool:
    return value.__class__ is str


def _number(_: ColumnType, value: Any) -> bool:
    return value.__class__ is int or value.__class__ is float


def _decimal(self: ColumnType, value: Any) -> bool:
    number = decimal_of(value)
    if number is None or self.precision is None or self.scale is None:
        return number is not None
    # Digits after the scale are not this type's, but they round away; digits before it do not.
    return not number or number.adjusted() < self.precision - self.scale


def _embedding(self: ColumnType, value: Any) -> bool:
    return (
        value.__class__ is list and len(value) == self.size and all(_number(self, v) for v in value)
    )


_CHECKS: dict[str, Callable[[ColumnType, Any], bool]] = {
    "Boolean": lambda _, value: value.__class__ is bool,
    "SmallInt": _integer(16),
    "Int": _integer(32),
    # As far as an integer of JSON may reach here, unsigned ones included.
    "BigInt": lambda _, value: value.__class__ is int,
    "Float": _number,
    "Double": _number,
    "Decimal": _decimal,
    "Text": _text,
    "Uuid": lambda _, value: uuid_of(value) is not None,
    "Timestamp": lambda _, value: instant_of(value) is not None,
    "Date": lambda _, value: instant_of(value) is not None,
    "DateTime": lambda _, value: instant_of(value) is not None,
    "Time": lambda _, value: clock_of(value) is not None,
    "Json": lambda _, value: True,
    "Bytes": lambda _, value: value.__class__ is str or value.__class__ is list,
    "Embedding": _embedding,
    "File": lambda _, value: value.__class__ is dict or value.__class__ is str,
}
_TAKES = {
    "Boolean": "true or false",
    "SmallInt": "an integer of 16 bits",
    "Int": "an integer of 32 bits",
    "BigInt": "an integer",
    "Float": "a number",
    "Double": "a number",
    "Decimal": "a number or decimal text such as '12.50'",
    "Text": "text",
    "Uuid": "a UUID as text",
    "Timestamp": "text such as '2024-05-01T12:00:00Z'",
    "Date": "text such as '2024-05-01'",
    "DateTime": "text such as '2024-05-01T12:00:00Z'",
    "Time": "text such as '12:30:00'",
    "Bytes": "text or an array",
    "Embedding": "an array of {self.size} numbers",
    "File": "an object",
}


def _shown(value: Any) -> str:
    if value.__class__ in (list, dict):
        return "an array" if value.__class__ is list else "an object"
    if value.__class__ is bool:
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# Kind -> the classes of which every value is in order: the rest of the values is looked at.
_ALWAYS_RIGHT: dict[str, tuple[type, ...]] = {
    "Boolean": (bool,),
    "BigInt": (int,),
    "Float": (int, float),
    "Double": (int, float),
    "Text": (str,),
    "Json": (bool, int, float, str, list, dict),
    "Bytes": (str, list),
    "File": (str, dict),
}


def _quick_instant(text: str) -> datetime | None:
    """ISO 8601 as the standard library reads it, in C; `instant_of` reads all of that, and more."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


# Kind -> a quick look at a text: TRUE of nearly all that are in order, and of no other.
_USUAL: dict[str, Callable[[str], object]] = {
    **dict.fromkeys(("Timestamp", "Date", "DateTime"), _quick_instant),
    "Uuid": re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}").fullmatch,
    "Time": re.compile(r"(?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d)?", re.ASCII).fullmatch,
}

_MAX_WEIGHT = 20_000
"""Names and classes kept of the shapes of a table's rows."""

_ValueCheck = tuple[str, Callable[[str], object] | None, ColumnType]
"""A column whose value has to be looked at, with a quick look at a text where there is one."""


class RowCheck:
    """Whether a row's columns are declared, and its values of their types. Made once for a table.

    Rows of a table look alike, so what was found of a row's names and classes is kept: of the next
    one like it only those values are looked at whose class does not say it all.
    """

    def __init__(self, columns: Mapping[str, ColumnType]) -> None:
        self._columns = columns
        self._known: dict[tuple[Any, ...], tuple[_ValueCheck, ...]] = {}
        self._weight = 0
        # The shape of the row before: nearly always that of the next.
        self._last: tuple[Any, ...] = ()
        self._checks: tuple[_ValueCheck, ...] = ()

    def __call__(self, row: Mapping[str, Any]) -> tuple[str, str] | None:
        """(column, what is wrong with it) of the first fault; None when the row is in order."""
        shape = (*row, *map(type, row.values()))
        if shape == self._last:
            checks = self._checks
        else:
            known = self._known.get(shape)
            if known is None:
                strange = next((name for name in row if name not in self._columns), None)
                if strange is not None:
                    return strange, "the table declares no such column"
                known = self._learn(row, shape)
            self._last, self._checks = shape, known
            checks = known
        for name, quick, column in checks:
            value = row[name]
            if quick is not None and quick(value):
                continue
            if not _CHECKS[column.kind](column, value):
                return name, str(column.fault(value))
        return None

    def _learn(self, row: Mapping[str, Any], shape: tuple[Any, ...]) -> tuple[_ValueCheck, ...]:
        checks = tuple(
            (name, _quick_check(self._columns[name], value), self._columns[name])
            for name, value in row.items()
            if value is not None
            and value.__class__ not in _ALWAYS_RIGHT.get(self._columns[name].kind, ())
        )
        # Producers choose the shapes, so there is a bound on what they take.
        self._weight += len(shape)
        if self._weight > _MAX_WEIGHT:
            self._known.clear()
            self._weight = len(shape)
        self._known[shape] = checks
        return checks


def _quick_check(column: ColumnType, value: Any) -> Callable[[str], object] | None:
    if value.__class__ is not str:
        return None
    if column.kind != "Decimal":
        return _USUAL.get(column.kind)
    digits = 12 if column.precision is None else column.precision - (column.scale or 0)
    return re.compile(rf"-?\d{{1,{digits}}}(?:\.\d+)?" if digits else "0", re.ASCII).fullmatch
