"""connect(): live views against a server that drops, refuses, begins anew and repeats itself."""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import jwt
import msgspec
import pytest
from fake_server import FakeServer, Peer, Script, control, fake_server, row

from kalam_notify.client import (
    AuthenticationFailed,
    Backoff,
    Client,
    Closed,
    Connection,
    ConnectionLost,
    ConnectTimeout,
    Delete,
    Insert,
    Ready,
    Reset,
    RowMismatch,
    SubscriptionRefused,
    Update,
    connect,
)
from kalam_notify.client import changes as changes_module
from kalam_notify.client.html import MOST_ROWS

SQL = "SELECT * FROM app.orders"
SECONDS = 20.0


def connected(server: FakeServer, **options: Any) -> Connection:
    return connect(server.url, backoff=Backoff(base=0, pause=0), **options)


async def serve_rows(peer: Peer, *rows: dict[str, Any], **asked: Any) -> str:
    """Answer one subscribe with a snapshot; the id it came under."""
    subscription = await peer.subscribe()
    assert {**subscription, **asked} == subscription
    id: str = subscription["id"]
    await peer.ack(100, id=id)
    await peer.batch(list(rows), 100, id=id)
    return id


def script_of(*rows: dict[str, Any]) -> Script:
    async def script(peer: Peer) -> None:
        await serve_rows(peer, *rows)
        await peer.until_closed()

    return script


def ids(rows: Sequence[dict[str, Any]]) -> list[Any]:
    return [row["id"] for row in rows]


async def test_rows_stand_in_order_of_their_key_and_change_in_place() -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        id = await serve_rows(peer, row(10, 1), row(9, 2), row("9", 3), row(True, 4), params=[1])
        await go.wait()
        await peer.change("update", [row(9, 101, a="x")], [row(9, 2)], id=id)
        await peer.change("delete", old=[row(True, 102)], id=id)
        await peer.change("insert", [row(1, 103)], id=id)
        await peer.until_closed()

    async with asyncio.timeout(SECONDS), fake_server(script) as server, connected(server) as db:
        orders = await db.live(SQL, [1])
        before = orders.rows
        assert ids(before) == [True, 9, 10, "9"]
        assert (orders.status, len(orders), orders.columns) == ("live", 4, ("id", "a"))
        assert orders.rows is before
        go.set()
        await orders.until(lambda rows: rows[0]["id"] is not True and len(rows) == 4)
        assert ids(orders.rows) == [1, 9, 10, "9"]
        assert orders.rows[1]["a"] == "x"
        # Who looked before still has what was there, and a row that did not change is the same.
        assert ids(before) == [True, 9, 10, "9"]
        assert orders.rows[2] is before[2]
        assert orders.position == 103


async def test_a_sort_key_orders_the_rows_of_its_view_alone() -> None:
    script = script_of(row(1, 1, a="b"), row(2, 2, a="a"), row(3, 3, a="b"))
    async with asyncio.timeout(SECONDS), fake_server(script) as server, connected(server) as db:
        by_key = await db.live(SQL)
        by_a = await db.live(SQL, sort_key=lambda row: row["a"])
        assert ids(by_key.rows) == [1, 2, 3]
        assert ids(by_a.rows) == [2, 1, 3]


async def test_equal_queries_are_asked_once_and_ended_by_the_last_who_closes() -> None:
    async def script(peer: Peer) -> None:
        id = await serve_rows(peer, row(1, 1))
        assert (await peer.receive("unsubscribe"))["subscription_id"] == id
        await serve_rows(peer, row(2, 2))
        await peer.until_closed()

    async with asyncio.timeout(SECONDS), fake_server(script) as server, connected(server) as db:
        first, second = db.live(SQL), db.live(SQL)
        await first.ready()
        await first.close()
        assert (first.status, ids(first.rows)) == ("closed", [1])
        assert (second.status, ids(second.rows)) == ("live", [1])
        await second.close()
        async with db.live(SQL) as third:
            assert ids(third.rows) == [2]


async def test_rows_stay_on_show_until_a_new_snapshot_is_complete() -> None:
    go = asyncio.Event()

    async def first(peer: Peer) -> None:
        await serve_rows(peer, row(1, 1), row(2, 2))
        await (await peer.socket.ping())
        peer.socket.transport.abort()

    async def second(peer: Peer) -> None:
        subscription = await peer.subscribe()
        assert subscription["options"] == {"on_gap": "snapshot", "from": 100}
        id = subscription["id"]
        await peer.ack(7, resumed=False, id=id, has_more=True)
        await peer.batch([row(2, 5)], 5, id=id, has_more=True)
        await peer.receive("next_batch")
        await go.wait()
        await peer.batch([row(3, 7)], 7, id=id)
        await peer.until_closed()

    async with (
        asyncio.timeout(SECONDS),
        fake_server(first, second) as server,
        connected(server) as db,
    ):
        orders = await db.live(SQL)
        seen: list[tuple[str, list[Any]]] = []
        orders.subscribe(lambda rows: seen.append((orders.status, ids(rows))))
        await orders.until(lambda _: ("reconnecting", [1, 2]) in seen)
        await orders.until(lambda _: ("loading", [1, 2]) in seen)
        go.set()
        await orders.until(lambda rows: ids(rows) == [2, 3])
        assert orders.status == "live"


async def test_changes_add_up_to_the_rows_and_tell_each_step() -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        id = await serve_rows(peer, row(1, 1, a="x"))
        await go.wait()
        await peer.change("insert", [row(2, 101)], id=id, transition="enter")
        await peer.change("update", [row(1, 102, a="y")], [{"id": 1, "a": "x"}], id=id)
        await peer.change("delete", old=[row(2, 103)], id=id, transition="leave")
        await peer.until_closed()

    async with asyncio.timeout(SECONDS), fake_server(script) as server, connected(server) as db:
        orders = db.live(SQL)
        changes = orders.changes()
        assert [await anext(changes) for _ in range(3)] == [
            Reset(),
            Insert(row(1, 1, a="x")),
            Ready(),
        ]
        go.set()
        assert [await anext(changes) for _ in range(3)] == [
            Insert(row(2, 101), "enter"),
            Update(row(1, 102, a="y"), row(1, 1, a="x")),
            Delete(row(2, 101), "leave"),
        ]
        late = orders.changes()
        assert [change.type for change in await late.take()] == ["reset", "insert", "ready"]
        await orders.close()
        assert [change async for change in changes] == []


async def test_a_reader_of_changes_that_lags_begins_again_with_all_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(changes_module, "MAX_WAITING", 10)
    many = 200

    async def script(peer: Peer) -> None:
        id = await serve_rows(peer, row(1, 1))
        for number in range(many):
            await peer.change("update", [row(1, 101 + number, a=number)], [row(1, 1)], id=id)
        await peer.until_closed()

    async with asyncio.timeout(SECONDS), fake_server(script) as server, connected(server) as db:
        orders = db.live(SQL)
        changes = orders.changes()
        assert await anext(changes) == Reset()
        await orders.until(lambda rows: bool(rows) and rows[0].get("a") == many - 1)
        waiting = await changes.take()
        assert len(waiting) < many
        held: dict[Any, Any] = {}
        for change in waiting:
            match change:
                case Reset():
                    held.clear()
                case Insert(new) | Update(new):
                    held[new["id"]] = new
                case Delete(gone):
                    del held[gone["id"]]
        assert list(held.values()) == orders.rows


async def test_iterating_gives_the_rows_after_every_change_until_it_is_closed() -> None:
    more = asyncio.Event()

    async def script(peer: Peer) -> None:
        id = await serve_rows(peer, row(1, 1))
        await more.wait()
        await peer.change("insert", [row(2, 101)], id=id)
        await peer.until_closed()

    async with asyncio.timeout(SECONDS), fake_server(script) as server, connected(server) as db:
        seen = []
        orders = db.live(SQL)
        async for rows in orders:
            seen.append(ids(rows))
            more.set()
            if len(seen) == 2:
                await orders.close()
        assert seen == [[1], [1, 2]]


async def test_listeners_hear_once_per_turn_and_one_that_fails_harms_nobody() -> None:
    async def script(peer: Peer) -> None:
        await serve_rows(peer, *(row(number, number) for number in range(1, 50)))
        await peer.until_closed()

    faults: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    async with asyncio.timeout(SECONDS), fake_server(script) as server, connected(server) as db:
        orders = db.live(SQL)
        heard: list[int] = []

        def fail(rows: object) -> None:
            raise ZeroDivisionError

        orders.subscribe(fail)
        stop = orders.subscribe(lambda rows: heard.append(len(rows)))
        await orders.until(lambda _: bool(heard) and heard[-1] == 49)
        assert len(heard) <= 2
        stop()
        assert isinstance(faults[0]["exception"], ZeroDivisionError)


class TestRowTypes:
    class Order(msgspec.Struct, forbid_unknown_fields=True):
        id: int
        note: str = msgspec.field(name="a", default="")

    @dataclass
    class Plain:
        id: int
        a: str | None = None

    class Seen(TypedDict):
        id: int
        _seq: str

    @pytest.mark.parametrize(
        ("row_type", "expected"),
        [(Order, Order(1, "x")), (Plain, Plain(1, "x")), (Seen, {"id": 1, "_seq": "1"})],
    )
    async def test_rows_become_them(self, row_type: type[Any], expected: Any) -> None:
        script = script_of(row(1, 1, a="x"))
        async with asyncio.timeout(SECONDS), fake_server(script) as server, connected(server) as db:
            orders = await db.live(SQL, row_type=row_type)
            assert orders.rows == [expected]
            assert "<td>1</td>" in orders._repr_html_()

    async def test_a_row_that_is_none_ends_the_query_and_not_the_connection(self) -> None:
        async def script(peer: Peer) -> None:
            id = await serve_rows(peer, row("one", 1))
            assert (await peer.receive("unsubscribe"))["subscription_id"] == id
            await serve_rows(peer, row(1, 1))
            await peer.until_closed()

        async with asyncio.timeout(SECONDS), fake_server(script) as server, connected(server) as db:
            orders = db.live(SQL, row_type=self.Plain)
            with pytest.raises(RowMismatch, match=r"Plain: Expected `int`, got `str` - at `\$.id`"):
                await orders.ready()
            assert (orders.status, orders.rows) == ("error", [])
            # Asked again it is another subscription.
            assert (await db.live(SQL, row_type=self.Plain)).rows == [self.Plain(1)]

    async def test_of_an_update_the_old_row_is_the_one_that_was_held(self) -> None:
        go = asyncio.Event()

        async def script(peer: Peer) -> None:
            id = await serve_rows(peer, row(1, 1, a="x"))
            await go.wait()
            # What an update tells of the old row is what changed, which is no whole row.
            await peer.change("update", [row(1, 101, a="y")], [{"a": "x"}], id=id)
            await peer.change("update", [row(2, 102, a="y")], [{"a": "x"}], id=id)
            await peer.until_closed()

        async with asyncio.timeout(SECONDS), fake_server(script) as server, connected(server) as db:
            changes = (await db.live(SQL, row_type=self.Plain)).changes()
            assert len(await changes.take()) == 3
            go.set()
            assert await anext(changes) == Update(self.Plain(1, "y"), self.Plain(1, "x"))
            assert await anext(changes) == Update(self.Plain(2, "y"), None)

    @pytest.mark.parametrize("row_type", [int, "Order", list[int], 5])
    def test_others_are_refused_at_once(self, row_type: Any) -> None:
        with pytest.raises(TypeError, match="row_type="):
            connect("http://127.0.0.1:1").live(SQL, row_type=row_type)


class TestFaults:
    async def test_a_refused_query_raises_and_others_go_on(self) -> None:
        async def script(peer: Peer) -> None:
            wrong = await peer.subscribe()
            await peer.say("error", subscription_id=wrong["id"], code="INVALID_SQL", message="no")
            await serve_rows(peer, row(1, 1))
            await peer.until_closed()

        async with asyncio.timeout(SECONDS), fake_server(script) as server, connected(server) as db:
            wrong = db.live("SELECT")
            with pytest.raises(SubscriptionRefused, match="no") as raised:
                await wrong
            assert raised.value.code == "INVALID_SQL"
            assert (wrong.status, wrong.error) == ("error", raised.value)
            with pytest.raises(SubscriptionRefused):
                await anext(wrong.changes())
            with pytest.raises(SubscriptionRefused):
                await anext(aiter(wrong))
            assert ids((await db.live(SQL)).rows) == [1]

    async def test_a_server_that_is_not_there_is_waited_for_as_long_as_it_is_said(self) -> None:
        async with fake_server() as server:
            gone = server.url
        started = time.monotonic()
        with pytest.raises(ConnectTimeout, match=r"within 0.2 s: cannot connect") as raised:
            async with connect(gone, connect_timeout=0.2, backoff=Backoff(base=0.01)):
                pytest.fail("there is no server")
        assert isinstance(raised.value, TimeoutError)
        assert time.monotonic() - started >= 0.2

    async def test_a_server_that_accepts_and_says_nothing_is_not_there_either(self) -> None:
        silent = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
        async with silent:
            port = silent.sockets[0].getsockname()[1]
            with pytest.raises(ConnectTimeout):
                await connect(f"http://127.0.0.1:{port}", connect_timeout=0.2)

    @pytest.mark.parametrize(
        ("status", "fault"), [(401, AuthenticationFailed), (403, ConnectionLost)]
    )
    async def test_a_refused_handshake_is_raised_at_once(
        self, status: int, fault: type[Exception]
    ) -> None:
        async with fake_server(refusals=(status,)) as server:
            with pytest.raises(fault, match=str(status)):
                await connected(server, token="x")

    async def test_a_token_told_by_message_is_waited_for(self) -> None:
        async def script(peer: Peer) -> None:
            await peer.receive("authenticate")
            await peer.say("auth_error", message="this is no token")
            await peer.close(1008)

        async with asyncio.timeout(SECONDS), fake_server(script) as server:
            with pytest.raises(AuthenticationFailed, match="this is no token"):
                await connected(server, token="x", authenticate="message")

    async def test_what_ends_the_connection_ends_every_view(self) -> None:
        async def script(peer: Peer) -> None:
            await serve_rows(peer, row(1, 1))
            await peer.close(1009, "too long")

        async with asyncio.timeout(SECONDS), fake_server(script) as server, connected(server) as db:
            orders = await db.live(SQL)
            await orders.until(lambda _: orders.status == "error")
            assert isinstance(orders.error, ConnectionLost)
            assert ids(orders.rows) == [1]
            with pytest.raises(ConnectionLost):
                db.live("SELECT a FROM app.orders")

    async def test_closing_ends_who_waits(self) -> None:
        asked = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.subscribe()
            asked.set()
            await peer.until_closed()

        async with asyncio.timeout(SECONDS), fake_server(script) as server:
            db = await connected(server)
            waiting = asyncio.create_task(db.live(SQL).ready())
            await asked.wait()
            await db.close()
            with pytest.raises(Closed):
                await waiting
            with pytest.raises(Closed):
                db.live(SQL)
            with pytest.raises(Closed):
                await db.publish([])
            await db.close()

    async def test_a_view_that_is_not_ready_in_time_says_so(self) -> None:
        async def script(peer: Peer) -> None:
            await peer.subscribe()
            await peer.until_closed()

        async with asyncio.timeout(SECONDS), fake_server(script) as server, connected(server) as db:
            with pytest.raises(TimeoutError):
                await db.live(SQL).ready(0.05)


class TestArguments:
    @pytest.mark.parametrize(
        ("wrong", "told"),
        [
            ({"tokne": "x"}, r"connect\(\) has no option tokne: did you mean token\?"),
            ({"connection_timeout": 1}, "did you mean connect_timeout"),
            ({"apikey": "x"}, "did you mean api_key"),
            ({"zzz": 1}, "zzz: it takes url, token, "),
        ],
    )
    def test_mistyped_options_are_refused_with_a_near_match(self, wrong: Any, told: str) -> None:
        with pytest.raises(TypeError, match=told):
            connect("http://127.0.0.1:1", **wrong)

    async def test_so_are_those_of_queries_and_posts(self) -> None:
        db = connect("http://127.0.0.1:1")
        with pytest.raises(TypeError, match="did you mean row_type"):
            db.live(SQL, rowtype=dict)  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="did you mean idempotency_key"):
            await db.publish([], idempotencykey="x")  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="did you mean backoff"):
            Client("http://127.0.0.1:1", back_off=None)
        await db.close()

    def test_options_are_given_by_name_only(self) -> None:
        with pytest.raises(TypeError):
            connect("http://127.0.0.1:1", "token")  # type: ignore[misc]

    def test_without_a_loop_the_other_function_is_named(self) -> None:
        with pytest.raises(RuntimeError, match="connect_sync"):
            connect("http://127.0.0.1:1").live(SQL)

    @pytest.mark.parametrize("seconds", [0, -1, float("nan")])
    def test_a_timeout_that_is_none_is_refused(self, seconds: float) -> None:
        with pytest.raises(ValueError, match="connect_timeout"):
            connect("http://127.0.0.1:1", connect_timeout=seconds)

    @pytest.mark.parametrize(
        ("params", "fault"),
        [("open", TypeError), ([float("nan")], ValueError), ([object()], TypeError)],
    )
    def test_values_that_cannot_be_sent_are_refused(
        self, params: Any, fault: type[Exception]
    ) -> None:
        with pytest.raises(fault):
            connect("http://127.0.0.1:1").live(SQL, params)


async def test_a_token_is_renewed_in_band_before_it_expires() -> None:
    def token(seconds: float) -> str:
        return jwt.encode({"sub": "a", "exp": time.time() + seconds}, "s" * 32)

    tokens = [token(1.2), token(3600)]
    renewed = tokens[-1]

    async def script(peer: Peer) -> None:
        assert peer.authorization == f"Bearer {tokens[0]}"
        await serve_rows(peer, row(1, 1))
        assert (await peer.receive("authenticate"))["token"] == renewed
        told.set()
        await peer.until_closed()

    told = asyncio.Event()
    left = iter(tokens)
    async with (
        asyncio.timeout(SECONDS),
        fake_server(script) as server,
        connected(server, token=lambda: next(left)) as db,
    ):
        await db.live(SQL)
        await told.wait()


async def test_notices_are_logged_or_told_to_who_wants_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def script(peer: Peer) -> None:
        id = (await peer.subscribe())["id"]
        fields = {"subscription_id": id, "total_rows": 0, "batch_control": control(1, False)}
        await peer.say("subscription_ack", **fields, schema=[], notices=["column b?"])
        await peer.batch([], 1, id=id)
        await peer.until_closed()

    async with asyncio.timeout(SECONDS), fake_server(script, script) as server:
        with caplog.at_level(logging.WARNING):
            async with connected(server) as db:
                assert (await db.live(SQL)).notices == ("column b?",)
        assert caplog.messages == [f"{SQL}: column b?"]
        told: list[tuple[str, str]] = []
        async with connected(server, on_notice=lambda *it: told.append(it)) as db:
            await db.live(SQL)
        assert told == [(SQL, "column b?")]


async def test_a_notebook_shows_a_table_in_which_everything_is_escaped() -> None:
    evil = "<script>alert('x')</script>&"
    rows = [row(number, number + 1, a=evil) for number in range(MOST_ROWS + 5)]
    rows[0] = {**rows[0], evil: None, "deep": {"b": ["<"]}, "a": None}
    script = script_of(*rows)
    async with asyncio.timeout(SECONDS), fake_server(script) as server, connected(server) as db:
        shown = (await db.live(f"{SQL} WHERE a < '{evil}'"))._repr_html_()
        assert "<script" not in shown
        assert shown.count("<tr>") == MOST_ROWS + 1
        assert "and 5 more rows" in shown
        assert "<i>null</i>" in shown
        assert '{"b":["&lt;"]}' in shown.replace("&quot;", '"')
        assert "_seq" not in shown
