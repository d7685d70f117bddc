"""The client and a server process: views that stay exact through everything."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from helpers.server import Server, delete, insert, update

from kalam_notify.client import Backoff, Changed, Client, Subscription, View
from kalam_notify.errors import AuthenticationFailed, SubscriptionRefused

CLOSE_TO_AT_ONCE = 0.05


def client_of(server: Server, user: str = "alice", **options: Any) -> Client:
    options.setdefault("token", server.token(user))
    return Client(server.url, backoff=Backoff(base=CLOSE_TO_AT_ONCE, pause=0), **options)


async def until_seq(query: Subscription, seq: int) -> None:
    """Read on until everything up to the seq of a last, matching change has been applied."""
    while query.position is None or query.position < seq:
        await anext(query)


def plain(view: View) -> dict[Any, dict[str, Any]]:
    return {
        row["id"]: {name: value for name, value in row.items() if name != "_seq"} for row in view
    }


async def test_views_are_exact_through_kills_of_the_server(server: Server) -> None:
    dice = random.Random(7)
    truth: dict[int, dict[str, Any]] = {}

    def some_changes() -> list[dict[str, Any]]:
        changes = []
        for _ in range(20):
            row = {"id": dice.randrange(12), "n": dice.randrange(10)}
            if dice.random() < 0.3:
                truth.pop(row["id"], None)
                changes.append(delete("app.orders", {"id": row["id"]}))
            else:
                truth[row["id"]] = row
                changes.append(update("app.orders", row))
        return changes

    server.post(*some_changes())
    async with client_of(server) as client:
        whole = await client.subscribe("SELECT * FROM app.orders", options={"batch_size": 3})
        part = await client.subscribe("SELECT * FROM app.orders WHERE n >= 5")
        readers = [asyncio.create_task(follow(query)) for query in (whole, part)]
        for round in range(8):
            if round % 3 == 1:
                server.kill()
                await asyncio.to_thread(server.start)
            await asyncio.to_thread(server.post, *some_changes())
        last = insert("app.orders", {"id": 99, "n": 9})
        truth[99] = last["row_data"]
        await asyncio.to_thread(server.post, last)
        async with asyncio.timeout(60):
            await asyncio.gather(*readers)
    assert plain(whole.view) == truth
    assert plain(part.view) == {key: row for key, row in truth.items() if row["n"] >= 5}


async def follow(query: Subscription) -> None:
    while 99 not in query.view:
        await anext(query)


async def test_a_keyless_table_is_a_stream(server: Server) -> None:
    server.post(insert("app.events", {"n": 1}), insert("app.events", {"n": 2}))
    async with client_of(server) as client:
        events = await client.subscribe("SELECT * FROM app.events", options={"last_rows": 1})
        await events.until_ready()
        posted = server.post(insert("app.events", {"n": 3}))
        await until_seq(events, posted["last_seq"])
        assert [row["n"] for row in events.view] == [2, 3]


async def test_a_user_sees_own_rows_only(server: Server) -> None:
    async with client_of(server, "bob") as client:
        notes = await client.subscribe("SELECT * FROM app.notes")
        await notes.until_ready()
        server.post(insert("app.notes", {"id": 1}, user_id="alice"))
        posted = server.post(insert("app.notes", {"id": 2}, user_id="bob"))
        await until_seq(notes, posted["last_seq"])
        assert list(plain(notes.view)) == [2]


async def test_transitions_are_told(server: Server) -> None:
    async with client_of(server) as client:
        few = await client.subscribe("SELECT id FROM app.orders WHERE n > 5", live_only=True)
        await few.until_ready()
        for n in (1, 9, 2):
            server.post(update("app.orders", {"id": 1, "n": n}))
        changes: list[Changed] = []
        while len(changes) < 2:
            event = await anext(few)
            if isinstance(event, Changed):
                changes.append(event)
        assert [(c.kind, c.transition) for c in changes] == [
            ("insert", "enter"),
            ("delete", "leave"),
        ]
        assert len(few.view) == 0


@pytest.mark.parametrize("authenticate", ["header", "message"])
async def test_both_ways_to_authenticate_work(server: Server, authenticate: Any) -> None:
    async with client_of(server, authenticate=authenticate) as client:
        await (await client.subscribe("SELECT * FROM app.orders")).until_ready()
    async with client_of(server, token="nonsense", authenticate=authenticate) as client:
        orders = await client.subscribe("SELECT * FROM app.orders")
        with pytest.raises(AuthenticationFailed):
            await anext(orders)


async def test_refusals_name_their_code(server: Server) -> None:
    async with client_of(server) as client:
        for sql, code in [
            ("SELECT * FROM app.nowhere", "NOT_FOUND"),
            ("SELECT * FROM app.vault", "UNAUTHORIZED"),
            ("SELECT * FROM app.orders ORDER BY id", "INVALID_SQL"),
        ]:
            query = await client.subscribe(sql)
            with pytest.raises(SubscriptionRefused) as caught:
                await anext(query)
            assert caught.value.code == code


async def test_more_subscriptions_than_the_message_rate_allows_all_come_up(
    start_server: Callable[..., Server],
) -> None:
    server = start_server(websocket={"messages_per_second": 50, "message_burst": 10})
    async with client_of(server) as client:
        client._rate_pause = 0.4  # twenty repeats in it: the rate that is allowed
        queries = [await client.subscribe("SELECT * FROM app.orders") for _ in range(30)]
        async with asyncio.timeout(60):
            await asyncio.gather(*(query.until_ready() for query in queries))


async def test_closing_the_client_ends_every_iteration(server: Server) -> None:
    async with client_of(server) as client:
        orders = await client.subscribe("SELECT * FROM app.orders")
        await orders.until_ready()
    assert [event async for event in orders] == []
