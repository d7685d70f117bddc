"""The client against a server that drops, closes, refuses and repeats itself."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fake_server import Peer, fake_server, row

from kalam_notify.client import Backoff, Client, ConnectionLost, Subscription
from kalam_notify.client import subscription as subscription_module
from kalam_notify.errors import AuthenticationFailed, SubscriptionRefused
from kalam_notify.protocol.close import RECONNECT, Reconnect

SQL = "SELECT * FROM app.orders"


def at_once() -> Backoff:
    return Backoff(base=0, pause=0)


async def until(subscription: Subscription, holds: Callable[[], bool]) -> None:
    while not holds():
        await anext(subscription)


async def snapshot(peer: Peer) -> None:
    """A first connection: a snapshot of one row, live from 10."""
    assert (await peer.subscribe())["options"] == {"on_gap": "snapshot"}
    await peer.ack(10)
    await peer.batch([row(1, 4)], 10)


async def test_a_snapshot_is_pulled_page_by_page_and_followed_by_changes() -> None:
    async def script(peer: Peer) -> None:
        assert await peer.subscribe() == {
            "id": "q",
            "sql": SQL,
            "options": {"on_gap": "snapshot", "batch_size": 1},
        }
        await peer.ack(3, has_more=True)
        await peer.batch([row(1, 3)], 3, has_more=True)
        asked = await peer.receive("next_batch")
        assert asked == {"type": "next_batch", "subscription_id": "q", "last_seq_id": 3}
        await peer.batch([row(2, 4)], 9)
        await peer.change("insert", [row(3, 10), row(4, 11)])
        await peer.change("delete", old=[row(1, 12)], transition="leave")
        await peer.until_closed()

    async with fake_server(script) as server, Client(server.url) as client:
        orders = await client.subscribe(SQL, id="q", options={"batch_size": 1})
        await orders.until_ready()
        assert len(orders.view) == 2
        await until(orders, lambda: 1 not in orders.view)
        assert [r["id"] for r in orders.view] == [2, 3, 4]
        assert orders.position == 12


async def test_after_a_lost_connection_it_resumes_where_it_stood() -> None:
    async def first(peer: Peer) -> None:
        await snapshot(peer)
        await peer.change("update", [row(1, 11, a="x")], [row(1, 4)])
        peer.socket.transport.abort()

    async def second(peer: Peer) -> None:
        assert (await peer.subscribe())["options"] == {"on_gap": "snapshot", "from": 11}
        await peer.ack(11, resumed=True)
        await peer.batch([], 11)
        await peer.change("update", [row(1, 11, a="seen before")], [row(1, 4)])
        await peer.change("insert", [row(2, 12)])
        await peer.until_closed()

    async with (
        fake_server(first, second) as server,
        Client(server.url, backoff=at_once()) as client,
    ):
        orders = await client.subscribe(SQL, id="q")
        await until(orders, lambda: 2 in orders.view)
        assert orders.view[1]["a"] == "x"


async def test_when_the_log_no_longer_reaches_back_the_state_is_replaced() -> None:
    async def first(peer: Peer) -> None:
        await snapshot(peer)
        await peer.close(1001)

    async def second(peer: Peer) -> None:
        assert (await peer.subscribe())["options"] == {"on_gap": "snapshot", "from": 10}
        await peer.ack(5, resumed=False)
        await peer.batch([row(9, 5)], 5)  # another log: its seqs are lower
        await peer.close(1012)

    async def third(peer: Peer) -> None:
        assert (await peer.subscribe())["options"] == {"on_gap": "snapshot", "from": 5}
        await peer.ack(5, resumed=True)
        await peer.batch([], 5)
        await peer.change("insert", [row(10, 6)])
        await peer.until_closed()

    async with (
        fake_server(first, second, third) as server,
        Client(server.url, backoff=at_once()) as client,
    ):
        orders = await client.subscribe(SQL, id="q")
        await until(orders, lambda: 10 in orders.view)
        assert [r["id"] for r in orders.view] == [9, 10]


async def test_a_snapshot_lost_before_its_first_page_is_asked_for_again() -> None:
    async def first(peer: Peer) -> None:
        await peer.subscribe()
        await peer.ack(10)
        peer.socket.transport.abort()

    async with (
        fake_server(first, snapshot_and_wait) as server,
        Client(server.url, backoff=at_once()) as client,
    ):
        orders = await client.subscribe(SQL, id="q")
        await orders.until_ready()
        assert len(orders.view) == 1


async def snapshot_and_wait(peer: Peer) -> None:
    await snapshot(peer)
    await peer.until_closed()


def close_with(code: int) -> Callable[[Peer], Awaitable[None]]:
    async def script(peer: Peer) -> None:
        await peer.subscribe()
        await peer.close(code, "said so")

    return script


@pytest.mark.parametrize(
    "code",
    [
        code
        for code, then in RECONNECT.items()
        if then not in (Reconnect.NO, Reconnect.WITH_NEW_TOKEN)
    ],
)
async def test_codes_that_say_so_are_followed_by_a_reconnect(code: int) -> None:
    async with (
        fake_server(close_with(code), snapshot_and_wait) as server,
        Client(server.url, backoff=at_once()) as client,
    ):
        orders = await client.subscribe(SQL, id="q")
        assert len(await orders.until_ready()) == 1


@pytest.mark.parametrize("code", [code for code, then in RECONNECT.items() if then is Reconnect.NO])
async def test_codes_that_forbid_it_end_the_client(code: int) -> None:
    async with (
        fake_server(close_with(code)) as server,
        Client(server.url, backoff=at_once()) as client,
    ):
        orders = await client.subscribe(SQL, id="q")
        with pytest.raises(ConnectionLost) as caught:
            await anext(orders)
        assert (caught.value.code, caught.value.reason) == (code, "said so")
        with pytest.raises(ConnectionLost):
            await client.subscribe(SQL)


async def test_a_pause_is_kept_where_the_code_asks_for_one() -> None:
    waits: list[float] = []
    backoff = Backoff(base=0, pause=0.001)
    async with (
        fake_server(close_with(1001), close_with(1013), snapshot_and_wait) as server,
        Client(
            server.url, backoff=backoff, on_trouble=lambda why, delay: waits.append(delay)
        ) as client,
    ):
        await (await client.subscribe(SQL, id="q")).until_ready()
    assert waits == [0, 0.001]


class TestAuthentication:
    async def test_a_token_goes_with_the_handshake(self) -> None:
        async def script(peer: Peer) -> None:
            assert peer.authorization == "Bearer t-1"
            await peer.say("auth_success", user="u", user_id="u", role="user")
            await snapshot_and_wait(peer)

        async with fake_server(script) as server, Client(server.url, token="t-1") as client:
            await (await client.subscribe(SQL, id="q")).until_ready()

    async def test_or_as_a_message_ahead_of_all_subscriptions(self) -> None:
        async def script(peer: Peer) -> None:
            assert peer.authorization is None
            asked = await peer.receive("authenticate")
            assert asked == {"type": "authenticate", "method": "jwt", "token": "t-1"}
            await snapshot_and_wait(peer)

        async with (
            fake_server(script) as server,
            Client(server.url, token="t-1", authenticate="message") as client,
        ):
            await (await client.subscribe(SQL, id="q")).until_ready()

    async def test_a_token_that_does_not_hold_ends_the_client_with_the_servers_words(self) -> None:
        async def script(peer: Peer) -> None:
            await peer.say("auth_error", message="the token has expired")
            await peer.close(1008)

        async with fake_server(script) as server, Client(server.url, token="old") as client:
            orders = await client.subscribe(SQL, id="q")
            with pytest.raises(AuthenticationFailed, match="the token has expired"):
                await anext(orders)

    async def test_a_function_is_asked_for_a_new_one(self) -> None:
        tokens = iter(["old", "new", "new"])

        async def first(peer: Peer) -> None:
            await peer.close(1008)

        async def second(peer: Peer) -> None:
            assert peer.authorization == "Bearer new"
            await snapshot_and_wait(peer)

        async with (
            fake_server(first, second) as server,
            Client(server.url, token=lambda: next(tokens), backoff=at_once()) as client,
        ):
            await (await client.subscribe(SQL, id="q")).until_ready()

    async def test_a_function_is_asked_for_a_new_one_after_a_401(self) -> None:
        tokens = iter(["old", "new", "new"])

        async def script(peer: Peer) -> None:
            assert peer.authorization == "Bearer new"
            await snapshot_and_wait(peer)

        async with (
            fake_server(script, refusals=(401,)) as server,
            Client(server.url, token=lambda: next(tokens), backoff=at_once()) as client,
        ):
            await (await client.subscribe(SQL, id="q")).until_ready()

    async def test_a_401_ends_a_client_that_has_no_other_token(self) -> None:
        for token in ("old", lambda: "old"):
            async with (
                fake_server(snapshot_and_wait, refusals=(401,)) as server,
                Client(server.url, token=token, backoff=at_once()) as client,
            ):
                orders = await client.subscribe(SQL, id="q")
                with pytest.raises(AuthenticationFailed, match="401"):
                    await anext(orders)

    async def test_a_function_that_cannot_reach_its_source_is_asked_again(self) -> None:
        tokens: list[str | OSError] = [OSError("unreachable"), "new"]

        def ask() -> str:
            token = tokens.pop(0)
            if isinstance(token, OSError):
                raise token
            return token

        async with (
            fake_server(snapshot_and_wait) as server,
            Client(server.url, token=ask, backoff=at_once()) as client,
        ):
            await (await client.subscribe(SQL, id="q")).until_ready()

    async def test_a_function_without_a_new_one_is_not_asked_for_ever(self) -> None:
        async def first(peer: Peer) -> None:
            await peer.close(1008, "expired")

        async def same() -> str:
            return "old"

        async with (
            fake_server(first) as server,
            Client(server.url, token=same, backoff=at_once()) as client,
        ):
            orders = await client.subscribe(SQL, id="q")
            with pytest.raises(ConnectionLost, match="1008 expired"):
                await anext(orders)


async def test_a_server_that_is_busy_is_asked_again() -> None:
    async with (
        fake_server(snapshot_and_wait, refusals=(503, 429, 500)) as server,
        Client(server.url, backoff=at_once()) as client,
    ):
        await (await client.subscribe(SQL, id="q")).until_ready()
        assert server.connections == 1


@pytest.mark.parametrize(
    ("status", "fault"), [(403, ConnectionLost), (404, ConnectionLost), (401, AuthenticationFailed)]
)
async def test_a_server_that_refuses_for_good_is_not(status: int, fault: type[Exception]) -> None:
    async with fake_server(refusals=(status,)) as server, Client(server.url) as client:
        orders = await client.subscribe(SQL, id="q")
        with pytest.raises(fault):
            await anext(orders)


@pytest.mark.parametrize(
    ("told", "least"), [("7", 7.0), ("99999", 300.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.0)]
)
async def test_a_server_that_names_a_time_is_left_alone_that_long(told: str, least: float) -> None:
    delays: asyncio.Queue[float] = asyncio.Queue()
    async with fake_server(refusals=(503,)) as server:
        server.retry_after = told
        async with Client(
            server.url, backoff=at_once(), on_trouble=lambda _, delay: delays.put_nowait(delay)
        ):
            assert await delays.get() == least


async def test_a_server_that_is_not_there_yet_is_waited_for() -> None:
    troubles: asyncio.Queue[str] = asyncio.Queue()
    async with fake_server(snapshot_and_wait) as server:
        backoff = at_once()
        elsewhere = Client(
            "http://127.0.0.1:1",
            backoff=backoff,
            on_trouble=lambda why, delay: troubles.put_nowait(why),
        )
        async with elsewhere as client:
            assert "cannot connect" in await troubles.get()
            elsewhere._url = server.url.replace("http", "ws") + "/v1/ws"
            await (await client.subscribe(SQL, id="q")).until_ready()


async def test_a_refused_subscription_raises_and_the_others_go_on() -> None:
    async def script(peer: Peer) -> None:
        bad = await peer.subscribe()
        good = await peer.subscribe()
        await peer.say("error", subscription_id=bad["id"], code="INVALID_SQL", message="JOIN met")
        await peer.ack(1, id=good["id"])
        await peer.batch([row(1, 1)], 1, id=good["id"])
        await peer.until_closed()

    async with fake_server(script) as server, Client(server.url) as client:
        bad = await client.subscribe("SELECT 1", id="bad")
        good = await client.subscribe(SQL)
        with pytest.raises(SubscriptionRefused, match="JOIN met") as caught:
            await anext(bad)
        assert caught.value.code == "INVALID_SQL"
        assert len(await good.until_ready()) == 1


async def test_a_page_asked_for_in_vain_ends_nothing() -> None:
    async def script(peer: Peer) -> None:
        await snapshot(peer)
        await peer.say("error", subscription_id="q", code="BATCH_FETCH_FAILED", message="late")
        await peer.change("insert", [row(2, 11)])
        await peer.until_closed()

    async with fake_server(script) as server, Client(server.url) as client:
        orders = await client.subscribe(SQL, id="q")
        await until(orders, lambda: 2 in orders.view)


async def test_a_subscribe_dropped_for_its_rate_is_repeated() -> None:
    async def script(peer: Peer) -> None:
        await peer.subscribe()
        await peer.say(
            "error", subscription_id="rate_limit", code="RATE_LIMIT_EXCEEDED", message="slower"
        )
        await snapshot_and_wait(peer)

    async with fake_server(script) as server, Client(server.url) as client:
        client._rate_pause = 0
        await (await client.subscribe(SQL, id="q")).until_ready()


async def test_closing_a_subscription_unsubscribes_it_and_ends_its_iteration() -> None:
    async def script(peer: Peer) -> None:
        await snapshot(peer)
        assert (await peer.receive("unsubscribe"))["subscription_id"] == "q"
        assert (await peer.subscribe())["id"] == "other"
        await peer.until_closed()

    async with fake_server(script) as server, Client(server.url) as client:
        orders = await client.subscribe(SQL, id="q")
        await orders.until_ready()
        await orders.close()
        assert [event async for event in orders] == []
        await client.subscribe(SQL, id="other")


async def test_an_id_used_again_replaces_the_old_subscription() -> None:
    async def script(peer: Peer) -> None:
        await snapshot(peer)
        assert (await peer.subscribe())["sql"] == "SELECT id FROM app.orders"
        await peer.change("insert", [row(7, 11)])  # still of the old one
        await peer.ack(12)
        await peer.batch([row(1, 4), row(7, 11)], 12)
        await peer.until_closed()

    async with fake_server(script) as server, Client(server.url) as client:
        old = await client.subscribe(SQL, id="q")
        await old.until_ready()
        new = await client.subscribe("SELECT id FROM app.orders", id="q")
        assert len(await new.until_ready()) == 2
        with pytest.raises(SubscriptionRefused, match="replaced"):
            await anext(old)


async def test_a_reader_that_lags_is_taken_up_again_from_where_it_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subscription_module, "QUEUED_BYTES", 2500)
    parked = asyncio.Event()

    async def script(peer: Peer) -> None:
        slow = await peer.subscribe()
        fast = await peer.subscribe()
        await peer.ack(10, id=slow["id"])
        for seq in range(11, 31):
            await peer.change("insert", [row(seq, seq)], id=slow["id"])
        await peer.ack(10, id=fast["id"])
        await peer.batch([row(1, 1)], 10, id=fast["id"])
        assert (await peer.receive("unsubscribe"))["subscription_id"] == slow["id"]
        parked.set()
        while message := await peer.any("subscribe", "unsubscribe"):
            if message["type"] == "subscribe":
                await replay(peer, message["subscription"])

    async def replay(peer: Peer, asked: dict[str, Any]) -> None:
        position = asked["options"]["from"]
        assert 10 < position < 30
        await peer.ack(position, resumed=True, id=asked["id"])
        await peer.batch([], position, id=asked["id"])
        for seq in range(position + 1, 31):
            await peer.change("insert", [row(seq, seq)], id=asked["id"])

    async with fake_server(script) as server, Client(server.url) as client:
        slow = await client.subscribe(SQL, id="slow", live_only=True)
        fast = await client.subscribe(SQL, id="fast")
        assert len(await fast.until_ready()) == 1
        await parked.wait()
        await until(slow, lambda: 30 in slow.view)
        assert [r["id"] for r in slow.view] == list(range(11, 31))


async def test_many_readers_share_one_connection() -> None:
    async def script(peer: Peer) -> None:
        for _ in range(20):
            asked = await peer.subscribe()
            await peer.ack(5, id=asked["id"])
            await peer.batch([row(asked["id"], 5)], 5, id=asked["id"])
        await peer.until_closed()

    async with fake_server(script) as server, Client(server.url) as client:
        queries = [await client.subscribe(SQL) for _ in range(20)]
        views = await asyncio.gather(*(query.until_ready() for query in queries))
        assert [next(iter(view))["id"] for view in views] == [query.id for query in queries]
        assert server.connections == 1


async def test_every_message_can_be_seen() -> None:
    seen: list[Any] = []
    async with (
        fake_server(snapshot_and_wait) as server,
        Client(server.url, on_message=lambda message: seen.append(message["type"])) as client,
    ):
        await (await client.subscribe(SQL, id="q")).until_ready()
    assert seen == ["subscription_ack", "initial_data_batch"]
