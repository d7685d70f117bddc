"""Rows that are wrapped into a format come out of it as they were."""

import json
from base64 import b64encode
from decimal import Decimal
from typing import Any

import orjson
from formats_kit import decode
from hypothesis import given, settings
from hypothesis import strategies as st

from kalam_notify.formats.connect_schema import decimal_text
from kalam_notify.formats.debezium import PLACEHOLDER

names = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=10).filter(
    lambda name: not name.startswith("_") and name != "id"
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
rows = st.builds(
    lambda key, rest: {"id": key, **rest},
    st.integers(-(2**63), 2**63) | st.text(st.characters(exclude_categories=["Cs"])),
    st.dictionaries(names, scalars | st.lists(scalars, max_size=3), max_size=5),
)
Row = dict[str, Any]


def debezium(old: Row | None, new: Row | None) -> Row:
    op = "c" if old is None else "d" if new is None else "u"
    source = {"connector": "postgresql", "name": "n", "schema": "shop", "table": "orders", "lsn": 7}
    return {"before": old, "after": new, "op": op, "source": source}


def with_schema(old: Row | None, new: Row | None) -> Row:
    return {"schema": {"type": "struct", "fields": []}, "payload": debezium(old, new)}


def supabase(old: Row | None, new: Row | None) -> Row:
    verb = "INSERT" if old is None else "DELETE" if new is None else "UPDATE"
    named = {"type": verb, "schema": "shop", "table": "orders"}
    return {**named, "record": new, "old_record": old}


def hasura(old: Row | None, new: Row | None) -> Row:
    verb = "INSERT" if old is None else "DELETE" if new is None else "UPDATE"
    table = {"schema": "shop", "name": "orders"}
    event = {"op": verb, "data": {"old": old, "new": new}}
    return {"id": "e", "trigger": {"name": "t"}, "table": table, "event": event}


def sequin(old: Row | None, new: Row | None) -> Row:
    action = "insert" if old is None else "delete" if new is None else "update"
    metadata = {"table_schema": "shop", "table_name": "orders", "idempotency_key": "k"}
    changes = old if old is not None and new is not None else None
    return {"record": new or old, "changes": changes, "action": action, "metadata": metadata}


def maxwell(old: Row | None, new: Row | None) -> Row:
    kind = "insert" if old is None else "delete" if new is None else "update"
    changes = {"old": old} if old is not None and new is not None else {}
    named = {"database": "shop", "table": "orders", "type": kind, "xid": 1}
    return {**named, "data": new or old, **changes}


def cloudevent(old: Row | None, new: Row | None) -> Row:
    head = {"specversion": "1.0", "id": "i", "source": "/s", "type": "t"}
    return {**head, "datacontenttype": "application/json", "data": supabase(old, new)}


def wal2json(old: Row | None, new: Row | None) -> Row:
    def columns(row: Row) -> list[Row]:
        return [{"name": name, "type": "x", "value": value} for name, value in row.items()]

    message: Row = {"action": "I" if old is None else "D" if new is None else "U"}
    message |= {"schema": "shop", "table": "orders", "xid": 1}
    if new is not None:
        message["columns"] = columns(new)
    if old is not None:
        message["identity"] = columns(old)
    return message


WRAPPED = (debezium, with_schema, supabase, hasura, sequin, maxwell, cloudevent, wal2json)


def shown(row: Row) -> str:
    return repr(sorted(row.items()))


@settings(max_examples=300, deadline=None)
@given(wrap=st.sampled_from(WRAPPED), row=rows, old=rows)
def test_a_row_comes_out_of_every_format_as_it_went_in(wrap: Any, row: Row, old: Row) -> None:
    (inserted,) = decode(orjson.dumps(wrap(None, row)))
    assert inserted.row is not None
    numbers_as_they_are = wrap is not wal2json
    if numbers_as_they_are:
        assert shown(json.loads(inserted.row.json)) == shown(row)
    old["id"] = row["id"]
    (updated,) = decode(orjson.dumps(wrap(old, row)))
    assert updated.row is not None
    assert (updated.kind, updated.key) == ("update", inserted.key)
    (deleted,) = decode(orjson.dumps(wrap(old, None)))
    assert (deleted.kind, deleted.key) == ("delete", inserted.key)


@settings(max_examples=200, deadline=None)
@given(wrap=st.sampled_from(WRAPPED), row=rows, old=rows)
def test_another_key_is_a_delete_and_an_insert_in_every_format(
    wrap: Any, row: Row, old: Row
) -> None:
    if (type(old["id"]), old["id"]) == (type(row["id"]), row["id"]):
        old["id"] = f"{old['id']}'"
    gone, come = decode(orjson.dumps(wrap(old, row)))
    assert (gone.kind, json.loads(gone.key or "")) == ("delete", [old["id"]])
    assert (json.loads(come.key or ""), come.old) == ([row["id"]], None)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=7) | st.decimals(0, 10**40))
def test_decimals_come_out_of_their_bytes_with_every_digit(number: Decimal) -> None:
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    unscaled = int("".join(map(str, digits))) * (-1 if sign else 1)
    raw = unscaled.to_bytes(unscaled.bit_length() // 8 + 1, "big", signed=True)
    assert Decimal(decimal_text(raw, -exponent)) == number


@given(
    st.sampled_from(
        [
            ("io.debezium.time.Timestamp", 1_767_323_045_678, "2026-01-02T03:04:05.678"),
            ("io.debezium.time.MicroTimestamp", -1, "1969-12-31T23:59:59.999999"),
            ("io.debezium.time.NanoTimestamp", 1, "1970-01-01T00:00:00.000000001"),
            ("org.apache.kafka.connect.data.Timestamp", 0, "1970-01-01T00:00:00"),
            ("io.debezium.time.MicroTimestamp", 2**63 - 1, 2**63 - 1),
            ("io.debezium.time.Date", -1, "1969-12-31"),
            ("io.debezium.time.Date", 10**9, 10**9),
            ("io.debezium.time.Time", 47_655_123, "13:14:15.123"),
            ("io.debezium.time.MicroTime", 86_400_000_000, "24:00:00"),
            ("io.debezium.time.NanoTime", 1, "00:00:00.000000001"),
            ("io.debezium.data.Json", "[1,", "[1,"),
            ("io.debezium.data.VariableScaleDecimal", {"scale": -2, "value": "AQ=="}, "100"),
            ("org.apache.kafka.connect.data.Decimal", "BOI=", "12.50"),
            ("org.apache.kafka.connect.data.Decimal", "no base64", "no base64"),
        ]
    )
)
def test_a_logical_type_is_told_as_text_or_as_it_came(case: tuple[str, Any, Any]) -> None:
    name, value, meant = case
    field = {"type": "x", "name": name, "field": "v", "parameters": {"scale": "2"}}
    array = {"type": "array", "items": field, "field": "vs"}
    schema = {
        "type": "struct",
        "fields": [{"type": "struct", "field": "after", "fields": [field, array]}],
    }
    event = debezium(None, {"id": 1, "v": value, "vs": [value, None]})
    (change,) = decode(orjson.dumps({"schema": schema, "payload": event}))
    assert change.row is not None
    assert change.row.values["v"] == meant
    assert change.row.values["vs"] == [meant, None]


@given(
    st.sampled_from(
        [
            PLACEHOLDER,
            b64encode(PLACEHOLDER.encode()).decode(),
            [PLACEHOLDER],
            list(PLACEHOLDER.encode()),
            {PLACEHOLDER: PLACEHOLDER},
            ["b68a35a7-17ad-35b3-af2a-ae46edb4545a"],
        ]
    )
)
def test_a_placeholder_in_any_type_is_a_column_that_has_not_changed(placeholder: Any) -> None:
    (change,) = decode(orjson.dumps(debezium({"id": 1}, {"id": 1, "v": placeholder, "w": [95]})))
    assert change.unchanged == ("v",)
    assert change.row is not None
    assert change.row.values == {"id": 1, "w": [95]}
