"""Messages of every format, as their senders send them, become changes that make exact views."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from formats_kit import EVENTS, FULL, LINES, ORDERS, Shop, decode, messages

from kalam_notify.config.hooks import FORMATS as CONFIGURED
from kalam_notify.formats.recognise import FORMATS, reader_of
from kalam_notify.http.items import Form

FROM_POSTGRES = (
    *("debezium", "debezium_with_schema", "cloudevents_debezium"),
    *("wal2json_1", "wal2json_2", "wal2json_1_with_lsn", "wal2json_2_with_lsn"),
)
HEADPHONES = {
    "id": 0,
    "customer_id": 789,
    "product": "Wireless Headphones",
    "quantity": 1,
    "price": 199.99,
    "status": "pending",
    "created_at": "2024-10-28T21:37:01.127470Z",
    "updated_at": "2024-10-28T21:37:01.127470Z",
}
EXPECTED: dict[str, list[dict[str, Any]]] = {
    "maxwell": [
        {"id": 9, "m": 1.5, "c": "2016-10-21 05:33:37.523000", "comment": "before"},
        {
            "id": 2,
            "m": 5.444,
            "c": "2016-10-21 05:33:54.631000",
            "comment": "I am a creature of light.",
        },
    ],
    "supabase": [{"id": 7, "status": "paid", "note": "ok"}],
    "sequin": [
        {**HEADPHONES, "id": 6},
        {**HEADPHONES, "id": 8},
        {"id": 9, "customer_id": 789, "status": "shipped"},
    ],
    "hasura": [{"id": "43", "name": "jane doe"}, {"id": "45", "name": "by hand"}],
    "cloudevents": [
        {"id": 1, "status": "paid"},
        {"id": 3, "status": "open"},
        {"id": 4, "status": "open"},
    ],
    "kafka_connect": [
        {"id": 1, "status": "paid", "at": "2026-01-02T03:04:05.679", "total": "-12.50"},
        {"id": 2, "status": "open", "at": None, "total": None},
    ],
    "debezium_mysql": [{"id": 1005, "first_name": "Bo", "email": "bo@example.com"}],
}
ALL = (*FROM_POSTGRES, "kafka_connect_unwrapped", *EXPECTED)
FORMAT_OF = {name: name.replace("kafka_", "kafka-").split("_")[0] for name in ALL}


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    shop = Shop()
    await shop.start()
    yield shop
    await shop.log.close()


@pytest.mark.parametrize("name", EXPECTED)
async def test_the_rows_are_what_the_messages_add_up_to(name: str, shop: Shop) -> None:
    await shop.post(*messages(name))
    assert await shop.rows() == EXPECTED[name]


@pytest.mark.parametrize("name", FROM_POSTGRES)
async def test_a_run_of_a_real_database_leaves_what_it_left_there(name: str, shop: Shop) -> None:
    await shop.post(*messages(name))
    snapshot = [] if name.startswith("wal2json") else [1, 2]
    assert [row["id"] for row in await shop.rows()] == snapshot
    # Version 1 of wal2json does not tell of a truncate.
    lines = await shop.rows(LINES)
    assert len(lines) == (5 if name.startswith("wal2json_1") else 0)
    assert await shop.rows(FULL) == []
    assert [change.kind for change in await shop.changes(EVENTS)] == ["insert", "update", "delete"]


# A transaction of several changes of one row, where nothing numbers them.
@pytest.mark.parametrize("name", [name for name in ALL if name != "wal2json_1"])
async def test_every_message_posted_twice_is_a_duplicate(name: str, shop: Shop) -> None:
    for body in messages(name):
        (first,) = await shop.post(body)
        if b"events" in body and name == "wal2json_2":
            continue  # append-only, and nothing numbers it
        (second,) = await shop.post(body)
        assert (second.accepted, second.duplicates) == (0, first.accepted + first.duplicates)


@pytest.mark.parametrize("name", ALL)
async def test_a_whole_run_posted_again_changes_nothing_where_it_is_numbered(
    name: str, shop: Shop
) -> None:
    if name in ("supabase", "wal2json_1", "wal2json_2", "kafka_connect"):
        pytest.skip("nothing numbers these messages")
    await shop.post(*messages(name))
    before = [await shop.rows(table) for table in (ORDERS, LINES, FULL)]
    await shop.post(*messages(name))
    assert [await shop.rows(table) for table in (ORDERS, LINES, FULL)] == before


@pytest.mark.parametrize("name", ALL)
async def test_a_body_may_hold_one_an_array_or_lines_of_them(name: str, shop: Shop) -> None:
    every = messages(name)
    one_by_one = [change for body in every for change in decode(body)]
    array = b"[" + b",".join(every) + b"]"
    assert decode(array) == one_by_one
    assert decode(b"\n".join(every) + b"\n", Form.LINES) == one_by_one
    assert decode(array, format=FORMAT_OF[name]) == one_by_one
    spaced = b"\xef\xbb\xbf \n" + json.dumps(json.loads(array), indent=1).encode()
    assert [change.key for change in decode(spaced)] == [change.key for change in one_by_one]


@pytest.mark.parametrize("name", ALL)
def test_every_message_is_recognised(name: str) -> None:
    for body in messages(name):
        reader = reader_of(body)
        assert reader is not None
        if name != "kafka_connect_unwrapped":
            assert reader.name in (FORMAT_OF[name], "debezium")


def test_a_hook_may_be_told_of_every_format() -> None:
    assert {*FORMATS, "kalam"} == set(CONFIGURED)


async def test_values_that_were_not_logged_keep_what_is_stored(shop: Shop) -> None:
    """TOAST: Debezium's placeholders in their types, columns that wal2json leaves out."""
    for name in ("debezium", "debezium_with_schema", "wal2json_2_with_lsn"):
        await shop.post(*messages(name))
        tenth = [c.row.values for c in await shop.changes() if c.row and c.row.values["id"] == 10]
        inserted, paid, longer = tenth[-3:]
        assert inserted["big"] == "x" * 40
        assert paid["status"] == "paid"
        assert paid["big"] == inserted["big"]
        assert paid["nums"] == inserted["nums"]
        assert longer["big"] == "y" * 40
        assert longer["total"] is None
        assert longer["nums"] == inserted["nums"]


async def test_a_schema_says_what_the_values_mean(shop: Shop) -> None:
    await shop.post(*messages("debezium_with_schema"))
    snapshot, *_ = await shop.rows()
    assert snapshot == {
        "id": 1,
        "status": "open",
        "total": "12.50",
        "any_num": "123.456789",
        "note": None,
        "big": None,
        "at": "2026-01-02T03:04:05.678901",
        "atz": "2026-01-02T01:04:05.678901Z",
        "day": "2026-01-02",
        "tm": "13:14:15.123456",
        "data": {"a": [1, {"b": None}]},
        "tags": ["x", "y"],
        "nums": [1, 2],
        "raw": "AQI=",
        "u": "5f0f1cde-0000-4000-8000-000000000001",
        "ok": True,
        "d": 1.5,
        "iv": None,
    }
    (inserted,) = [c.row.values for c in await shop.changes() if c.kind == "insert" and c.seq == 3]
    assert inserted["any_num"] == "98765432109876543210.123"


async def test_wal2json_keeps_every_digit_and_reads_json(shop: Shop) -> None:
    await shop.post(*messages("wal2json_2"))
    inserted = next(c.row.values for c in await shop.changes() if c.row)
    assert inserted["total"] == -12.5
    assert inserted["any_num"] == "98765432109876543210.123"
    assert inserted["data"] == {"a": [1, {"b": None}]}


async def test_a_changed_key_is_a_delete_and_an_insert(shop: Shop) -> None:
    """Also where the sender tells it as one update; without an old row's column being lost."""
    for name in ("debezium_with_schema", "wal2json_1", "wal2json_2_with_lsn"):
        await shop.post(*messages(name))
        changes = await shop.changes(FULL)
        assert [c.kind for c in changes[-4:]] == ["update", "delete", "insert", "delete"]
        assert changes[-2].row is not None
        assert changes[-2].row.values == {"id": 2, "v": "b", "big": "z" * 40}


async def test_the_rows_of_a_snapshot_share_an_id_and_are_told_apart(shop: Shop) -> None:
    first, second = messages("cloudevents_debezium")[:2]
    assert json.loads(first)["id"] == json.loads(second)["id"]
    assert [one.accepted for one in await shop.post(first, second)] == [1, 1]


async def test_what_has_no_id_may_come_back_to_what_it_was(shop: Shop) -> None:
    def update(old: str, new: str) -> bytes:
        return json.dumps(
            {
                "type": "UPDATE",
                "schema": "shop",
                "table": "orders",
                "record": {"id": 1, "v": new},
                "old_record": {"id": 1, "v": old},
            }
        ).encode()

    there, back = update("a", "b"), update("b", "a")
    parsed = await shop.post(there, there, back, there)
    assert [(one.accepted, one.duplicates) for one in parsed] == [(1, 0), (0, 1), (1, 0), (1, 0)]
    assert await shop.rows() == [{"id": 1, "v": "b"}]
