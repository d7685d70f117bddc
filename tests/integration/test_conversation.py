"""Authentication, errors, limits and closes: what a connection may say and what it hears back."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from helpers.server import Server, insert
from helpers.wire import Wire, wire
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

StartServer = Callable[..., Server]


@pytest.fixture(scope="module", params=[1, 3], ids=["one worker", "three workers"])
def workers(request: pytest.FixtureRequest) -> int:
    """One process, then three, of which no two requests need meet the same."""
    number: int = request.param
    return number


async def test_a_header_token_is_greeted_before_anything_else(server: Server) -> None:
    headers = {"Authorization": f"Bearer {server.token('alice', 'dba')}"}
    async with connect(server.ws_url, additional_headers=headers, proxy=None) as socket:
        assert json.loads(await socket.recv()) == {
            "type": "auth_success",
            "user": "alice",
            "user_id": "alice",
            "role": "dba",
            "protocol": {"serialization": "json", "compression": "none"},
        }


async def test_a_client_may_subscribe_without_waiting_for_auth_success(server: Server) -> None:
    async with wire(server.ws_url) as client:
        await client.say(type="authenticate", method="jwt", token=server.token())
        await client.subscribe("s", "SELECT * FROM app.orders")
        await client.hear_type("auth_success")
        await client.hear_type("subscription_ack")


@pytest.mark.parametrize(
    "message",
    [
        {"type": "authenticate", "method": "jwt", "token": "not.a.token"},
        {"type": "authenticate", "method": "basic", "token": "x"},
        {"type": "authenticate", "method": "jwt"},
        {"type": "authenticate", "method": "jwt", "token": 5},
    ],
)
async def test_a_bad_authentication_is_told_then_closed(
    server: Server, message: dict[str, Any]
) -> None:
    async with wire(server.ws_url) as client:
        await client.say(**message)
        await client.hear_type("auth_error")
        assert (await client.closed())[0] == 1008


@pytest.mark.parametrize("header", ["Bearer nonsense", "Bearer", "bearer a b"])
async def test_a_header_token_that_does_not_hold_is_refused_before_the_upgrade(
    server: Server, header: str
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(server.ws_url, additional_headers={"Authorization": header}, proxy=None)
    response = refused.value.response
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    assert json.loads(response.body or b"")["error"]["code"] == "UNAUTHORIZED"


@pytest.mark.parametrize("header", ["Basic YTpi", "Digest username=a", "Negotiate abc"])
async def test_another_scheme_of_authorization_is_no_token(server: Server, header: str) -> None:
    async with connect(
        server.ws_url, additional_headers={"Authorization": header}, proxy=None
    ) as socket:
        client = Wire(socket)
        await client.authenticate(server.token())


async def test_of_two_authorization_headers_the_bearer_one_counts(server: Server) -> None:
    headers = [("Authorization", "Basic YTpi"), ("Authorization", f"Bearer {server.token('bob')}")]
    async with connect(server.ws_url, additional_headers=headers, proxy=None) as socket:
        assert (await Wire(socket).hear_type("auth_success"))["user"] == "bob"


async def test_a_browsers_token_comes_as_a_subprotocol(server: Server) -> None:
    for offer in (["bearer", server.token("bob")], ["app.v1", "bearer", server.token("bob")]):
        async with connect(server.ws_url, subprotocols=offer, proxy=None) as socket:
            assert socket.subprotocol == "bearer"
            assert (await Wire(socket).hear_type("auth_success"))["user"] == "bob"


async def test_a_browsers_token_that_does_not_hold_is_refused_before_the_upgrade(
    server: Server,
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(server.ws_url, subprotocols=["bearer", "nonsense"], proxy=None)
    assert refused.value.response.status_code == 401


async def test_bearer_without_a_token_is_answered_and_may_authenticate(server: Server) -> None:
    async with connect(server.ws_url, subprotocols=["bearer"], proxy=None) as socket:
        assert socket.subprotocol == "bearer"
        await Wire(socket).authenticate(server.token())


@pytest.mark.parametrize("offer", [["graphql-ws"], ["mqtt", "json"], ["eyJhbGciOiJIUzI1NiJ9.e.x"]])
async def test_another_subprotocol_is_answered_with_a_close_that_says_why(
    server: Server, offer: list[str]
) -> None:
    async with connect(server.ws_url, subprotocols=offer, proxy=None) as socket:
        assert socket.subprotocol == offer[0]
        client = Wire(socket)
        error = await client.hear_type("error")
        assert (error["subscription_id"], error["code"]) == ("protocol", "UNSUPPORTED")
        code, reason = await client.closed()
        assert code == 1002
        assert "bearer" in reason


async def test_another_users_token_ends_the_connection(server: Server) -> None:
    async with wire(server.ws_url, server.token("alice")) as client:
        await client.say(type="authenticate", method="jwt", token=server.token("bob"))
        await client.hear_type("auth_error")
        assert (await client.closed())[0] == 1008


async def test_a_silent_client_is_closed_when_its_time_to_authenticate_is_over(
    start_server: StartServer,
) -> None:
    server = start_server(websocket={"auth_timeout": "300ms"})
    async with wire(server.ws_url) as client:
        await client.hear_type("auth_error")
        assert (await client.closed())[0] == 1008


async def test_a_token_ends_at_its_expiry_and_a_renewed_one_goes_on(
    start_server: StartServer,
) -> None:
    server = start_server(auth={"jwt": {"leeway": 0}})
    short = server.token(ttl=2.0)
    async with wire(server.ws_url, short) as ends, wire(server.ws_url, short) as goes_on:
        renewed = server.token(ttl=600.0)
        await goes_on.authenticate(renewed)
        await ends.hear_type("auth_error")
        assert (await ends.closed())[0] == 1008
        assert await goes_on.settled(renewed) == []


async def test_subscribing_without_a_token_is_auth_required(server: Server) -> None:
    async with wire(server.ws_url) as client:
        await client.subscribe("mine", "SELECT * FROM app.orders")
        error = await client.hear_type("error")
        assert (error["subscription_id"], error["code"]) == ("mine", "AUTH_REQUIRED")
        await client.authenticate(server.token())


async def test_anonymous_clients_see_public_tables_only_and_are_not_timed_out(
    start_server: StartServer,
) -> None:
    server = start_server(auth={"anonymous": True}, websocket={"auth_timeout": "200ms"})
    async with wire(server.ws_url) as client:
        # A second client's time-out would come no sooner than this one's.
        await client.live("s", "SELECT * FROM app.orders")
        for sql in ("SELECT * FROM app.vault", "SELECT * FROM app.notes"):
            await client.subscribe("no", sql)
            assert (await client.hear_type("error"))["code"] == "UNAUTHORIZED"
        await client.authenticate(server.token("alice"))
        await client.live("mine", "SELECT * FROM app.notes")


@pytest.mark.parametrize(
    ("subscription", "code"),
    [
        ({"id": " ", "sql": "SELECT * FROM app.orders"}, "INVALID_SUBSCRIPTION_ID"),
        ({"id": "x" * 129, "sql": "SELECT * FROM app.orders"}, "INVALID_SUBSCRIPTION_ID"),
        ({"id": "a\u0007", "sql": "SELECT * FROM app.orders"}, "INVALID_SUBSCRIPTION_ID"),
        ({"id": "s", "sql": "SELECT * FROM app.orders ORDER BY id"}, "INVALID_SQL"),
        ({"id": "s", "sql": "SELECT * FROM app.orders WHERE"}, "INVALID_SQL"),
        ({"id": "s", "sql": "SELECT * FROM app.vault"}, "UNAUTHORIZED"),
        ({"id": "s", "sql": "SELECT * FROM app.orders", "options": {"from": -1}}, "UNSUPPORTED"),
        (
            {"id": "s", "sql": "SELECT * FROM app.orders", "options": {"last_rows": 2**53}},
            "UNSUPPORTED",
        ),
        (
            {"id": "s", "sql": "SELECT * FROM app.orders", "options": {"batch_size": "9"}},
            "UNSUPPORTED",
        ),
        ({"id": "s", "sql": "SELECT * FROM app.orders", "options": {"from": 1.5}}, "UNSUPPORTED"),
        (
            {"id": "s", "sql": "SELECT * FROM app.orders", "options": {"last_rows": True}},
            "UNSUPPORTED",
        ),
    ],
)
async def test_a_refused_subscription_names_its_own_id_and_the_connection_stays(
    server: Server, subscription: dict[str, Any], code: str
) -> None:
    token = server.token()
    async with wire(server.ws_url, token) as client:
        await client.say(type="subscribe", subscription=subscription)
        error = await client.hear_type("error")
        assert (error["subscription_id"], error["code"]) == (subscription["id"], code)
        assert await client.settled(token) == []


async def test_an_unknown_table_is_not_found(start_server: StartServer) -> None:
    server = start_server()
    async with wire(server.ws_url, server.token()) as client:
        await client.subscribe("s", "SELECT * FROM no.such")
        assert (await client.hear_type("error"))["code"] == "NOT_FOUND"


async def test_next_batch_of_nothing_is_batch_fetch_failed(server: Server) -> None:
    async with wire(server.ws_url, server.token()) as client:
        await client.say(type="next_batch", subscription_id="none")
        error = await client.hear_type("error")
        assert (error["subscription_id"], error["code"]) == ("none", "BATCH_FETCH_FAILED")


async def test_the_subscription_limit_counts_a_replacement_once(
    start_server: StartServer,
) -> None:
    server = start_server(websocket={"max_subscriptions_per_connection": 2})
    async with wire(server.ws_url, server.token()) as client:
        for name in ("a", "b", "b"):
            await client.live(name, "SELECT * FROM app.orders")
        await client.subscribe("c", "SELECT * FROM app.orders")
        error = await client.hear_type("error")
        assert error["code"] == "SUBSCRIPTION_LIMIT_EXCEEDED"
        await client.say(type="unsubscribe", subscription_id="a")
        await client.live("c", "SELECT * FROM app.orders")


async def test_a_binary_message_is_unsupported_and_the_connection_stays(server: Server) -> None:
    token = server.token()
    async with wire(server.ws_url, token) as client:
        await client.socket.send(b"\x00\x01")
        error = await client.hear_type("error")
        assert (error["subscription_id"], error["code"]) == ("protocol", "UNSUPPORTED_DATA")
        assert await client.settled(token) == []


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[]",
        '"text"',
        "{}",
        '{"type":"nonsense"}',
        '{"type":5}',
        '{"type":"subscribe"}',
        '{"type":"subscribe","subscription":{"id":1,"sql":"x"}}',
        '{"type":"subscribe","subscription":{"id":"a"}}',
        '{"type":"subscribe","subscription":{"id":"a","sql":"x","options":[]}}',
        '{"type":"unsubscribe"}',
        "[" * 100_000,
    ],
)
async def test_what_is_no_message_of_the_protocol_closes_1011(server: Server, text: str) -> None:
    async with wire(server.ws_url, server.token()) as client:
        await client.socket.send(text)
        assert (await client.closed())[0] == 1011


async def test_invalid_utf8_closes_1007(server: Server) -> None:
    async with wire(server.ws_url, server.token()) as client:
        await client.socket.send(b"\xff\xfe", text=True)
        assert (await client.closed())[0] == 1007


async def test_a_message_over_the_size_closes_1009(start_server: StartServer) -> None:
    server = start_server(websocket={"max_message_bytes": "1KiB"})
    async with wire(server.ws_url, server.token()) as client:
        await client.say(type="ping", pad="x" * 2000)
        assert (await client.closed())[0] == 1009


async def test_fragments_are_one_message(server: Server) -> None:
    async with wire(server.ws_url, server.token()) as client:
        text = json.dumps(
            {"type": "subscribe", "subscription": {"id": "é", "sql": "SELECT * FROM app.orders"}},
            ensure_ascii=False,
        )
        await client.socket.send([text[:20], text[20:60], "", text[60:]])
        assert (await client.hear_type("subscription_ack"))["subscription_id"] == "é"


async def test_too_many_messages_are_dropped_and_ten_times_too_many_close(
    start_server: StartServer,
) -> None:
    server = start_server(websocket={"messages_per_second": 1, "message_burst": 5})
    async with wire(server.ws_url, server.token()) as client:
        for _ in range(6):
            await client.say(type="ping")
        error = await client.hear_type("error")
        assert (error["subscription_id"], error["code"]) == ("rate_limit", "RATE_LIMIT_EXCEEDED")
        for _ in range(60):
            await client.say(type="ping")
        assert (await client.closed())[0] == 1008


async def test_a_peer_that_answers_no_ping_is_closed_1011(start_server: StartServer) -> None:
    server = start_server(websocket={"ping_interval": "200ms", "idle_timeout": "900ms"})
    reader, writer = await asyncio.open_connection(*server.url.removeprefix("http://").split(":"))
    writer.write(
        b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        b"Authorization: Bearer " + server.token().encode() + b"\r\n\r\n"
    )
    async with asyncio.timeout(20):
        heard = await reader.read()
    writer.close()
    assert b"\x89\x00" in heard, "a ping"
    assert b"\x03\xf3" in heard, "the close code 1011"


async def test_pings_of_the_client_are_answered(server: Server) -> None:
    async with wire(server.ws_url, server.token()) as client:
        started = time.monotonic()
        async with asyncio.timeout(20):
            await (await client.socket.ping(b"hello"))
        assert time.monotonic() >= started


async def test_origins_are_checked_before_the_upgrade(start_server: StartServer) -> None:
    server = start_server(
        server={"allowed_origins": ["https://app.example"], "strict_origin": True}
    )
    for headers in ({"Origin": "https://evil.example"}, {}):
        with pytest.raises(InvalidStatus) as refusal:
            async with connect(server.ws_url, additional_headers=headers, proxy=None):
                pass
        assert refusal.value.response.status_code == 403
    async with connect(server.ws_url, origin="https://app.example", proxy=None):
        pass


async def test_beyond_max_connections_the_answer_is_503(start_server: StartServer) -> None:
    server = start_server(server={"workers": 1}, websocket={"max_connections": 1})
    async with wire(server.ws_url, server.token()):
        with pytest.raises(InvalidStatus) as refusal:
            async with connect(server.ws_url, proxy=None):
                pass
        assert refusal.value.response.status_code == 503


async def test_a_lost_role_or_claim_is_felt_at_the_next_token(start_server: StartServer) -> None:
    policy = {"policy": "tenant = CLAIM('tenant')"}
    table = {"type": "shared", "access": "public", "primary_key": "id", **policy}
    server = start_server(tables={"declared": {"app.tenants": table}})
    server.post(
        insert("app.tenants", {"id": 1, "tenant": "x"}),
        insert("app.tenants", {"id": 2, "tenant": "y"}),
    )
    async with wire(server.ws_url, server.token("eve", "service", tenant="x")) as client:
        await client.live("u", "SELECT * FROM app.tenants", {})
        await client.live("w", "SELECT id FROM app.tenants")
        await client.subscribe("t", "SELECT id FROM app.tenants", {"on_gap": "snapshot"})
        await client.hear_type("subscription_ack")
        assert [row["id"] for row in (await client.hear())["rows"]] == [1]
        await client.live("v", "SELECT * FROM app.vault", {})
        await client.authenticate(server.token("eve", "user", tenant="y"))
        heard = [await client.hear() for _ in range(5)]
        ended = {m["subscription_id"]: m["code"] for m in heard if m["type"] == "error"}
        (renewed,) = (m for m in heard if m["type"] == "subscription_ack")
        (rows,) = (m["rows"] for m in heard if m["type"] == "initial_data_batch")
        assert ended == {"u": "RESUME_EXPIRED", "w": "RESUME_EXPIRED", "v": "UNAUTHORIZED"}
        assert renewed["resumed"] is False
        assert [row["id"] for row in rows] == [2]


async def test_binary_messages_count_against_the_rate(start_server: StartServer) -> None:
    server = start_server(websocket={"messages_per_second": 1, "message_burst": 2})
    async with wire(server.ws_url, server.token()) as client:
        for _ in range(3):
            await client.socket.send(b"\x00")
        codes = [(await client.hear_type("error"))["code"] for _ in range(3)]
        assert codes == ["UNSUPPORTED_DATA", "UNSUPPORTED_DATA", "RATE_LIMIT_EXCEEDED"]


async def test_a_flood_of_empty_fragments_is_abuse(start_server: StartServer) -> None:
    server = start_server(websocket={"messages_per_second": 1, "message_burst": 2})
    reader, writer = await _raw_websocket(server)
    writer.write(b"\x01\x80\0\0\0\0" + b"\x00\x80\0\0\0\0" * 400)
    async with asyncio.timeout(20):
        await reader.readuntil(b"\x03\xf0")  # The close code 1008, which is answered.
        writer.write(b"\x88\x82\0\0\0\0\x03\xf0")
        await reader.read()
    writer.close()


async def _raw_websocket(
    server: Server, before: bytes = b""
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(*server.url.removeprefix("http://").split(":"))
    writer.write(
        before + b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        b"Authorization: Bearer " + server.token().encode() + b"\r\n\r\n"
    )
    return reader, writer


async def test_an_upgrade_right_behind_another_request_does_not_mix_with_its_answer(
    server: Server,
) -> None:
    reader, writer = await _raw_websocket(server, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(20):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        (length,) = [line for line in head.split(b"\r\n") if line.startswith(b"content-length:")]
        await reader.readexactly(int(length.partition(b":")[2]))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        writer.write(b"\x89\x85\0\0\0\0hello")
        await reader.readuntil(b"\x8a\x05hello")
    writer.close()


async def test_frames_right_behind_the_upgrade_are_heard(server: Server) -> None:
    reader, writer = await _raw_websocket(server)
    writer.write(b"\x89\x85\0\0\0\0hello")
    async with asyncio.timeout(20):
        await reader.readuntil(b"\x8a\x05hello")
    writer.close()


async def test_a_head_without_end_is_refused(server: Server) -> None:
    reader, writer = await asyncio.open_connection(*server.url.removeprefix("http://").split(":"))
    writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"X-Filler: " + b"y" * 1_000_000)
    async with asyncio.timeout(20):
        try:
            answer = await reader.read()
        except ConnectionResetError:
            answer = b"431"
    writer.close()
    assert b"431" in answer


async def test_several_queries_of_one_connection_survive_a_burst_beyond_its_buffer(
    start_server: StartServer,
) -> None:
    server = start_server(websocket={"send_buffer_bytes": "8KiB"})
    async with wire(server.ws_url, server.token()) as client:
        for number in range(8):
            await client.live(f"s{number}", f"SELECT * FROM app.orders WHERE id > {-number}")
        server.post(*[insert("app.orders", {"id": n, "pad": "x" * 1000}) for n in range(1, 61)])
        seen = {f"s{number}": 0 for number in range(8)}
        while sum(seen.values()) < 8 * 60:
            message = await client.hear_type("change")
            seen[message["subscription_id"]] += len(message["rows"])
        assert set(seen.values()) == {60}


async def test_http_1_0_cannot_be_upgraded(server: Server) -> None:
    reader, writer = await asyncio.open_connection(*server.url.removeprefix("http://").split(":"))
    writer.write(
        b"GET /v1/ws HTTP/1.0\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    async with asyncio.timeout(20):
        assert (await reader.read()).split()[1] == b"505"
    writer.close()


async def test_what_follows_a_query_that_takes_long_to_read_waits_for_it(
    start_server: StartServer,
) -> None:
    """Requests are done in slices, but those of a connection in the order in which they came."""
    server = start_server()
    server.post(insert("app.orders", {"id": 1}))
    token = server.token()
    async with wire(server.ws_url, token) as client:
        for number in range(20):
            long = " OR ".join(f"id + {number} = {n} AND LOWER(a) = 'x{n}'" for n in range(60))
            await client.subscribe("a", f"SELECT * FROM app.orders WHERE {long}", {"last_rows": 0})
            await client.say(type="next_batch", subscription_id="a")
            await client.say(type="unsubscribe", subscription_id="a")
            await client.say(type="next_batch", subscription_id="a")
            await client.subscribe("b", "SELECT * FROM app.orders", {"last_rows": 0})
        heard = await client.settled(token)
    # Of `a` there may be nothing but its end: it was unsubscribed before its page was there.
    told = [(m["type"], m["subscription_id"]) for m in heard if m["subscription_id"] == "b"]
    assert told.count(("subscription_ack", "b")) >= 1
    errors = [m["code"] for m in heard if m["type"] == "error"]
    assert errors == ["BATCH_FETCH_FAILED"] * 20


async def test_a_client_that_leaves_while_its_query_is_read_harms_nobody(
    start_server: StartServer,
) -> None:
    server = start_server()
    token = server.token()
    for number in range(5):
        async with wire(server.ws_url, token) as client:
            for n in range(30):
                long = " OR ".join(f"id + {number} = {n + m}" for m in range(40))
                await client.subscribe(f"s{n}", f"SELECT * FROM app.orders WHERE {long}", {})
    async with wire(server.ws_url, token) as other:
        await other.live("s", "SELECT * FROM app.orders", {})
        server.post(insert("app.orders", {"id": 1}))
        assert (await other.hear_type("change"))["rows"][0]["id"] == 1
    assert "Traceback" not in server.errors


async def test_large_integers_come_as_text_to_whoever_asks(server: Server) -> None:
    key = 2**60 + 1
    server.post(insert("app.large", {"id": key, "small": 7}))
    async with wire(server.ws_url, server.token()) as client:
        await client.subscribe("text", "SELECT * FROM app.large", {"bigints": "string"})
        await client.hear_type("subscription_ack")
        batch = await client.hear_type("initial_data_batch")
        assert [(row["id"], row["small"]) for row in batch["rows"]] == [(str(key), 7)]
        await client.subscribe("numbers", "SELECT * FROM app.large", {})
        await client.hear_type("subscription_ack")
        batch = await client.hear_type("initial_data_batch")
        assert [row["id"] for row in batch["rows"]] == [key]
        await client.subscribe("odd", "SELECT * FROM app.large", {"bigints": "bigint"})
        assert (await client.hear_type("error"))["code"] == "UNSUPPORTED"
