"""Tokens whose key is not there yet, as a connection meets them."""

import asyncio
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import jwt as pyjwt
import pytest
from auth_helpers import SECRET, Issuer, KeySetServer, claims, new_private_key, public_pem
from helpers.server import Server, running_server
from helpers.wire import wire
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode


class HeldIssuer(Issuer):
    """Publishes its keys once the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.published = threading.Event()

    def key_set(self) -> bytes:
        self.published.wait(20)
        return super().key_set()


@pytest.mark.parametrize("known", [True, False])
async def test_what_is_said_while_the_keys_are_fetched_is_heard_afterwards_in_order(
    key_set_server: KeySetServer, tmp_path: Path, known: bool
) -> None:
    issuer = HeldIssuer()
    issuer.make("k1")
    key_set_server.body = issuer
    jwt = {"secret": None, "jwks_url": key_set_server.url, "algorithms": ["ES256"]}
    with running_server(tmp_path, {"auth": {"jwt": jwt, "anonymous": True}}) as server:
        async with wire(server.ws_url) as client, wire(server.ws_url) as other:
            token = issuer.sign("k1", named="" if known else "k2")
            await client.say(type="authenticate", method="jwt", token=token)
            await client.subscribe("first", "SELECT * FROM app.notes")
            await client.say(type="unsubscribe", subscription_id="first")
            await client.subscribe("second", "SELECT * FROM app.notes", {"last_rows": 0})
            # Another connection is served meanwhile.
            await other.live("s", "SELECT * FROM app.orders")
            issuer.published.set()
            if not known:
                await client.hear_type("auth_error")
                assert (await client.closed())[0] == 1008
                return
            assert (await client.hear_type("auth_success"))["user"] == "alice"
            assert (await client.hear_type("subscription_ack"))["subscription_id"] == "first"
            await client.hear_type("initial_data_batch")
            assert (await client.hear_type("subscription_ack"))["subscription_id"] == "second"
            await client.hear_type("initial_data_batch")


ALGORITHMS = ["ES256"]


def settings_for(published: KeySetServer, **more: object) -> dict[str, object]:
    jwt = {"secret": SECRET, "jwks_url": published.url, "algorithms": ["HS256", *ALGORITHMS]}
    return {"auth": {"jwt": jwt}, "metrics": {"open": True}, **more}


async def status_of(server: Server, token: str) -> tuple[int, str | None]:
    """What an upgrade with this token is answered, and its Retry-After."""
    headers = {"Authorization": f"Bearer {token}"}
    try:
        async with connect(server.ws_url, additional_headers=headers, proxy=None):
            return 101, None
    except InvalidStatus as refused:
        response = refused.response
        return response.status_code, response.headers.get("retry-after")


async def until_ready(server: Server) -> None:
    async with asyncio.timeout(20):
        while server.request("GET", "/readyz").status != 200:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("workers", [1, 2])
async def test_while_no_keys_can_be_had_nobody_is_told_no(
    key_set_server: KeySetServer, issuer: Issuer, tmp_path: Path, workers: int
) -> None:
    issuer.make("k1")
    key_set_server.body, key_set_server.status = issuer, 500
    token = issuer.sign("k1", role="service")
    with running_server(
        tmp_path, settings_for(key_set_server, server={"workers": workers})
    ) as server:
        ready = server.request("GET", "/readyz")
        assert (ready.status, ready.body) == (503, b"no keys for tokens yet\n")
        assert server.request("GET", "/health").status == 503
        for _ in range(10):
            status, retry_after = await status_of(server, token)
            assert status == 503
            assert int(retry_after or 0) > 0
        answer = server.post_raw(b"[]", Authorization=f"Bearer {token}")
        assert (answer.status, answer.json["error"]["code"]) == (503, "OVERLOADED")
        assert int(answer.headers["retry-after"]) > 0
        async with wire(server.ws_url) as client:
            await client.say(type="authenticate", method="jwt", token=token)
            assert (await client.closed())[0] == 1013
        assert (await status_of(server, "nonsense"))[0] == 401, "this one no key could verify"
        assert (await status_of(server, server.token()))[0] == 101, "this one needs no key set"
        assert server.metric("auth_failures_total", reason="keys_unavailable") >= 12

        key_set_server.status = 200
        async with asyncio.timeout(60):
            in_a_row = 0
            while in_a_row < 20:  # by then every worker has been asked
                in_a_row = in_a_row + 1 if (await status_of(server, token))[0] == 101 else 0
        assert server.request("GET", "/readyz").status == 200
        key_set_server.status = 500
        assert (await status_of(server, token))[0] == 101, "keys that were had stay"


def test_tail_goes_on_trying_until_there_are_keys(
    key_set_server: KeySetServer, issuer: Issuer, tmp_path: Path
) -> None:
    issuer.make("k1")
    key_set_server.body, key_set_server.status = issuer, 500
    with running_server(tmp_path, settings_for(key_set_server)) as server:
        command = [sys.executable, "-m", "kalam_notify", "tail", "SELECT * FROM app.orders"]
        tail = subprocess.Popen(
            [*command, "--url", server.url, "--json", "--token", issuer.sign("k1")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert tail.stderr is not None
        assert tail.stdout is not None
        assert "503" in tail.stderr.readline()
        assert "503" in tail.stderr.readline()
        key_set_server.status = 200
        assert "auth_success" in tail.stdout.readline()
        tail.send_signal(signal.SIGINT)
        tail.communicate(timeout=60)
        assert tail.returncode == 0


async def test_a_key_that_was_just_published_holds_at_once_and_made_up_ones_do_not(
    key_set_server: KeySetServer, issuer: Issuer, tmp_path: Path
) -> None:
    issuer.make("k1")
    key_set_server.body = issuer
    with running_server(tmp_path, settings_for(key_set_server)) as server:
        await until_ready(server)
        for number in range(3):
            assert (await status_of(server, issuer.sign("k1", named=f"made-up-{number}")))[0] == 401
        issuer.make("k2")
        assert (await status_of(server, issuer.sign("k2")))[0] == 101
        async with wire(server.ws_url) as client:
            await client.authenticate(issuer.sign("k2"))


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_reload_reads_what_the_settings_point_at(
    key_set_server: KeySetServer, issuer: Issuer, tmp_path: Path, workers: int
) -> None:
    for kid in ("old", "new"):
        issuer.make(kid)
    key_set_server.body = issuer
    text = issuer.sign("old")
    with running_server(
        tmp_path, settings_for(key_set_server, server={"workers": workers})
    ) as server:
        await until_ready(server)
        async with asyncio.timeout(20):
            while (await status_of(server, text))[0] != 101:
                await asyncio.sleep(0.05)
        issuer.withdraw("old")
        server.signal(signal.SIGHUP)
        async with asyncio.timeout(20):
            while (await status_of(server, text))[0] != 401:
                await asyncio.sleep(0.05)
        assert (await status_of(server, issuer.sign("new")))[0] == 101


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_reload_takes_another_key_from_the_same_file(tmp_path: Path, workers: int) -> None:
    old, new = new_private_key("ES256"), new_private_key("ES256")
    file = tmp_path / "key.pem"
    file.write_text(public_pem(old))
    jwt = {"secret": None, "public_key": str(file), "algorithms": ALGORITHMS}
    settings = {"auth": {"jwt": jwt}, "server": {"workers": workers}}
    olds, news = (pyjwt.encode(claims(), key, "ES256") for key in (old, new))
    with running_server(tmp_path, settings) as server:
        assert (await status_of(server, olds))[0] == 101
        assert (await status_of(server, news))[0] == 401
        file.write_text("nothing of use")
        server.signal(signal.SIGHUP)
        async with asyncio.timeout(20):
            while "was not reloaded" not in server.errors:
                await asyncio.sleep(0.05)
        assert (await status_of(server, olds))[0] == 101, "a bad file changes nothing"
        file.write_text(public_pem(new))
        server.signal(signal.SIGHUP)
        async with asyncio.timeout(20):
            while [(await status_of(server, text))[0] for text in (olds, news)] != [401, 101]:
                await asyncio.sleep(0.05)


async def test_frames_sent_behind_a_handshake_that_waits_for_its_key_are_heard(
    key_set_server: KeySetServer, tmp_path: Path
) -> None:
    """A client need not wait for the 101: what comes right behind the request is kept."""
    issuer = HeldIssuer()
    issuer.make("k1")
    key_set_server.body = issuer
    with running_server(tmp_path, settings_for(key_set_server)) as server:
        host, port = server.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        request = (
            f"GET /v1/ws HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            f"Authorization: Bearer {issuer.sign('k1')}\r\n\r\n"
        )
        subscribe = {"id": "s", "sql": "SELECT * FROM app.notes"}
        message = json.dumps({"type": "subscribe", "subscription": subscribe}).encode()
        frame = Frame(Opcode.TEXT, message).serialize(mask=True)
        writer.write(request.encode() + frame)
        async with wire(server.ws_url, server.token()) as other:
            await other.live("t", "SELECT * FROM app.orders")
        issuer.published.set()
        async with asyncio.timeout(20):
            assert b"101" in await reader.readline()
            heard = b""
            while b"subscription_ack" not in heard:
                heard += await reader.read(4096)
        assert heard.index(b"auth_success") < heard.index(b"subscription_ack")
        writer.close()


async def test_a_stop_waits_for_no_keys(key_set_server: KeySetServer, tmp_path: Path) -> None:
    issuer = HeldIssuer()
    issuer.make("k1")
    key_set_server.body = issuer
    settings = settings_for(key_set_server, server={"drain_seconds": 0})
    with running_server(tmp_path, settings) as server:
        async with wire(server.ws_url) as client:
            await client.say(type="authenticate", method="jwt", token=issuer.sign("k1"))
            waiting = asyncio.create_task(status_of(server, issuer.sign("k1")))
            async with wire(server.ws_url, server.token()) as other:
                await other.live("t", "SELECT * FROM app.orders")
            assert await asyncio.to_thread(server.stop) == 0
            waiting.cancel()
        assert "Traceback" not in server.errors
        issuer.published.set()
