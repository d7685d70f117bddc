"""What a subscriber is told of every kind of change, in which order, over real sockets."""

import asyncio
import json
from itertools import count
from typing import Any

import pytest
from helpers.server import Server, delete, insert, update
from helpers.wire import Wire, wire

_tables = count(1)


@pytest.fixture(scope="module", params=[1, 3], ids=["one worker", "three workers"])
def workers(request: pytest.FixtureRequest) -> int:
    """One process, then three, of which no two requests need meet the same."""
    number: int = request.param
    return number


@pytest.fixture
def table() -> str:
    """A table that no other test uses."""
    return f"live.t{next(_tables)}"


async def test_a_posted_row_reaches_a_live_subscriber(server: Server, table: str) -> None:
    async with wire(server.ws_url, server.token()) as client:
        ack = await client.live("s", f"SELECT * FROM {table}")
        posted = server.post(insert(table, {"id": 1, "status": "new"}))
        change = await client.hear_type("change")
        assert ack["total_rows"] == 0
        assert ack["batch_control"]["status"] == "ready"
        assert ack["batch_control"]["batch_num"] == 0
        assert "resumed" not in ack
        assert change == {
            "type": "change",
            "subscription_id": "s",
            "change_type": "insert",
            "rows": [{"id": 1, "status": "new", "_seq": str(posted["first_seq"])}],
        }


async def test_the_stored_row_decides_what_an_insert_or_update_is(
    server: Server, table: str
) -> None:
    async with wire(server.ws_url, server.token()) as client:
        await client.live("s", f"SELECT * FROM {table}")
        first = server.post(update(table, {"id": 1, "a": 1}))["first_seq"]
        server.post(insert(table, {"id": 1, "a": 2, "b": 3}))
        inserted, updated = await client.hear(), await client.hear()
        assert inserted["change_type"] == "insert"
        assert updated["change_type"] == "update"
        assert updated["old_values"] == [{"id": 1, "a": 1, "_seq": str(first)}]
        assert updated["rows"][0]["b"] == 3


async def test_a_delete_carries_the_last_row_and_its_own_seq(server: Server, table: str) -> None:
    async with wire(server.ws_url, server.token()) as client:
        server.post(insert(table, {"id": 1, "a": 1, "b": "x"}))
        await client.live("s", f"SELECT a FROM {table}", {})
        posted = server.post(delete(table, {"id": 1}))
        assert await client.hear() == {
            "type": "change",
            "subscription_id": "s",
            "change_type": "delete",
            "old_values": [{"id": 1, "a": 1, "_seq": str(posted["first_seq"])}],
        }


async def test_a_delete_of_no_row_takes_a_seq_and_delivers_nothing(
    server: Server, table: str
) -> None:
    token = server.token()
    async with wire(server.ws_url, token) as client:
        await client.live("s", f"SELECT * FROM {table}")
        gone = server.post(delete(table, {"id": 9}))
        there = server.post(insert(table, {"id": 1}))
        assert gone["accepted"] == 1
        assert there["first_seq"] > gone["last_seq"]
        assert (await client.hear())["rows"][0]["_seq"] == str(there["first_seq"])
        assert await client.settled(token) == []


async def test_rows_enter_and_leave_a_filter(server: Server, table: str) -> None:
    async with wire(server.ws_url, server.token()) as client:
        await client.live("s", f"SELECT * FROM {table} WHERE a > 10")
        server.post(insert(table, {"id": 1, "a": 5}))
        server.post(update(table, {"id": 1, "a": 15}))
        server.post(update(table, {"id": 1, "a": 16}))
        server.post(update(table, {"id": 1, "a": 3}))
        enter, inside, leave = [await client.hear() for _ in range(3)]
        assert (enter["change_type"], enter["transition"]) == ("insert", "enter")
        assert inside["change_type"] == "update"
        assert "transition" not in inside
        assert (leave["change_type"], leave["transition"]) == ("delete", "leave")
        assert leave["old_values"][0]["a"] == 16
        assert "rows" not in leave


async def test_a_batch_comes_as_one_message_per_run_of_the_same_kind(
    server: Server, table: str
) -> None:
    async with wire(server.ws_url, server.token()) as client:
        await client.live("s", f"SELECT * FROM {table}")
        server.post(
            insert(table, {"id": 1}),
            insert(table, {"id": 2}),
            update(table, {"id": 1, "a": 1}),
            insert(table, {"id": 3}),
        )
        heard = [await client.hear() for _ in range(3)]
        assert [m["change_type"] for m in heard] == ["insert", "update", "insert"]
        assert [row["id"] for m in heard for row in m["rows"]] == [1, 2, 1, 3]


async def test_a_projection_has_the_key_and_the_named_columns(server: Server, table: str) -> None:
    async with wire(server.ws_url, server.token()) as client:
        await client.live("s", f"SELECT b, missing FROM {table}")
        server.post(insert(table, {"id": 7, "a": 1, "b": 2}))
        (row,) = (await client.hear())["rows"]
        del row["_seq"]
        assert row == {"id": 7, "b": 2, "missing": None}


async def test_an_update_outside_the_projection_is_still_told(server: Server, table: str) -> None:
    async with wire(server.ws_url, server.token()) as client:
        server.post(insert(table, {"id": 1, "a": 1, "b": 1}))
        await client.live("s", f"SELECT a FROM {table}", {})
        server.post(update(table, {"id": 1, "a": 1, "b": 2}))
        change = await client.hear()
        assert change["rows"][0]["a"] == 1
        assert set(change["old_values"][0]) == {"id", "_seq"}


async def test_a_snapshot_comes_in_pages_then_changes(server: Server, table: str) -> None:
    for number in range(25):
        server.post(insert(table, {"id": number}))
    async with wire(server.ws_url, server.token()) as client:
        await client.subscribe("s", f"SELECT * FROM {table}", {"batch_size": 10})
        ack = await client.hear_type("subscription_ack")
        ids, seqs, controls = [], [], []
        while not controls or controls[-1]["has_more"]:
            batch = await client.hear_type("initial_data_batch")
            controls.append(batch["batch_control"])
            ids += [row["id"] for row in batch["rows"]]
            seqs += [int(row["_seq"]) for row in batch["rows"]]
            if controls[-1]["has_more"]:
                assert controls[-1]["last_seq_id"] == seqs[-1]
                last = controls[-1]["last_seq_id"]
                await client.say(type="next_batch", subscription_id="s", last_seq_id=last)
        posted = server.post(insert(table, {"id": 99}))
        change = await client.hear_type("change")
        assert ack["batch_control"] == controls[0]
        assert ids == list(range(25))
        assert seqs == sorted(seqs)
        assert [c["status"] for c in controls] == ["loading", "loading_batch", "ready"]
        assert [c["batch_num"] for c in controls] == [0, 1, 2]
        assert controls[-1]["last_seq_id"] >= seqs[-1]
        assert change["rows"][0]["_seq"] == str(posted["first_seq"])


async def test_a_client_that_never_pulls_is_advanced(server: Server, table: str) -> None:
    server.post(*[insert(table, {"id": number}) for number in range(7)])
    async with wire(server.ws_url, server.token()) as client:
        await client.subscribe("s", f"SELECT * FROM {table}", {"batch_size": 3})
        await client.hear_type("subscription_ack")
        batches = [await client.hear_type("initial_data_batch") for _ in range(3)]
        assert [len(batch["rows"]) for batch in batches] == [3, 3, 1]


async def test_a_snapshot_is_as_of_its_seq_whatever_is_written_between_pages(
    server: Server, table: str
) -> None:
    server.post(*[insert(table, {"id": number, "v": 0}) for number in range(6)])
    async with wire(server.ws_url, server.token()) as client:
        await client.subscribe("s", f"SELECT * FROM {table}", {"batch_size": 2})
        await client.hear_type("subscription_ack")
        rows = (await client.hear())["rows"]
        server.post(update(table, {"id": 5, "v": 1}), delete(table, {"id": 4}))
        server.post(insert(table, {"id": 6, "v": 1}), update(table, {"id": 0, "v": 1}))
        for _ in range(2):
            await client.say(type="next_batch", subscription_id="s")
            rows += (await client.hear_type("initial_data_batch"))["rows"]
        view = {row["id"]: row["v"] for row in rows}
        assert view == dict.fromkeys(range(6), 0)
        changes = [await client.hear_type("change") for _ in range(4)]
        kinds = [change["change_type"] for change in changes]
        assert kinds == ["update", "delete", "insert", "update"]


async def test_last_rows_gives_the_newest_matching_rows_in_order(
    server: Server, table: str
) -> None:
    server.post(*[insert(table, {"id": number, "even": number % 2 == 0}) for number in range(10)])
    async with wire(server.ws_url, server.token()) as client:
        await client.subscribe("s", f"SELECT id FROM {table} WHERE even", {"last_rows": 3})
        await client.hear_type("subscription_ack")
        batch = await client.hear_type("initial_data_batch")
        assert [row["id"] for row in batch["rows"]] == [4, 6, 8]
        assert batch["batch_control"]["status"] == "ready"


async def test_last_rows_zero_is_an_empty_ready_batch(server: Server, table: str) -> None:
    server.post(insert(table, {"id": 1}))
    async with wire(server.ws_url, server.token()) as client:
        await client.subscribe("s", f"SELECT * FROM {table}", {"last_rows": 0})
        await client.hear_type("subscription_ack")
        batch = await client.hear_type("initial_data_batch")
        assert batch["rows"] == []
        assert batch["batch_control"]["status"] == "ready"


async def test_a_resume_brings_every_change_missed_deletes_included(
    server: Server, table: str
) -> None:
    first = server.post(insert(table, {"id": 1}), insert(table, {"id": 2}))
    server.post(delete(table, {"id": 1}))
    server.post(update(table, {"id": 2, "a": 1}))
    async with wire(server.ws_url, server.token()) as client:
        await client.subscribe("s", f"SELECT * FROM {table}", {"from": str(first["last_seq"])})
        ack = await client.hear_type("subscription_ack")
        batch = await client.hear_type("initial_data_batch")
        gone, changed = await client.hear_type("change"), await client.hear_type("change")
        server.post(insert(table, {"id": 3}))
        assert ack["resumed"] is True
        assert ack["batch_control"]["last_seq_id"] == first["last_seq"]
        assert batch["rows"] == []
        assert batch["batch_control"] == ack["batch_control"]
        assert gone["change_type"] == "delete"
        assert changed["change_type"] == "update"
        assert (await client.hear_type("change"))["rows"][0]["id"] == 3


async def test_a_resume_from_beyond_the_log_gets_a_snapshot_if_it_says_so(
    server: Server, table: str
) -> None:
    server.post(insert(table, {"id": 1}))
    async with wire(server.ws_url, server.token()) as client:
        beyond = {"from_seq_id": 2**52, "on_gap": "snapshot"}
        ack = await client.live("s", f"SELECT * FROM {table}", beyond)
        assert ack["resumed"] is False


@pytest.mark.parametrize("on_gap", [{}, {"on_gap": "error"}, {"on_gap": None}])
async def test_a_resume_from_beyond_the_log_is_refused_otherwise(
    server: Server, table: str, on_gap: dict[str, Any]
) -> None:
    server.post(insert(table, {"id": 1}))
    async with wire(server.ws_url, server.token()) as client:
        await client.subscribe("s", f"SELECT * FROM {table}", {"from": 2**52, **on_gap})
        error = await client.hear_type("error")
        assert (error["subscription_id"], error["code"]) == ("s", "RESUME_EXPIRED")
        await client.say(type="next_batch", subscription_id="s")
        assert (await client.hear_type("error"))["code"] == "BATCH_FETCH_FAILED"
        await client.live("s", f"SELECT * FROM {table}", {})
        server.post(insert(table, {"id": 2}))
        assert (await client.hear_type("change"))["rows"][0]["id"] == 2


@pytest.mark.parametrize("on_gap", ["", "Snapshot", True, 1, [], {}])
async def test_another_on_gap_is_unsupported(server: Server, table: str, on_gap: Any) -> None:
    async with wire(server.ws_url, server.token()) as client:
        await client.subscribe("s", f"SELECT * FROM {table}", {"on_gap": on_gap})
        assert (await client.hear_type("error"))["code"] == "UNSUPPORTED"


async def test_from_zero_tells_the_whole_history(server: Server, table: str) -> None:
    server.post(insert(table, {"id": 1}), delete(table, {"id": 1}), insert(table, {"id": 2}))
    async with wire(server.ws_url, server.token()) as client:
        ack = await client.live("s", f"SELECT * FROM {table}", {"from": 0, "last_rows": 1})
        kinds = [(await client.hear())["change_type"] for _ in range(3)]
        assert ack["resumed"] is True
        assert kinds == ["insert", "delete", "insert"]


async def test_a_table_without_a_key_has_a_history_but_no_snapshot(server: Server) -> None:
    first = server.post(insert("app.events", {"n": 1}), insert("app.events", {"n": 2}))
    async with wire(server.ws_url, server.token()) as client:
        await client.subscribe("all", "SELECT * FROM app.events", {})
        await client.hear_type("subscription_ack")
        assert (await client.hear())["rows"] == []
        await client.subscribe("last", "SELECT n FROM app.events", {"last_rows": 1})
        await client.hear_type("subscription_ack")
        rows = (await client.hear())["rows"]
        assert rows == [{"n": 2, "_seq": str(first["last_seq"])}]
        server.post(
            {"table": "app.events", "change_type": "update", "row_data": {"n": 3}},
            {"table": "app.events", "change_type": "delete", "old_data": {"n": 3}},
        )
        heard = [await client.hear() for _ in range(4)]
        updates = [m for m in heard if m["change_type"] == "update"]
        deletes = [m for m in heard if m["change_type"] == "delete"]
        assert [m["old_values"] for m in updates] == [[{}], [{}]]
        assert all(m["old_values"][0]["n"] == 3 for m in deletes)


async def test_a_reused_id_replaces_the_old_subscription_at_one_stroke(
    server: Server, table: str
) -> None:
    token = server.token()
    async with wire(server.ws_url, token) as client:
        await client.live("s", f"SELECT * FROM {table} WHERE kind = 'a'")
        await client.live("s", f"SELECT * FROM {table} WHERE kind = 'b'")
        server.post(insert(table, {"id": 1, "kind": "a"}), insert(table, {"id": 2, "kind": "b"}))
        assert [row["id"] for row in (await client.hear())["rows"]] == [2]
        assert await client.settled(token) == []


async def test_after_unsubscribe_nothing_more_is_delivered(server: Server, table: str) -> None:
    token = server.token()
    async with wire(server.ws_url, token) as client:
        await client.live("s", f"SELECT * FROM {table}")
        await client.say(type="unsubscribe", subscription_id="s")
        await client.settled(token)
        server.post(insert(table, {"id": 1}))
        assert await client.settled(token) == []


async def test_users_see_their_own_rows_only(server: Server) -> None:
    alice, bob = server.token("alice"), server.token("bob")
    async with wire(server.ws_url, alice) as hers, wire(server.ws_url, bob) as his:
        server.post(insert("app.notes", {"id": 1, "text": "hers"}, user_id="alice"))
        server.post(insert("app.notes", {"id": 1, "text": "his"}, user_id="bob"))
        for client, text in ((hers, "hers"), (his, "his")):
            await client.subscribe("n", "SELECT * FROM app.notes", {})
            await client.hear_type("subscription_ack")
            assert [r["text"] for r in (await client.hear())["rows"]] == [text]
        server.post(insert("app.notes", {"id": 2, "text": "more"}, user_id="bob"))
        assert (await his.hear())["rows"][0]["text"] == "more"
        assert await hers.settled(alice) == []


async def test_values_come_out_as_they_went_in(server: Server, table: str) -> None:
    row = (
        '{"id":"k","big":18446744073709551615,"low":-9223372036854775808,"f":1.0,"e":1e300,'
        '"neg":-0.0,"u":"\\u00e9\\u2028\\ud83d\\ude00","n":null,"b":false,"o":{"x":[1,{"y":[]}]}}'
    )
    async with wire(server.ws_url, server.token()) as client:
        await client.live("s", f"SELECT * FROM {table}")
        body = f'{{"table":"{table}","change_type":"insert","row_data":{row}}}'.encode()
        assert server.post_raw(body).status == 200
        (heard,) = (await client.hear())["rows"]
        seq = heard.pop("_seq")
        assert seq.isdigit()
        assert json.dumps(heard) == json.dumps(json.loads(row))


async def test_several_subscriptions_of_a_connection_each_get_their_own(
    server: Server, table: str
) -> None:
    async with wire(server.ws_url, server.token()) as client:
        for name in ("a", "b", "c"):
            await client.live(name, f"SELECT * FROM {table} WHERE {name} = 1")
        server.post(*[insert(table, {"id": n, "a": n % 2, "b": n % 3, "c": 1}) for n in range(6)])
        seen: dict[str, list[int]] = {"a": [], "b": [], "c": []}
        while sum(map(len, seen.values())) < 3 + 2 + 6:
            message = await client.hear_type("change")
            seen[message["subscription_id"]] += [row["id"] for row in message["rows"]]
        assert seen == {"a": [1, 3, 5], "b": [1, 4], "c": [0, 1, 2, 3, 4, 5]}


async def test_a_message_never_exceeds_half_a_mebibyte(server: Server, table: str) -> None:
    async with wire(server.ws_url, server.token()) as client:
        await client.live("s", f"SELECT * FROM {table}")
        rows = [insert(table, {"id": n, "pad": "x" * 100_000}) for n in range(12)]
        await asyncio.to_thread(server.post, *rows)
        ids: list[int] = []
        while len(ids) < 12:
            message = await client.socket.recv()
            assert len(message) <= 512 * 1024
            ids += [row["id"] for row in json.loads(message)["rows"]]
        assert ids == list(range(12))


async def test_a_client_that_negotiated_compression_gets_the_same_view(
    server: Server, table: str
) -> None:
    token = server.token()
    rows = [insert(table, {"id": n, "text": f"row {n} " * 30}) for n in range(200)]
    async with (
        wire(server.ws_url, token, compression="deflate") as packed,
        wire(server.ws_url, token) as plain,
    ):
        assert packed.socket.protocol.extensions
        server.post(*rows[:100])
        for client in (packed, plain):
            await client.subscribe("s", f"SELECT * FROM {table}", {})
            await client.hear_type("subscription_ack")
        assert await packed.hear() == await plain.hear()
        server.post(*rows[100:])
        heard: dict[Wire, list[object]] = {packed: [], plain: []}
        for client, seen in heard.items():
            while len(seen) < 100:
                seen += (await client.hear_type("change"))["rows"]
        assert heard[packed] == heard[plain]
