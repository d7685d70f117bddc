r"""A PostgreSQL value as JSON, the same whether it was copied or came with the WAL. No I/O.

Both give the text of the type's own output function, under `SESSION`'s settings. From there on:

| PostgreSQL                          | column type         | JSON                               |
|-------------------------------------|---------------------|------------------------------------|
| smallint, integer, bigint, oid      | SmallInt Int BigInt | number                             |
| real, double precision              | Float Double        | number; NaN, infinities: text      |
| numeric                             | Decimal             | text, with every digit             |
| boolean                             | Boolean             | true, false                        |
| json, jsonb                         | Json                | the document                       |
| uuid, date, time                    | Uuid Date Time      | text                               |
| timestamp                           | Timestamp           | text, 2026-01-31T12:00:00.25       |
| timestamp with time zone            | Timestamp           | the same with +00:00 behind it     |
| bytea                               | Bytes               | text, \x and two digits per byte   |
| arrays                              | Json                | arrays of these, nested as they are|
| domains                             | that of their base  | as their base                      |
| enums, ranges, composites, the rest | Text                | text as PostgreSQL prints it       |
"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import msgspec
import orjson

from kalam_notify.model.types import MAX_PRECISION, ColumnType
from kalam_notify.sources.postgres.arrays import Nested, parse_array

SESSION: Final = {
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "client_encoding": "UTF8",
}
"""The settings that decide what output functions print; set on every connection that reads rows."""

Converter = Callable[[bytes], bytes]
"""From a value's text to its JSON."""


class TypeInfo(NamedTuple):
    """A row of pg_type."""

    oid: int
    name: str
    # b(ase), c(omposite), d(omain), e(num), p(seudo), r(ange), m(ultirange)
    kind: str
    # Of a domain.
    base: int
    base_modifier: int
    # Of a true array, the type of its elements; 0: none.
    element: int
    delimiter: str


class Codec(NamedTuple):
    """How a column is declared, and its values told."""

    type: ColumnType
    convert: Converter


class UnfitForKey(ValueError):
    """A column whose values name no row here; the message tells its type."""


_JSON = ColumnType("Json")
_TEXT = ColumnType("Text")
_dumps = orjson.dumps
_format = msgspec.json.format
_check = msgspec.json.Decoder().decode


def _text(value: bytes) -> bytes:
    try:
        return _dumps(value.decode())
    except ValueError:
        # Of a database that does not check its texts (SQL_ASCII).
        return _dumps(value.decode(errors="replace"))


def _as_is(value: bytes) -> bytes:
    return value


def _boolean(value: bytes) -> bytes:
    return b"true" if value == b"t" else b"false"


_NO_NUMBERS = frozenset((b"NaN", b"Infinity", b"-Infinity"))


def _float(value: bytes) -> bytes:
    return b'"%b"' % value if value in _NO_NUMBERS else value


def _quoted(value: bytes) -> bytes:
    """Of text that JSON has nothing to escape in."""
    return b'"%b"' % value


def _timestamp(value: bytes) -> bytes:
    return b'"%b"' % value.replace(b" ", b"T", 1) if value[-8:] != b"infinity" else _quoted(value)


def _timestamp_with_zone(value: bytes) -> bytes:
    return _timestamp(value).replace(b'+00"', b'+00:00"').replace(b"+00 BC", b"+00:00 BC")


def _bytes(value: bytes) -> bytes:
    return b'"\\%b"' % value


def _document(value: bytes) -> bytes:
    try:
        compact = _format(value, indent=-1)
        # What nobody could decode would be of no use to anybody: a number of 400 digits, nesting
        # beyond any depth. It is told as the text it is.
        _dumps(_check(compact))
    except (msgspec.DecodeError, ValueError, TypeError, RecursionError):
        return _text(value)
    return compact


# Name in pg_type -> kind of column, converter.
_BASE: dict[str, tuple[str, Converter]] = {
    "bool": ("Boolean", _boolean),
    "int2": ("SmallInt", _as_is),
    "int4": ("Int", _as_is),
    "int8": ("BigInt", _as_is),
    "oid": ("BigInt", _as_is),
    "xid": ("BigInt", _as_is),
    "float4": ("Float", _float),
    "float8": ("Double", _float),
    "numeric": ("Decimal", _quoted),
    "json": ("Json", _document),
    "jsonb": ("Json", _document),
    "uuid": ("Uuid", _quoted),
    "date": ("Date", _quoted),
    "time": ("Time", _quoted),
    "timetz": ("Time", _quoted),
    "timestamp": ("Timestamp", _timestamp),
    "timestamptz": ("Timestamp", _timestamp_with_zone),
    "bytea": ("Bytes", _bytes),
    # An extension's (pgvector), whose text is a JSON array already.
    "vector": ("Embedding", _as_is),
}
_UNFIT_FOR_KEYS = frozenset(("Float", "Double", "Json", "Embedding"))


class Codecs:
    """Codecs by type, made once each. `types` holds every type that a column may have."""

    def __init__(self, types: Mapping[int, TypeInfo]) -> None:
        self._types = types
        self._made: dict[tuple[int, int], Codec] = {}

    def of(self, type_oid: int, modifier: int = -1) -> Codec:
        """The codec of a column of this type and modifier; an unknown type is text."""
        made = self._made.get((type_oid, modifier))
        if made is None:
            made = self._made[type_oid, modifier] = self._make(type_oid, modifier)
        return made

    def knows(self, type_oid: int) -> bool:
        """Whether the catalogue that these were read from had this type."""
        return type_oid in self._types

    def _make(self, type_oid: int, modifier: int) -> Codec:
        info = self._types.get(type_oid)
        if info is None:
            return Codec(_TEXT, _text)
        if info.kind == "d":
            return self.of(info.base, info.base_modifier)
        if info.element:
            return Codec(_JSON, self._array(info))
        kind, convert = _BASE.get(info.name, ("Text", _text))
        return Codec(_sized(kind, modifier), convert)

    def _array(self, info: TypeInfo) -> Converter:
        element = self.of(info.element).convert
        delimiter = self._types[info.element].delimiter if info.element in self._types else ","

        def convert(value: bytes) -> bytes:
            return _array_json(parse_array(value.decode(errors="replace"), delimiter), element)

        return convert


def _array_json(items: Nested, element: Converter) -> bytes:
    parts = []
    for item in items:
        if item is None:
            parts.append(b"null")
        elif isinstance(item, str):
            parts.append(element(item.encode()))
        else:
            parts.append(_array_json(item, element))
    return b"[%b]" % b",".join(parts)


def _sized(kind: str, modifier: int) -> ColumnType:
    if kind == "Decimal" and modifier >= 4:
        precision, scale = (modifier - 4) >> 16 & 0xFFFF, (modifier - 4) & 0x7FF
        # A scale has eleven bits, the highest of which is its sign.
        scale = (scale ^ 1024) - 1024
        if 1 <= precision <= MAX_PRECISION and 0 <= scale <= precision:
            return ColumnType("Decimal", precision, scale)
    if kind == "Embedding":
        return ColumnType("Embedding", size=modifier) if modifier > 0 else _JSON
    return ColumnType(kind)


def refuse_as_key(column: str, codec: Codec) -> None:
    """Raise UnfitForKey where values of this type cannot name a row."""
    if codec.type.kind in _UNFIT_FOR_KEYS:
        raise UnfitForKey(f"key column {column} is {codec.type}, whose values name no row here")
