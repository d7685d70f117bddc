"""Server-Sent Events of a real server: the same promises as over a WebSocket, in another frame."""

import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
from events_kit import QUERY, Stream
from helpers.server import Server, delete, insert, running_server, update

OPEN: dict[str, Any] = {"auth": {"anonymous": True}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("events"), OPEN) as it:
        yield it


@pytest.fixture
def orders(server: Server) -> Iterator[Server]:
    """The server with no orders, before and after."""
    server.post({"table": "app.orders", "change_type": "truncate"})
    yield server
    server.post({"table": "app.orders", "change_type": "truncate"})


def post(server: Server, *keys: int, **values: Any) -> int:
    told = server.post(*(insert("app.orders", {"id": key, **values}) for key in keys))
    return int(told["last_seq"])


@pytest.mark.parametrize("headers", [{}, {"Accept-Encoding": "gzip, br"}])
def test_a_stream_is_a_snapshot_in_pages_and_then_what_changes(
    orders: Server, headers: dict[str, str]
) -> None:
    last = post(orders, *range(25), note="é\n")
    stream = Stream(orders, batch_size=4, headers=headers)
    assert stream.status == 200
    assert stream.headers["content-type"] == "text/event-stream"
    assert ("content-encoding" in stream.headers) is bool(headers)
    stream.until(last)
    assert sorted(stream.rows()) == list(range(25))
    orders.post(update("app.orders", {"id": 3, "note": "new"}), delete("app.orders", {"id": 4}))
    stream.until(last + 2)
    assert stream.rows()[3] == {"id": 3, "note": "new"}
    assert 4 not in stream.rows()
    stream.close()


def test_every_message_has_the_position_that_it_brings_its_reader_to(orders: Server) -> None:
    last = post(orders, *range(10))
    stream = Stream(orders, batch_size=3)
    stream.until(last)
    post(orders, 50)
    for message in stream.messages():
        rows = message.get("rows") or message.get("old_values") or []
        assert int(stream.last_id or 0) == int(rows[-1]["_seq"])
        if "old_values" in message:
            break
        if rows[-1]["id"] == 50:
            orders.post(insert("app.orders", {"id": 51}), insert("app.orders", {"id": 52}))
        else:
            orders.post(delete("app.orders", {"id": 1}))
    stream.close()


@pytest.fixture(autouse=True)
def something_to_hear(server: Server) -> None:
    """A change that nobody asks for."""
    server.post(insert("app.vault", {"id": 1}))


def test_a_stream_goes_on_from_its_last_event_id(orders: Server) -> None:
    last = post(orders, *range(10))
    stream = Stream(orders, batch_size=3)
    stream.until(last)
    stream.close()
    orders.post(delete("app.orders", {"id": 1}), insert("app.orders", {"id": 77}))
    position = {"Last-Event-ID": stream.last_id or ""}
    # As a browser does it: the address is the one of the beginning.
    again = Stream(orders, batch_size=3, headers=position, **{"from": 0})
    again.view = stream.view
    again.until(last + 2)
    assert sorted(again.rows()) == [0, *range(2, 10), 77]
    again.close()


def test_live_only_and_parameters(orders: Server) -> None:
    post(orders, 1)
    stream = Stream(orders, sql=f"{QUERY} WHERE v = $1", params="[7]", snapshot="false")
    heard = stream.messages()
    assert next(heard)["type"] == "subscription_ack"
    assert next(heard)["rows"] == []
    post(orders, 2, v=6)
    post(orders, 3, v=7)
    assert [row["id"] for row in next(heard)["rows"]] == [3]
    stream.close()


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        ({"sql": "SELEC"}, 400, "INVALID_SQL"),
        ({"sql": ""}, 400, "INVALID_SQL"),
        ({"sql": "SELECT * FROM app.none"}, 404, "NOT_FOUND"),
        ({"sql": "SELECT * FROM app.vault"}, 403, "UNAUTHORIZED"),
        ({"from": 5}, 410, "RESUME_EXPIRED"),
        ({"from": "x"}, 400, "UNSUPPORTED"),
        ({"params": "{"}, 400, "UNSUPPORTED"),
        ({"batch_size": "many"}, 400, "UNSUPPORTED"),
        ({"id": "\x01"}, 400, "INVALID_SUBSCRIPTION_ID"),
    ],
)
def test_a_refusal_is_a_status(server: Server, asked: Any, status: int, code: str) -> None:
    stream = Stream(server, **asked)
    assert stream.status == status
    assert f'"code":"{code}"'.encode() in stream.body


def test_a_position_of_another_life_begins_anew_where_that_is_asked_for(orders: Server) -> None:
    last = post(orders, 1, 2)
    stream = Stream(orders, on_gap="snapshot", **{"from": 5})
    heard = stream.messages()
    assert next(heard)["resumed"] is False
    stream.until(last)
    assert sorted(stream.rows()) == [1, 2]
    stream.close()


def test_a_token_tells_whose_rows_are_meant(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        for headers in ({}, {"Authorization": "Bearer nonsense"}):
            refused = Stream(server, headers=headers)
            assert refused.status == 401
            assert b"UNAUTHORIZED" in refused.body or b"AUTH_REQUIRED" in refused.body
        bearer = {"Authorization": f"Bearer {server.token('alice', jti='a-1')}"}
        notes = "SELECT * FROM app.notes"
        stream = Stream(server, headers=bearer, sql=notes)
        stream.event()
        stream.event()
        server.post(insert("app.notes", {"id": 1}, user_id="bob"))
        server.post(insert("app.notes", {"id": 2}, user_id="alice"))
        assert [row["id"] for row in stream.event()[1]["rows"]] == [2]
        boss = {"Authorization": f"Bearer {server.token('boss', 'dba')}"}
        revoked = server.request("POST", "/v1/admin/revoke", b'{"token_id":"a-1"}', **boss)
        assert revoked.status == 200
        assert stream.event() == ("close", {"code": 1008, "reason": "token revoked"})
        assert stream.body == b""
        assert Stream(server, headers=bearer, sql=notes).status == 401


def test_a_token_ends_its_stream_when_it_expires(tmp_path: Path) -> None:
    with running_server(tmp_path, {"auth": {"jwt": {"leeway": 0}}}) as server:
        bearer = {"Authorization": f"Bearer {server.token('alice', ttl=2.0)}"}
        stream = Stream(server, headers=bearer)
        names = [stream.event()[0] for _ in range(3)]
        assert names == ["message", "message", "close"]


def test_silence_is_broken_by_comments(tmp_path: Path) -> None:
    with running_server(tmp_path, {**OPEN, "websocket": {"ping_interval": "100ms"}}) as server:
        for headers in ({}, {"Accept-Encoding": "gzip"}):
            stream = Stream(server, headers=headers)
            while stream.comments < 2:
                stream.event()
            stream.close()


def test_a_server_that_stops_says_so(tmp_path: Path) -> None:
    with running_server(tmp_path, OPEN) as server:
        stream = Stream(server)
        stream.event()
        stream.event()
        server.signal(signal.SIGTERM)
        assert stream.event()[1]["code"] == 1001
        assert server.stop() == 0


def test_a_reader_that_stops_reading_is_caught_up_from_the_log(tmp_path: Path) -> None:
    """Nothing is kept for it beyond the bound, and nothing is lost, doubled or out of order."""
    settings = {**OPEN, "websocket": {"send_buffer_bytes": "16KiB"}}
    with running_server(tmp_path, settings) as server:
        stream = Stream(server, receive_buffer=4096)
        begun = stream.messages()
        assert [next(begun)["type"] for _ in range(2)][1] == "initial_data_batch"
        sent = 0
        pad = "x" * 20_000
        while not server.metric("lagging_subscriptions"):
            sent += 1
            server.post(insert("app.orders", {"id": sent % 50, "n": sent, "pad": pad}))
            assert sent < 5000
        for _ in range(100):
            sent += 1
            last = server.post(insert("app.orders", {"id": sent % 50, "n": sent, "pad": pad}))
        assert server.metric("send_buffer_bytes") < 200_000
        stream.until(last["last_seq"])
        expected = {key: n for n in range(1, sent + 1) for key in [n % 50]}
        assert {key: row["n"] for key, row in stream.rows().items()} == expected
        stream.close()


def test_other_methods_and_preflights(server: Server) -> None:
    for path in ("/v1/stream", "/v1/poll"):
        assert server.request("POST", path, b"").status == 405
        asked = server.request("OPTIONS", path, Origin="https://app.example.com")
        assert asked.status == 204
        assert asked.headers["access-control-allow-origin"] == "https://app.example.com"
        assert "authorization" in asked.headers["access-control-allow-headers"]


def test_origins_that_are_not_allowed_are_refused(tmp_path: Path) -> None:
    settings = {**OPEN, "server": {"allowed_origins": ["https://app.example.com"]}}
    with running_server(tmp_path, settings) as server:
        stream = Stream(server, headers={"Origin": "https://app.example.com"})
        assert stream.headers["access-control-allow-origin"] == "https://app.example.com"
        stream.close()
        assert Stream(server, headers={"Origin": "https://evil.example.com"}).status == 403


def test_connections_are_counted_and_given_back(tmp_path: Path) -> None:
    settings = {**OPEN, "websocket": {"max_connections": 2}}
    with running_server(tmp_path, settings) as server:
        streams = [Stream(server) for _ in range(2)]
        for stream in streams:
            stream.event()
        assert server.metric("connections") == 2
        assert Stream(server).status == 503
        for stream in streams:
            stream.close()
        while server.metric("connections"):
            post(server, 1)
        again = Stream(server)
        assert again.status == 200
        again.close()


def test_a_request_behind_another_and_one_behind_it_do_no_harm(orders: Server) -> None:
    where = urlparse(orders.url)
    with socket.create_connection((where.hostname, where.port), 30) as raw:
        stream = f"GET /v1/stream?sql={QUERY.replace(' ', '+')} HTTP/1.1\r\nHost: x\r\n\r\n"
        raw.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in raw.recv(4096)
        raw.sendall(stream.encode() + b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" + b"\x00garbage")
        heard = b""
        while b"ready" not in heard and (piece := raw.recv(4096)):
            heard += piece
        assert b"ready" in heard
        assert heard.count(b"HTTP/1.1") == 1
