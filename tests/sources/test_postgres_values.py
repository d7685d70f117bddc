"""Texts of PostgreSQL's output functions, as JSON."""

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalam_notify.model.types import ColumnType
from kalam_notify.sources.postgres.arrays import Nested, parse_array
from kalam_notify.sources.postgres.values import (
    Codec,
    Codecs,
    TypeInfo,
    UnfitForKey,
    refuse_as_key,
)

NAMES = [
    "bool",
    "int2",
    "int4",
    "int8",
    "oid",
    "float4",
    "float8",
    "numeric",
    "json",
    "jsonb",
    "uuid",
    "date",
    "time",
    "timestamp",
    "timestamptz",
    "bytea",
    "text",
    "varchar",
    "bpchar",
    "interval",
    "int4range",
    "vector",
    "mood",
]
OIDS = {name: number for number, name in enumerate(NAMES, 100)}
TYPES = {oid: TypeInfo(oid, name, "b", 0, -1, 0, ",") for name, oid in OIDS.items()}
ARRAYS = {f"_{name}": oid + 1000 for name, oid in OIDS.items()}
TYPES |= {oid: TypeInfo(oid, name, "b", 0, -1, oid - 1000, ",") for name, oid in ARRAYS.items()}
BOX, BOXES, AGE, PRICE = 3000, 3001, 3002, 3003
TYPES[BOX] = TypeInfo(BOX, "box", "b", 0, -1, 0, ";")
TYPES[BOXES] = TypeInfo(BOXES, "_box", "b", 0, -1, BOX, ",")
TYPES[AGE] = TypeInfo(AGE, "age", "d", OIDS["int2"], -1, 0, ",")
TYPES[PRICE] = TypeInfo(PRICE, "price", "d", OIDS["numeric"], (10 << 16 | 2) + 4, 0, ",")
CODECS = Codecs(TYPES)


def codec(name: str, modifier: int = -1) -> Codec:
    return CODECS.of(OIDS.get(name) or ARRAYS[name], modifier)


CASES = [
    ("bool", "t", True, "Boolean"),
    ("bool", "f", False, "Boolean"),
    ("int2", "-32768", -32768, "SmallInt"),
    ("int4", "7", 7, "Int"),
    ("int8", "9223372036854775807", 2**63 - 1, "BigInt"),
    ("oid", "4294967295", 2**32 - 1, "BigInt"),
    ("float4", "1.5", 1.5, "Float"),
    ("float8", "1e+300", 1e300, "Double"),
    ("float8", "NaN", "NaN", "Double"),
    ("float8", "-Infinity", "-Infinity", "Double"),
    ("numeric", "12.50", "12.50", "Decimal(38,10)"),
    ("numeric", "NaN", "NaN", "Decimal(38,10)"),
    ("json", '{"a" : [1, 2.50], "b": "x y"}', {"a": [1, 2.5], "b": "x y"}, "Json"),
    ("jsonb", '"text"', "text", "Json"),
    ("jsonb", "null", None, "Json"),
    (
        "uuid",
        "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        "Uuid",
    ),
    ("date", "2026-01-31", "2026-01-31", "Date"),
    ("date", "infinity", "infinity", "Date"),
    ("time", "12:00:00.25", "12:00:00.25", "Time"),
    ("timestamp", "2026-01-31 12:00:00.25", "2026-01-31T12:00:00.25", "Timestamp"),
    ("timestamptz", "2026-01-31 12:00:00+00", "2026-01-31T12:00:00+00:00", "Timestamp"),
    ("timestamptz", "0044-03-15 00:00:00+00 BC", "0044-03-15T00:00:00+00:00 BC", "Timestamp"),
    ("timestamptz", "-infinity", "-infinity", "Timestamp"),
    ("bytea", "\\x00ff", "\\x00ff", "Bytes"),
    ("text", 'quote " back \\ line\nü \u2028', 'quote " back \\ line\nü \u2028', "Text"),
    ("bpchar", "ab  ", "ab  ", "Text"),
    ("interval", "1 day 02:03:04", "1 day 02:03:04", "Text"),
    ("int4range", "[1,5)", "[1,5)", "Text"),
    ("mood", "sad", "sad", "Text"),
    ("_int4", "{1,NULL,3}", [1, None, 3], "Json"),
    ("_int4", "{{1,2},{3,4}}", [[1, 2], [3, 4]], "Json"),
    ("_int4", "[0:1]={1,2}", [1, 2], "Json"),
    ("_int4", "{}", [], "Json"),
    ("_numeric", "{1.50,2}", ["1.50", "2"], "Json"),
    ("_bool", "{t,f}", [True, False], "Json"),
    ("_text", '{a,"b,c","d\\"e","NULL",NULL,""}', ["a", "b,c", 'd"e', "NULL", None, ""], "Json"),
    ("_timestamptz", '{"2026-01-31 12:00:00+00"}', ["2026-01-31T12:00:00+00:00"], "Json"),
    ("_jsonb", '{"{\\"a\\": 1}"}', [{"a": 1}], "Json"),
]


@pytest.mark.parametrize(("name", "text", "value", "kind"), CASES)
def test_a_value_becomes_json(name: str, text: str, value: object, kind: str) -> None:
    made = codec(name)
    told = json.loads(made.convert(text.encode()))
    assert (told, type(told)) == (value, type(value))
    shown = made.type.wire
    assert str(made.type) == kind or shown == {"Decimal": {"precision": 38, "scale": 10}}


def test_a_numeric_keeps_every_digit_and_tells_its_precision_and_scale() -> None:
    made = codec("numeric", (12 << 16 | 4) + 4)
    assert made.type == ColumnType("Decimal", 12, 4)
    assert made.convert(b"1234567890123456789.12345678901234567890") == (
        b'"1234567890123456789.12345678901234567890"'
    )


@pytest.mark.parametrize(("precision", "scale"), [(1000, 2), (3, -2), (2, 5)])
def test_a_numeric_beyond_what_can_be_declared_has_no_bound(precision: int, scale: int) -> None:
    modifier = (precision << 16 | scale & 0x7FF) + 4
    assert codec("numeric", modifier).type == ColumnType("Decimal")


def test_a_domain_is_what_it_is_over() -> None:
    assert CODECS.of(AGE).type == ColumnType("SmallInt")
    assert CODECS.of(AGE).convert(b"7") == b"7"
    assert CODECS.of(PRICE).type == ColumnType("Decimal", 10, 2)


def test_a_type_that_nobody_knows_is_text() -> None:
    assert CODECS.of(1).convert(b'a"b') == b'"a\\"b"'


def test_an_array_is_cut_where_its_elements_type_says() -> None:
    told = json.loads(CODECS.of(BOXES).convert(b"{(1,1),(0,0);(2,2),(1,1)}"))
    assert told == ["(1,1),(0,0)", "(2,2),(1,1)"]


def test_a_vector_is_an_array_of_numbers() -> None:
    made = codec("vector", 3)
    assert (made.type, made.convert(b"[1,2.5,3]")) == (
        ColumnType("Embedding", size=3),
        b"[1,2.5,3]",
    )


@pytest.mark.parametrize("text", ['{"a": 1e999}', "[" * 2000 + "]" * 2000, '"\\ud800"'])
def test_a_document_that_nobody_could_decode_is_told_as_text(text: str) -> None:
    assert orjson.loads(codec("json").convert(text.encode())) == text


def test_a_document_keeps_its_numbers_as_they_are_written() -> None:
    assert codec("json").convert(b'{"a": 1.50, "b": 12345678901234567}') == (
        b'{"a":1.50,"b":12345678901234567}'
    )


def test_text_that_is_not_utf_8_is_told_with_replacements() -> None:
    assert json.loads(codec("text").convert(b"a\xff")) == "a�"


@pytest.mark.parametrize("name", ["float8", "json", "_int4"])
def test_values_that_name_no_row_are_refused_as_keys(name: str) -> None:
    with pytest.raises(UnfitForKey):
        refuse_as_key("k", codec(name))


@pytest.mark.parametrize("text", ["", "1", "{1", "{1}}", "{1}x", '{"a}'])
def test_what_is_no_array_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of whichever kind
        parse_array(text)


def _written(items: Nested) -> str:
    parts = []
    for item in items:
        if item is None:
            parts.append("NULL")
        elif isinstance(item, str):
            parts.append('"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"')
        else:
            parts.append(_written(item))
    return "{" + ",".join(parts) + "}"


@given(
    st.recursive(
        st.lists(st.one_of(st.none(), st.text(max_size=8)), max_size=4),
        lambda inner: st.lists(inner, min_size=1, max_size=3),
        max_leaves=8,
    )
)
def test_every_array_comes_out_as_it_went_in(items: Nested) -> None:
    assert parse_array(_written(items)) == items
