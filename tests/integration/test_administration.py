"""/v1/tables, /v1/connections, /v1/subscriptions, /v1/why and DELETE, over one worker and three."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from helpers.server import Answer, Server, delete, insert, update
from helpers.wire import Wire, wire
from workers_kit import kill_worker, replaced

StartServer = Callable[..., Server]


@pytest.fixture(scope="module", params=[1, 3], ids=["one worker", "three workers"])
def workers(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


def ask(server: Server, path: str, role: str | None = "dba", method: str = "GET") -> Answer:
    headers = {} if role is None else {"Authorization": f"Bearer {server.token('boss', role)}"}
    return server.request(method, path, **headers)


def rows(server: Server, subject: str, **query: Any) -> list[dict[str, Any]]:
    """All pages of a list."""
    found: list[dict[str, Any]] = []
    while True:
        answer = ask(server, f"/v1/{subject}?{urlencode(query)}")
        assert answer.status == 200, answer.body
        found += answer.json[subject]
        if answer.json["next_cursor"] is None:
            return found
        query["cursor"] = answer.json["next_cursor"]


@asynccontextmanager
async def wires(server: Server, user: str, count: int) -> AsyncIterator[list[Wire]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(wire(server.ws_url, server.token(user)))
            for _ in range(count)
        ]


async def test_connections_of_all_workers_are_told_page_by_page(
    server: Server, workers: int
) -> None:
    async with wires(server, "ann", 12) as clients, wires(server, "ben", 2):
        await clients[0].live("one", "SELECT * FROM app.orders")
        found = rows(server, "connections", user="ann", limit=5)
        assert len(found) == len({one["id"] for one in found}) == 12
        assert {one["user"] for one in found} == {"ann"}
        # The kernel spreads connections as it likes: all of twelve at one of three is not to be.
        spread = len({one["id"].partition("-")[0] for one in found})
        assert spread == 1 if workers == 1 else 1 < spread <= workers
        assert sorted(one["subscriptions"] for one in found) == [0] * 11 + [1]
        assert {one["role"] for one in found} == {"user"}
        assert {one["address"] for one in found} == {"127.0.0.1"}
        assert {one["bytes_waiting"] for one in found} == {0}
        assert all(0 <= one["age"] < 300 for one in found)
        assert len(rows(server, "connections", user="ben")) == 2
        assert rows(server, "connections", user="nobody") == []
        assert len(rows(server, "connections", limit=1)) >= 14
    assert rows(server, "connections", user="ann", lagging="true") == []


async def test_subscriptions_are_told_with_sql_plan_index_and_position(server: Server) -> None:
    sql = "SELECT id FROM app.orders WHERE status = 'open' AND total > 5"
    async with wires(server, "cat", 4) as clients:
        for number, client in enumerate(clients):
            await client.live(f"s{number}", sql, {})
            await client.live("other", "SELECT * FROM app.notes")
        seq = server.post(insert("app.orders", {"id": 1, "status": "open", "total": 6}))["last_seq"]
        for client in clients:
            await client.hear_type("change")
        found = rows(server, "subscriptions", user="cat", table="app.orders", limit=3)
        assert sorted(one["id"] for one in found) == ["s0", "s1", "s2", "s3"]
        for one in found:
            assert (one["sql"], one["state"]) == (sql, "live")
            assert one["index"] == "hash status = 'open'"
            assert one["residual"] == "total > 5"
            assert one["plan"]["columns"] == ["id"]
            assert one["plan"]["filter"] == "(status = 'open') AND (total > 5)"
            assert one["position"] >= seq
            assert (one["seconds_behind"], one["bytes_behind"], one["bytes_waiting"]) == (0, 0, 0)
            assert one["connection"] in {row["id"] for row in rows(server, "connections")}
        name = found[0]["connection"]
        own = rows(server, "subscriptions", connection=name, limit=1)
        assert [one["id"] for one in own] == ["other", found[0]["id"]]
        assert {one["connection"] for one in own} == {name}


async def test_a_reader_that_takes_nothing_is_told_as_behind(start_server: StartServer) -> None:
    server = start_server(websocket={"send_buffer_bytes": "16KiB", "slow_reader_timeout": "300s"})
    server.post(insert("app.orders", {"id": 0}))
    client = raw_client(server)
    try:
        subscription = {"id": "slow", "sql": "SELECT * FROM app.orders"}
        say(client, {"type": "subscribe", "subscription": subscription})
        text, number, found = "x" * 100_000, 0, []
        # Until much is behind what the buffers on the way have taken, and a second old.
        while not found or found[0]["bytes_behind"] < 10**6 or not found[0]["seconds_behind"]:
            assert number < 1000, "it takes a hundred megabytes"
            server.post(insert("app.orders", {"id": (number := number + 1), "text": text}))
            found = rows(server, "subscriptions", lagging="true")
        (one,) = found
        assert (one["id"], one["state"]) == ("slow", "catching_up")
        assert one["bytes_behind"] > 100_000
        assert one["bytes_waiting"] > 0
        (told,) = rows(server, "connections", lagging="true")
        assert told["id"] == one["connection"]
        assert (told["lagging"], told["subscriptions"]) == (1, 1)
        assert told["bytes_waiting"] > 0
        assert rows(server, "connections", lagging="false") == []
        seq = server.post(insert("app.orders", {"id": "last"}))["last_seq"]
        answer = ask(server, f"/v1/why?seq={seq}&user=slow")
        assert [case["outcome"] for case in answer.json["subscriptions"]] == ["not_yet"]
    finally:
        client.close()


def raw_client(server: Server) -> socket.socket:
    """A client whose socket takes little, and from which nobody reads after the upgrade."""
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((host, int(port)))
    client.sendall(
        f"GET /v1/ws HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        f"Authorization: Bearer {server.token('slow')}\r\n\r\n".encode()
    )
    assert client.recv(12) == b"HTTP/1.1 101"
    return client


def say(client: socket.socket, message: dict[str, Any]) -> None:
    body = json.dumps(message).encode()
    assert len(body) < 126
    client.sendall(bytes([0x81, 0x80 | len(body), 0, 0, 0, 0]) + body)


async def test_a_connection_is_closed_by_its_id_with_a_reason(server: Server) -> None:
    async with wires(server, "dan", 5) as clients:
        for client in clients:
            await client.live("s", "SELECT * FROM app.orders")
        names = [one["id"] for one in rows(server, "connections", user="dan")]
        answer = ask(server, f"/v1/connections/{names[0]}", method="DELETE")
        assert answer.status == 200
        assert answer.json["id"] == names[0]
        reason = quote("moved to another room")
        for name in names[1:]:
            path = f"/v1/connections/{name}?reason={reason}"
            assert ask(server, path, method="DELETE").status == 200
        closed = sorted([await client.closed() for client in clients])
        assert closed[0] == (1008, "closed by an administrator")
        assert closed[1:] == [(1008, "moved to another room")] * 4
        assert rows(server, "connections", user="dan") == []
        for name in names:
            assert ask(server, f"/v1/connections/{name}", method="DELETE").status == 404


@pytest.mark.parametrize("name", ["1", "1-abcdef-1", "9-abcdef-1", "99999-abcdef-1", "x", "%00"])
def test_what_names_no_connection_closes_none(server: Server, name: str) -> None:
    answer = ask(server, f"/v1/connections/{name}", method="DELETE")
    assert (answer.status, answer.json["error"]["code"]) == (404, "NOT_FOUND")


async def test_an_id_of_a_worker_that_was_replaced_names_nobody(
    start_server: StartServer, workers: int
) -> None:
    if workers == 1:
        pytest.skip("one worker is not replaced")
    server = start_server()
    async with wires(server, "eve", 9) as clients:
        names = [one["id"] for one in rows(server, "connections")]
        victim = int(names[0].partition("-")[0])
        first = ask(server, "/v1/connections?limit=1").json
        await asyncio.to_thread(replaced, server, victim, kill_worker(server, victim))
        async with wires(server, "eve", 9):
            assert ask(server, f"/v1/connections/{names[0]}", method="DELETE").status == 404
            found = rows(server, "connections", cursor=first["next_cursor"])
            assert len({one["id"] for one in found}) == len(found)
            assert names[0] not in {one["id"] for one in found}
        assert clients


def test_tables_are_told_with_columns_and_counts(server: Server) -> None:
    server.post(insert("app.extra", {"id": 1, "colour": "red"}))
    server.post(insert("app.extra", {"id": 2, "colour": "red"}))
    found = {one["table"]: one for one in rows(server, "tables", limit=2)}
    assert list(found) == sorted(found)
    assert found["app.notes"]["type"] == "user"
    assert found["app.vault"]["access"] == "private"
    assert found["app.orders"]["primary_key"] == ["id"]
    assert found["app.extra"]["declared"] is False
    assert found["app.extra"]["seen_columns"] == ["colour", "id"]
    assert found["app.extra"]["changes"] == 2


async def test_why_a_user_did_not_get_a_change(start_server: StartServer) -> None:
    guarded = {
        "type": "shared",
        "access": "public",
        "primary_key": "id",
        "policy": "tenant = CLAIM('tenant')",
    }
    server = start_server(tables={"declared": {"app.guarded": guarded}})

    def why(seq: int, user: str) -> dict[str, Any]:
        answer = ask(server, f"/v1/why?seq={seq}&user={user}")
        assert answer.status == 200, answer.body
        told: dict[str, Any] = answer.json
        return told

    before = server.post(insert("app.orders", {"id": 1, "status": "open"}))["last_seq"]
    frank, gina = server.token("frank", tenant="a"), server.token("gina", tenant="b")
    async with wire(server.ws_url, frank) as one, wire(server.ws_url, gina) as other:
        await one.live("orders", "SELECT * FROM app.orders WHERE status = 'open'", {})
        await one.live("guarded", "SELECT * FROM app.guarded")
        await other.live("guarded", "SELECT * FROM app.guarded WHERE id > 100")
        paid = server.post(update("app.orders", {"id": 2, "status": "paid"}))["last_seq"]
        theirs = server.post(insert("app.guarded", {"id": 1, "tenant": "b"}))["last_seq"]
        left = server.post(update("app.orders", {"id": 1, "status": "paid"}))["last_seq"]
        nothing = server.post(delete("app.orders", {"id": 77}))["last_seq"]
        assert (await one.hear_type("change"))["transition"] == "leave"

        told = why(paid, "frank")
        (case,) = told["subscriptions"]
        assert (case["id"], case["outcome"]) == ("orders", "filter")
        assert case["terms"][0]["values"] == {"status": "paid"}
        assert told["verdict"] == case["why"]
        assert told["change"]["row_data"] == {"id": 2, "status": "paid"}
        assert told["other_subscriptions"] == 1
        assert why(theirs, "frank")["subscriptions"][0]["outcome"] == "policy"
        assert why(theirs, "gina")["subscriptions"][0]["outcome"] == "filter"
        assert why(before, "frank")["subscriptions"][0]["outcome"] == "before_start"
        assert why(nothing, "frank")["subscriptions"][0]["outcome"] == "nothing"
        (case,) = why(left, "frank")["subscriptions"]
        assert (case["outcome"], case["seen_as"]) == ("delivered", "leave")
        vault = server.post(insert("app.vault", {"id": 1}))["last_seq"]
        assert "role user may not read it" in why(vault, "gina")["verdict"]
        assert why(vault, "nobody")["verdict"] == "nobody has no connection now"
    answer = ask(server, f"/v1/why?seq={vault + 1000}&user=frank")
    assert (answer.status, answer.json["error"]["code"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    "path",
    [
        "connections?limit=0",
        "connections?limit=1001",
        "connections?limit=x",
        "connections?lagging=maybe",
        "connections?cursor=nonsense",
        "subscriptions?connection=17",
        "tables?limit=-1",
        "why",
        "why?seq=1",
        "why?user=x",
        "why?seq=0&user=x",
        "why?seq=x&user=x",
    ],
)
def test_parameters_that_are_not_understood_are_refused(server: Server, path: str) -> None:
    answer = ask(server, f"/v1/{path}")
    assert (answer.status, answer.json["error"]["code"]) == (400, "INVALID_REQUEST")


CLOSED = ["tables", "connections", "subscriptions", "why?seq=1&user=x"]


def test_administration_takes_the_role_dba(server: Server) -> None:
    for path in CLOSED:
        assert ask(server, f"/v1/{path}", None).status == 401
        for role in ("user", "service"):
            assert ask(server, f"/v1/{path}", role).status == 403
        assert ask(server, f"/v1/{path}", "system").status in (200, 404)
    assert ask(server, "/v1/connections/1-abcdef-1", None, "DELETE").status == 401
    assert ask(server, "/v1/connections/1-abcdef-1", "service", "DELETE").status == 403
    assert ask(server, "/v1/connections", method="DELETE").status == 405


def test_under_dev_nobody_is_asked_but_a_page_of_somebody_elses(tmp_path: Path) -> None:
    server = Server(tmp_path)
    try:
        server.start("--dev")
        for path in CLOSED:
            assert ask(server, f"/v1/{path}", None).status in (200, 404)
            elsewhere = {"Origin": "http://elsewhere.example"}
            assert server.request("GET", f"/v1/{path}", **elsewhere).status == 401
    finally:
        server.close()
    server = Server(tmp_path, {"server": {"internal_listen": "127.0.0.1:0"}})
    try:
        server.start("--dev")
        for path in CLOSED:
            assert ask(server, f"/v1/{path}").status == 404, "it has moved to the internal address"
    finally:
        server.close()
