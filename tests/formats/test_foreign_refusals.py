"""A message that cannot be taken is refused with its format, its index and where in it to look."""

import json
from typing import Any

import orjson
import pytest
from formats_kit import EVENTS, ORDERS, decode, messages
from hypothesis import given, settings
from hypothesis import strategies as st

from kalam_notify.errors import ChangeRefused
from kalam_notify.formats.parsed import members_of
from kalam_notify.formats.recognise import FORMATS
from kalam_notify.http.items import Form
from kalam_notify.model import PostedChange, TableDef, TableId
from kalam_notify.model.types import parse_type

CODES = ("INVALID_CHANGE", "INVALID_JSON", "UNKNOWN_TABLE", "TOO_LARGE")
MYSQL = messages("debezium_mysql")


def refusal(body: bytes | object, **how: Any) -> ChangeRefused:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    with pytest.raises(ChangeRefused) as caught:
        decode(raw, **how)
    return caught.value


def changed(message: bytes, **members: Any) -> dict[str, Any]:
    return {**json.loads(message), **members}


def test_an_undeclared_table_is_told_with_the_format_its_source_and_its_index() -> None:
    other = json.loads(MYSQL[0])
    other["source"]["table"] = "customers"
    fault = refusal([json.loads(MYSQL[0]), other])
    assert fault.message.startswith(
        "a Debezium envelope of source mysql: the table shop.customers is not declared"
    )
    assert (fault.status, fault.code) == (400, "UNKNOWN_TABLE")
    assert (fault.index, fault.field) == (1, "source.table")


def test_a_mapped_table_is_ours_by_the_longest_name_that_is_mapped() -> None:
    tables = {"shop.orders": TableId("shop.full_ident"), "orders": TableId("shop.lines")}
    (change,) = decode(MYSQL[0], tables={"shop.orders": ORDERS.id})
    assert change.table == ORDERS.id
    body = messages("supabase")[0]
    (change,) = decode(body, tables=tables)
    assert change.table == "shop.full_ident"
    nameless = {"schema": {"type": "struct", "name": "orders"}, "payload": {"id": 1}}
    assert refusal(nameless).field == "schema.name"
    (change,) = decode(orjson.dumps(nameless), tables={"orders": ORDERS.id})
    assert change.table == ORDERS.id


def test_names_with_capitals_are_tables_in_quotes() -> None:
    table = TableDef(TableId('public."User"'), "shared", "public", ("id",))
    body = changed(messages("supabase")[0], schema="public", table="User")
    (change,) = decode(orjson.dumps(body), declared=[table])
    assert change.table == 'public."User"'


def test_tables_that_a_hook_may_not_write_are_forbidden() -> None:
    fault = refusal(MYSQL[0], only=[EVENTS.id])
    assert (fault.status, fault.code, fault.field) == (403, "FORBIDDEN", "source.table")
    assert decode(MYSQL[0], only=[ORDERS.id])


STRICT = TableDef(
    ORDERS.id,
    "shared",
    "public",
    ("id",),
    columns={"id": parse_type("bigint"), "status": parse_type("text")},
)
PLACES: list[tuple[str, dict[str, Any], str]] = [
    ("debezium", {"op": "c", "after": {"id": 1, "status": 2}}, "after.status"),
    ("debezium", {"op": "u", "after": {"id": None}}, "after.id"),
    ("debezium", {"op": "x", "after": {"id": 1}}, "op"),
    ("debezium", {"op": "c", "after": [1]}, "after"),
    ("debezium", {"op": "c", "after": {"id": 1, "_seq": 1}}, "after._seq"),
]


@pytest.mark.parametrize(("format", "members", "field"), PLACES)
def test_a_bad_value_is_told_where_it_stands_in_the_message(
    format: str, members: dict[str, Any], field: str
) -> None:
    source = {"connector": "mysql", "name": "s", "db": "shop", "table": "orders", "pos": 1}
    bare = {"before": None, "after": None, "source": source, **members}
    fault = refusal(bare, declared=[STRICT])
    assert fault.message.startswith("a Debezium envelope")
    assert (fault.index, fault.field) == (0, field)
    wrapped = refusal({"schema": None, "payload": bare}, declared=[STRICT])
    assert wrapped.field == f"payload.{field}"
    lines = orjson.dumps({"ts_ms": 1}) + b"\n" + orjson.dumps(bare)
    assert refusal(lines, form=Form.LINES, declared=[STRICT]).index == 1


@pytest.mark.parametrize(
    ("name", "members", "field", "label"),
    [
        ("supabase", {"record": {"id": 1, "status": 5}}, "record.status", "a Supabase webhook"),
        ("supabase", {"type": "MERGE"}, "type", "a Supabase webhook"),
        ("supabase", {"table": 5}, "table", "a Supabase webhook"),
        ("hasura", {"event": {"op": "X", "data": {}}}, "event.op", "a Hasura event"),
        ("hasura", {"table": {"schema": "shop"}}, "table", "a Hasura event"),
        ("sequin", {"action": "merge"}, "action", "a Sequin message"),
        ("sequin", {"record": None}, "record", "a Sequin message"),
        ("maxwell", {"type": "upsert"}, "type", "a Maxwell row"),
        ("maxwell", {"type": "insert", "data": None}, "data", "a Maxwell row"),
        ("cloudevents", {"id": ""}, "id", "a CloudEvent of source /shop/api"),
        ("cloudevents", {"specversion": "9"}, "specversion", "a CloudEvent of source /shop/api"),
        ("cloudevents", {"type": "odd"}, "data", "a CloudEvent of source /shop/api"),
        ("cloudevents", {"data_base64": "/w=="}, "data", "a CloudEvent of source /shop/api"),
        ("cloudevents", {"data_base64": "?"}, "data_base64", "a CloudEvent of source /shop/api"),
        ("wal2json_2", {"action": "X"}, "action", "a wal2json message"),
    ],
)
def test_faults_of_every_format_are_told_in_its_words(
    name: str, members: dict[str, Any], field: str, label: str
) -> None:
    fault = refusal(changed(messages(name)[0], **members), declared=[STRICT])
    assert fault.message.startswith(label)
    assert (fault.status, fault.index, fault.field) == (400, 0, field)


def test_a_batch_of_sequin_and_a_transaction_of_wal2json_name_the_place_within() -> None:
    batch = json.loads(messages("sequin")[2])
    batch["data"][1]["record"]["id"] = None
    assert refusal(batch).field == "data.1.record.id"
    transaction = {
        "change": [
            {
                "kind": "insert",
                "schema": "shop",
                "table": "orders",
                "columnnames": ["id"],
                "columntypes": ["bigint"],
                "columnvalues": [value],
            }
            for value in (1, None)
        ]
    }
    assert refusal(transaction).field == "change.1.columnvalues.id"


def test_a_format_that_is_asked_for_is_the_one_that_is_read() -> None:
    assert refusal(messages("maxwell")[3], format="debezium").field == "op"
    for name in ("sequin", "hasura", "supabase", "wal2json", "kafka-connect", "cloudevents"):
        assert refusal(messages("maxwell")[3], format=name).code == "INVALID_CHANGE"
    fault = refusal(MYSQL[0], format="nonsense")
    assert fault.field == "format"
    assert "debezium" in fault.message
    ours = {"table": "shop.orders", "change_type": "insert", "row_data": {"id": 1}}
    (change,) = decode(orjson.dumps(ours), format="kalam")
    assert change.key == "[1]"


def test_our_own_shape_stays_our_own_and_its_faults_too() -> None:
    ours = {"table": "shop.orders", "change_type": "insert", "row_data": {"id": 1}}
    late = {
        "row_data": {"id": 1, "pad": "x" * 5000},
        "table": "shop.orders",
        "change_type": "merge",
    }
    assert refusal([ours, {**ours, "table": "shop.none"}]).message.startswith("there is no table")
    assert refusal(late).field == "change_type"
    assert refusal({}).message == "the table is missing: say namespace.name"
    row = {"before": 1, "after": {"id": 1, "change_type": "x"}, "op": "c"}
    assert decode(orjson.dumps({**ours, "row_data": {"id": 1, **row}}))
    # ... and a column of that name makes no other shape ours.
    message = json.loads(MYSQL[0])
    message["after"]["change_type"] = "x"
    (change,) = decode(orjson.dumps({"after": message.pop("after"), **message}))
    assert change.row is not None
    assert change.row.values["change_type"] == "x"


def test_rows_of_another_program_keep_the_limits() -> None:
    message = json.loads(messages("supabase")[0])
    message["record"]["note"] = "x" * 600_000
    assert refusal(message).code == "TOO_LARGE"
    message["record"]["note"] = "x" * 3_000_000
    fault = refusal(message)
    assert (fault.status, fault.field) == (413, "record")
    many = b"[" + b",".join([messages("supabase")[0]] * 10_001) + b"]"
    assert refusal(many).code == "TOO_LARGE"


def test_nonsense_behind_a_message_is_refused_without_building_it() -> None:
    body = b"[" + MYSQL[0] + b",1" * 2_000_000 + b"]"
    fault = refusal(body)
    assert (fault.status, fault.index) == (400, 1)
    assert refusal(b"[" + MYSQL[0] + b",1" * 2_000_000).code == "INVALID_JSON"
    deep = MYSQL[0][:-1] + b',"x":' + b"[" * 100_000
    assert refusal(deep).code in ("INVALID_JSON", "INVALID_CHANGE")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(name=st.sampled_from(sorted(FORMATS)), data=st.data())
def test_a_message_with_any_member_made_odd_is_taken_or_refused_in_words(
    name: str, data: st.DataObject
) -> None:
    fixture = {"wal2json": "wal2json_2_with_lsn", "kafka-connect": "kafka_connect"}.get(name, name)
    message = json.loads(data.draw(st.sampled_from(messages(fixture))))
    place = message
    # Somewhere in it, down to the leaves.
    while True:
        key = data.draw(st.sampled_from(sorted(place)))
        if isinstance(place[key], dict) and place[key] and data.draw(st.booleans()):
            place = place[key]
            continue
        break
    place[key] = data.draw(json_values)
    body = orjson.dumps(message)
    for format in (None, name):
        fault: ChangeRefused | None = None
        changes: list[PostedChange] = []
        try:
            changes = decode(body, format=format)
        except ChangeRefused as refused:
            fault = refused
        assert fault is None or (fault.message and fault.code in CODES)
        assert all(change.row is None or members_of(change.row.json) for change in changes)
