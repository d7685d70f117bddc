"""Slow sockets: bounded buffers, nothing lost, nobody else delayed, and when it ends."""

import asyncio
import contextlib
import json
from collections.abc import Callable

import pytest
from helpers.server import Server, delete, insert, update
from helpers.views import View
from helpers.wire import Wire, wire

StartServer = Callable[..., Server]
PAD = "x" * 20_000
SLOW = {"max_queue": 1}
"""A client that takes a frame or two from the network and then no more until it is read from."""


@pytest.fixture(scope="module", params=[1, 3], ids=["one worker", "three workers"])
def workers(request: pytest.FixtureRequest) -> int:
    """One process, then three, of which no two requests need meet the same."""
    number: int = request.param
    return number


def _write_much(server: Server, rounds: int = 12) -> None:
    """Some forty megabytes of inserts, updates and deletes on a hundred rows."""
    for number in range(rounds):
        server.post(*[insert("app.orders", {"id": n, "r": number, "pad": PAD}) for n in range(100)])
        server.post(*[update("app.orders", {"id": n, "r": -1, "pad": PAD}) for n in range(50)])
        server.post(*[delete("app.orders", {"id": n}) for n in range(0, 100, 3)])


async def test_a_reader_that_stops_and_goes_on_loses_nothing(start_server: StartServer) -> None:
    server = start_server()
    token = server.token()
    async with (
        wire(server.ws_url, token, **SLOW) as slow,
        wire(server.ws_url, token) as fast,
    ):
        sql = "SELECT * FROM app.orders"
        for client in (slow, fast):
            await client.live("s", sql, {})
        writing = asyncio.create_task(asyncio.to_thread(_write_much, server))
        views = {}
        views["fast"] = await _read_until(fast, writing, server)
        assert server.metric("lagging_subscriptions") == 1
        assert server.metric("catch_ups_total") >= 1
        views["slow"] = await _read_until(slow, writing, server)
        await _until_metric(server, "lagging_subscriptions", 0)
        assert views["slow"].rows == views["fast"].rows
        assert set(views["fast"].rows) == {n for n in range(100) if n % 3}


@pytest.mark.parametrize("io_uring", [True, False])
async def test_in_a_crowd_some_stop_and_nobody_loses_anything(
    start_server: StartServer, io_uring: bool
) -> None:
    server = start_server(server={"io_uring": io_uring})
    token = server.token()
    async with contextlib.AsyncExitStack() as stack:
        kinds = [SLOW] * 3 + [{}] * 9
        crowd = [
            await stack.enter_async_context(wire(server.ws_url, token, **kind)) for kind in kinds
        ]
        for number, client in enumerate(crowd):
            await client.live(f"s{number % 5}", "SELECT * FROM app.orders", {})
        writing = asyncio.create_task(asyncio.to_thread(_write_much, server, 4))
        views = await asyncio.gather(*(_read_until(c, writing, server) for c in crowd[3:]))
        assert server.metric("lagging_subscriptions") == 3
        views += await asyncio.gather(*(_read_until(c, writing, server) for c in crowd[:3]))
        await _until_metric(server, "lagging_subscriptions", 0)
        server.post(insert("app.orders", {"id": "one more"}))
        for client, view in zip(crowd[3:] + crowd[:3], views, strict=True):
            view.apply(await client.hear())
        assert all(view.rows == views[0].rows for view in views)
        assert set(views[0].rows) == {"one more", *(n for n in range(100) if n % 3)}


async def _read_until(client: Wire, writing: "asyncio.Task[None]", server: Server) -> View:
    """Apply messages until the marker row that is written after everything else."""
    view = View()
    view.ready = True
    marker = asyncio.create_task(_mark_end(writing, server))
    while "end" not in view.rows:
        view.apply(await client.hear(60))
    await marker
    del view.rows["end"]
    return view


_marked: set[int] = set()


async def _mark_end(writing: "asyncio.Task[None]", server: Server) -> None:
    await asyncio.shield(writing)
    if id(server) not in _marked:
        _marked.add(id(server))
        await asyncio.to_thread(server.post, insert("app.orders", {"id": "end"}))


async def _until_metric(server: Server, name: str, value: float) -> None:
    async with asyncio.timeout(30):
        while await asyncio.to_thread(server.metric, name) != value:
            await asyncio.sleep(0)


async def test_unread_data_is_bounded_by_the_send_buffer(start_server: StartServer) -> None:
    server = start_server(websocket={"send_buffer_bytes": "64KiB"})
    async with wire(server.ws_url, server.token(), **SLOW) as slow:
        await slow.live("s", "SELECT * FROM app.orders")
        await asyncio.to_thread(_write_much, server)
        # One message is always taken whole; the buffer and that message are the bound.
        assert 0 < server.metric("send_buffer_bytes") <= 64 * 1024 + 512 * 1024


async def test_a_socket_that_takes_nothing_is_closed_1013(start_server: StartServer) -> None:
    server = start_server(websocket={"slow_reader_timeout": "1s", "idle_timeout": "60s"})
    async with wire(server.ws_url, server.token(), **SLOW) as slow:
        await slow.live("s", "SELECT * FROM app.orders")
        await asyncio.to_thread(_write_much, server, 4)
        await _until_metric(server, "connections", 0)
        assert (await slow.closed())[0] == 1013


async def test_a_reader_behind_retention_is_closed_1013_and_resumes_with_a_snapshot(
    start_server: StartServer,
) -> None:
    server = start_server(log={"retention": {"max_bytes": "1MiB"}})
    async with wire(server.ws_url, server.token(), **SLOW) as slow:
        await slow.live("s", "SELECT * FROM app.orders")
        first = server.metric("log_last_seq")
        await asyncio.to_thread(_write_much, server)
        health = json.loads(server.request("GET", "/health").body)
        async with asyncio.timeout(60):
            while health["log"]["first_seq"] - first < (health["last_seq"] - first) / 2:
                health = json.loads(server.request("GET", "/health").body)
                await asyncio.sleep(0)
        assert (await slow.closed())[0] == 1013
    async with wire(server.ws_url, server.token()) as again:
        sql = "SELECT * FROM app.orders"
        await again.subscribe("expired", sql, {"from": int(first)})
        assert (await again.hear_type("error"))["code"] == "RESUME_EXPIRED"
        ack = await again.live("s", sql, {"from": int(first), "on_gap": "snapshot"})
        assert ack["resumed"] is False


async def test_a_client_that_asks_but_never_reads_answers_is_not_heard_for_ever(
    start_server: StartServer,
) -> None:
    server = start_server(websocket={"messages_per_second": 1_000_000, "message_burst": 1_000_000})
    async with (
        wire(server.ws_url, server.token(), **SLOW) as rude,
        wire(server.ws_url, server.token()) as other,
    ):

        async def ask() -> None:
            while True:
                await rude.subscribe("s" * 128, "SELECT * FROM app.orders ORDER BY " + "x" * 500)

        asking = asyncio.create_task(ask())
        await _until_buffered(server)
        await other.live("s", "SELECT * FROM app.orders")
        server.post(insert("app.orders", {"id": 1}))
        await other.hear_type("change")
        assert server.metric("send_buffer_bytes") < 4 * 1024 * 1024
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def _until_buffered(server: Server) -> None:
    async with asyncio.timeout(60):
        while await asyncio.to_thread(server.metric, "send_buffer_bytes") < 200_000:
            await asyncio.sleep(0)
