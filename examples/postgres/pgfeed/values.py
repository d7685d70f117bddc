"""A PostgreSQL value as JSON text, the same whether it was copied or decoded from the WAL.

Both sources give the text of the type's own output function: COPY plainly, wal2json already
wrapped into JSON. From there on:

| PostgreSQL                                  | JSON                                             |
|---------------------------------------------|--------------------------------------------------|
| smallint, integer, bigint, oid              | integer                                          |
| real, double precision                      | number, shortest text that reads back exactly    |
| numeric                                     | text, exact (`--numeric number`: a number)       |
| boolean                                     | true, false                                      |
| json, jsonb                                 | the document itself, its numbers untouched       |
| timestamp                                   | text, `2026-01-31T12:00:00.25`                   |
| timestamp with time zone                    | text in UTC, `2026-01-31T12:00:00.25+00:00`      |
| bytea                                       | text, two hexadecimal digits per byte            |
| anything else (enums, arrays, domains, ...) | text as PostgreSQL prints it                     |
| NULL; NaN and infinities of number types    | null (wal2json does not tell these apart)        |
"""

from collections.abc import Callable

import msgspec

# The settings that decide what the output functions print; set on every connection.
SESSION_SETTINGS = (
    "-c DateStyle=ISO,YMD -c IntervalStyle=postgres -c TimeZone=UTC "
    "-c bytea_output=hex -c extra_float_digits=1 -c client_encoding=UTF8"
)

Converter = Callable[[bytes], bytes]

_NULL = b"null"
_NON_FINITE = {"NaN", "Infinity", "-Infinity"}
_NUMBERS = {"smallint", "integer", "bigint", "oid", "real", "double precision"}
_encode_text = msgspec.json.Encoder().encode
_decode_text = msgspec.json.Decoder(str).decode


def base_name(type_name: str) -> str:
    """The type without its modifier: `character(5)` -> `character`."""
    head, parenthesis, tail = type_name.partition("(")
    if not parenthesis or type_name.endswith("[]"):
        return type_name
    return (head + tail.partition(")")[2]).strip()


class Types:
    """How each type's values become JSON; `numeric` is `text` or `number`."""

    def __init__(self, numeric: str = "text") -> None:
        self._numeric = numeric
        self._converters: dict[str, Converter | None] = {}

    def from_wal(self, type_name: str, value: bytes) -> bytes:
        """The JSON of a value as wal2json gives it (JSON text)."""
        try:
            convert = self._converters[type_name]
        except KeyError:
            convert = self._converters[type_name] = self._converter(base_name(type_name))
        return value if convert is None or value == _NULL else convert(value)

    def from_copy(self, type_name: str, text: str | None) -> bytes:
        """The JSON of a value as COPY gives it (output text; None for NULL)."""
        return _NULL if text is None else self.from_wal(type_name, _as_wal2json(type_name, text))

    def _converter(self, base: str) -> Converter | None:
        if base == "numeric" and self._numeric == "text":
            return _quoted
        if base in ("json", "jsonb"):
            return _document
        if base == "timestamp without time zone":
            return _timestamp
        if base == "timestamp with time zone":
            return _timestamp_with_zone
        return None


def _as_wal2json(type_name: str, text: str) -> bytes:
    """What wal2json makes of an output function's text."""
    base = base_name(type_name)
    if base in _NUMBERS or base == "numeric":
        return _NULL if text in _NON_FINITE else text.encode()
    if base == "boolean":
        return b"true" if text == "t" else b"false"
    if base == "bytea":
        text = text.removeprefix("\\x")
    return _encode_text(text)


def _quoted(number: bytes) -> bytes:
    return b'"%b"' % number


def _document(value: bytes) -> bytes:
    # White space between tokens goes: a spool line must be one line.
    return msgspec.json.format(_decode_text(value).encode(), indent=-1)


def _timestamp(value: bytes) -> bytes:
    return value.replace(b" ", b"T", 1)


def _timestamp_with_zone(value: bytes) -> bytes:
    return _timestamp(value).replace(b'+00"', b'+00:00"').replace(b"+00 BC", b"+00:00 BC")
