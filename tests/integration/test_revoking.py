"""POST /v1/admin/revoke: every worker honours it, for new requests and live connections."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.server import Answer, Server, insert
from helpers.wire import Wire, wire
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

StartServer = Callable[..., Server]


@pytest.fixture(scope="module", params=[1, 3], ids=["one worker", "three workers"])
def workers(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


def revoke(server: Server, role: str | None = "dba", **asked: Any) -> Answer:
    headers = {"Content_Type": "application/json"}
    if role is not None:
        headers["Authorization"] = f"Bearer {server.token('boss', role)}"
    return server.request("POST", "/v1/admin/revoke", json.dumps(asked).encode(), **headers)


async def status_of(server: Server, token: str) -> int:
    """What an upgrade with this token is answered."""
    try:
        async with connect(
            server.ws_url, additional_headers={"Authorization": f"Bearer {token}"}, proxy=None
        ):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


async def refused_everywhere(server: Server, token: str, workers: int) -> None:
    """So many upgrades are refused that every worker has been asked."""
    for _ in range(1 if workers == 1 else 40):
        assert await status_of(server, token) == 401


async def test_a_revoked_users_tokens_stop_to_hold_and_their_connections_end(
    server: Server, workers: int
) -> None:
    token, bobs = server.token("alice"), server.token("bob")
    async with wire(server.ws_url, bobs) as bob:
        connections = [await connect_with(server, token) for _ in range(4 * workers)]
        answer = revoke(server, user="alice")
        assert answer.status == 200
        assert answer.json["user"] == "alice"
        assert answer.json["until"] > time.time() + 300 * 86400
        for client in connections:
            heard = await client.hear_type("auth_error")
            assert "revoked" in heard["message"]
            assert await client.closed() == (1008, "token revoked")
        await refused_everywhere(server, token, workers)
        async with wire(server.ws_url) as client:
            await client.say(type="authenticate", method="jwt", token=token)
            await client.hear_type("auth_error")
            assert (await client.closed())[0] == 1008
        assert await bob.settled(bobs) == []
    async with wire(server.ws_url, server.token("alice")) as client:
        await client.live("s", "SELECT * FROM app.notes")


async def connect_with(server: Server, token: str) -> Wire:
    headers = {"Authorization": f"Bearer {token}"}
    client = Wire(await connect(server.ws_url, additional_headers=headers, proxy=None))
    await client.hear_type("auth_success")
    return client


async def test_one_token_is_revoked_by_its_id(server: Server, workers: int) -> None:
    lost, kept = (server.token("carol", jti=name) for name in ("lost-1", "kept-1"))
    client, other = await connect_with(server, lost), await connect_with(server, kept)
    assert revoke(server, token_id="lost-1").json["token_id"] == "lost-1"
    await client.hear_type("auth_error")
    assert (await client.closed())[0] == 1008
    await refused_everywhere(server, lost, workers)
    assert await status_of(server, kept) == 101
    assert await other.settled(kept) == []


async def test_posts_with_a_revoked_token_are_refused(server: Server, workers: int) -> None:
    token = server.token("loader", "service")
    headers = {"Authorization": f"Bearer {token}"}
    server.post(insert("app.events", {"n": 1}), **headers)
    assert revoke(server, user="loader").status == 200
    # From the answer on, by whichever worker.
    body = json.dumps(insert("app.events", {"n": 2})).encode()
    answers = [server.post_raw(body, **headers).status for _ in range(20 * workers)]
    assert set(answers) == {401}
    body = json.dumps(insert("app.events", {"n": 2})).encode()
    assert server.post_raw(body, **headers).status == 401
    assert server.metric("auth_failures_total", reason="revoked") > 0
    fresh = {"Authorization": f"Bearer {server.token('loader', 'service')}"}
    server.post(insert("app.events", {"n": 3}), **fresh)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"alice",
        b'{"user": 5}',
        b'{"user": ""}',
        b'{"user": "a", "token_id": "b"}',
        b'{"user": "a", "until": 1}',
        b'{"user": "a", "until": "soon"}',
        b'{"user": "a", "until": 1e400}',
        b'{"user": "a", "until": 1e300}',
        b'{"users": "a"}',
    ],
)
def test_what_is_no_revocation_is_refused(server: Server, body: bytes) -> None:
    headers = {"Authorization": f"Bearer {server.token('boss', 'dba')}"}
    answer = server.request("POST", "/v1/admin/revoke", body, **headers)
    assert (answer.status, answer.json["error"]["code"]) == (400, "INVALID_REQUEST")


def test_revoking_takes_the_role_dba(server: Server) -> None:
    assert revoke(server, None, user="x").status == 401
    for role in ("user", "service"):
        assert revoke(server, role, user="x").status == 403
    assert server.request("GET", "/v1/admin/revoke").status == 405


async def test_a_revocation_outlives_the_server(start_server: StartServer, workers: int) -> None:
    server = start_server()
    token, other = server.token("alice"), server.token("bob")
    assert revoke(server, user="alice").status == 200
    server.kill()
    server.start()
    await refused_everywhere(server, token, workers)
    assert await status_of(server, other) == 101
    assert server.stop() == 0
    (server.directory / "data" / "kalam.revoked").write_text("no revocation\n")
    with pytest.raises(AssertionError, match=r"kalam\.revoked: not a list of revocations"):
        server.start()


async def test_under_dev_and_on_the_internal_address_nobody_is_asked_who_they_are(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = Server(tmp_path, {"server": {"internal_listen": "127.0.0.1:0"}})
    try:
        server.start("--dev")
        assert revoke(server, None, user="x").status == 404, "it has moved to the internal address"
    finally:
        server.close()
    server = Server(tmp_path)
    try:
        server.start("--dev")
        assert revoke(server, None, user="x").status == 200
        headers = {"Origin": "http://elsewhere.example"}
        body = b'{"user": "x"}'
        assert server.request("POST", "/v1/admin/revoke", body, **headers).status == 401
        headers = {"Origin": server.url}
        assert server.request("POST", "/v1/admin/revoke", body, **headers).status == 200
    finally:
        server.close()
