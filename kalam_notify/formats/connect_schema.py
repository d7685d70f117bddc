"""Values as their Kafka Connect schema means them: decimals, dates and times as text.

Kafka Connect's JsonConverter writes a schema beside each payload when `schemas.enable` is on. What
has a logical name there is written as a bare number or as base64, and only the schema tells what it
stands for: https://debezium.io/documentation/reference/stable/connectors/postgresql.html#data-types
and `org.apache.kafka.connect.data.{Decimal,Date,Time,Timestamp}`.

A schema is several times as long as its payload, and the same for all messages of a table, so what
it comes to is kept by its text.
"""

import re
from base64 import b64decode
from binascii import Error
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Any

import msgspec
import orjson

from kalam_notify.formats.parsed import is_null, joined, members_of

Convert = Callable[[Any], Any]
"""From a JSON value that is not null to what it means; raises ValueError or TypeError."""

Columns = Mapping[str, Convert]
"""The columns of a row that mean something else than they say."""

# 16 MiB of them at most.
_LONGEST_KEPT = 128 * 1024
_SCALE = re.compile(r"-?\d{1,5}", re.ASCII)
_NOTHING: Columns = {}
_DAY_ONE = date(1970, 1, 1)
_INSTANT_ONE = datetime(1970, 1, 1)
_DAY_SECONDS = 24 * 3600


class _Type(msgspec.Struct):
    """A schema, or a field of one."""

    type: str = ""
    name: str | None = None
    field: str = ""
    fields: "list[_Type]" = []
    items: "_Type | None" = None
    parameters: dict[str, str] | None = None


class Schema(msgspec.Struct, frozen=True):
    """What a schema says: its name, what its own fields mean, and those of the rows in it."""

    name: str | None
    columns: Columns
    rows: Mapping[str, Columns]


_decode = msgspec.json.Decoder(_Type).decode


def schema_of(text: bytes) -> Schema:
    """The schema of a payload; raises what msgspec raises where it is none."""
    return _kept(text) if len(text) <= _LONGEST_KEPT else _read(text)


def _read(text: bytes) -> Schema:
    found = _decode(text)
    rows = {one.field: _columns(one) for one in found.fields if one.type == "struct"}
    return Schema(found.name, _columns(found), rows)


_kept = lru_cache(maxsize=128)(_read)


def converted(row: msgspec.Raw | bytes, columns: Columns) -> msgspec.Raw | bytes:
    """The row with its columns as they are meant; what cannot be meant so stays as it is."""
    if not columns:
        return row
    members = members_of(row)
    for name, convert in columns.items():
        raw = members.get(name)
        if raw is not None and not is_null(raw):
            members[name] = msgspec.Raw(_meant(bytes(raw), convert))
    return joined(members.items())


def _meant(raw: bytes, convert: Convert) -> bytes:
    try:
        return orjson.dumps(convert(msgspec.json.decode(raw)))
    except (ValueError, TypeError, OverflowError, Error, KeyError):
        # An infinite timestamp, a text that is no JSON: told as it came.
        return raw


def _columns(struct: _Type) -> Columns:
    found = {one.field: convert for one in struct.fields if (convert := _convert(one)) is not None}
    return found or _NOTHING


def _convert(type: _Type) -> Convert | None:
    if type.type == "array" and type.items is not None:
        item = _convert(type.items)
        return (
            None if item is None else lambda values: [v if v is None else item(v) for v in values]
        )
    if type.name == "org.apache.kafka.connect.data.Decimal":
        scale = (type.parameters or {}).get("scale", "0")
        if _SCALE.fullmatch(scale) is None:
            return None
        return lambda value: decimal_text(b64decode(value, validate=True), int(scale))
    return _BY_NAME.get(type.name or "")


def decimal_text(unscaled: bytes, scale: int) -> str:
    """A decimal in digits: its unscaled value in two's complement, most significant byte first."""
    if abs(scale) > 10_000:
        raise ValueError(scale)
    number = int.from_bytes(unscaled, "big", signed=True)
    sign, digits = "-" if number < 0 else "", str(abs(number))
    if scale <= 0:
        return f"{sign}{digits}{'0' * -scale if number else ''}"
    digits = digits.rjust(scale + 1, "0")
    return f"{sign}{digits[:-scale]}.{digits[-scale:]}"


def _variable_scale(value: Any) -> str:
    return decimal_text(b64decode(value["value"], validate=True), value["scale"])


def _day(days: int) -> str:
    return (_DAY_ONE + timedelta(days=days)).isoformat()


def _fraction(rest: int, digits: int) -> str:
    return f".{rest:0{digits}d}" if rest else ""


def _instant(digits: int) -> Convert:
    """Units of 10^-digits seconds since 1970, of a clock that knows no zone."""

    def text(value: int) -> str:
        seconds, rest = divmod(value, 10**digits)
        whole = _INSTANT_ONE + timedelta(seconds=seconds)
        return f"{whole.isoformat()}{_fraction(rest, digits)}"

    return text


def _clock(digits: int) -> Convert:
    """Units of 10^-digits seconds since midnight."""

    def text(value: int) -> str:
        seconds, rest = divmod(value, 10**digits)
        if not 0 <= seconds <= _DAY_SECONDS:
            raise ValueError(value)
        minutes, second = divmod(seconds, 60)
        hour, minute = divmod(minutes, 60)
        return f"{hour:02d}:{minute:02d}:{second:02d}{_fraction(rest, digits)}"

    return text


_BY_NAME: Mapping[str, Convert] = {
    "io.debezium.data.VariableScaleDecimal": _variable_scale,
    "io.debezium.data.Json": msgspec.json.decode,
    "io.debezium.time.Date": _day,
    "org.apache.kafka.connect.data.Date": _day,
    "io.debezium.time.Timestamp": _instant(3),
    "io.debezium.time.MicroTimestamp": _instant(6),
    "io.debezium.time.NanoTimestamp": _instant(9),
    "org.apache.kafka.connect.data.Timestamp": _instant(3),
    "io.debezium.time.Time": _clock(3),
    "io.debezium.time.MicroTime": _clock(6),
    "io.debezium.time.NanoTime": _clock(9),
    "org.apache.kafka.connect.data.Time": _clock(3),
}
