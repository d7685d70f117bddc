"""Starting, stopping, reloading, being killed; and what operators can see."""

import asyncio
import hashlib
import json
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from helpers.server import BASE, Server, insert, merged
from helpers.views import View
from helpers.wire import wire
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

StartServer = Callable[..., Server]


def test_health_endpoints_are_open_and_tell_the_version(server: Server) -> None:
    assert server.request("GET", "/livez").status == 200
    assert server.request("GET", "/readyz").status == 200
    health = server.request("GET", "/health")
    assert health.status == 200
    assert health.json["status"] == "ok"
    assert health.json["api_version"] == "v1"


def test_unknown_paths_and_methods_are_told_in_the_error_shape(server: Server) -> None:
    missing = server.request("GET", "/nothing")
    wrong = server.request("DELETE", "/livez")
    assert (missing.status, missing.json["error"]["code"]) == (404, "NOT_FOUND")
    assert (wrong.status, wrong.json["error"]["code"]) == (405, "METHOD_NOT_ALLOWED")
    assert server.request("POST", "/v1/ws", b"").status == 405
    assert server.request("GET", "/v1/ws").status == 426


@pytest.mark.parametrize("path", ["/v1/changes/", "/livez/", "/v1/ws/"])
def test_a_slash_too_many_is_an_unknown_path_not_a_redirect(server: Server, path: str) -> None:
    answer = server.request("GET", path)
    assert (answer.status, answer.json["error"]["code"]) == (404, "NOT_FOUND")


def test_the_last_of_a_name_given_twice_stands_whatever_the_first_was(server: Server) -> None:
    change = b'{"table":5,"table":"ops.twice","change_type":"insert","row_data":{"id":1}}'
    for body in (change, b"[" + change + b"]"):
        assert server.post_raw(body).json["accepted"] == 1
    nonsense = server.post_raw(b'{"table":"ops.twice","table":5}')
    assert (nonsense.status, nonsense.json["error"]["code"]) == (400, "INVALID_CHANGE")


def test_an_api_key_is_the_bytes_that_were_sent(start_server: StartServer) -> None:
    key = "schl\u00fcssel"
    digest = hashlib.sha256(key.encode()).hexdigest()
    keys = [{"name": "feeder", "sha256": digest, "role": "service"}]
    server = start_server(auth={"api_keys": keys})
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as plain:
        plain.sendall(
            b"POST /v1/changes HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n"
            b"X-API-Key: " + key.encode() + b"\r\n\r\n[]"
        )
        assert plain.recv(1000).startswith(b"HTTP/1.1 200")


def test_metrics_want_a_service_and_have_every_name(server: Server) -> None:
    assert server.request("GET", "/metrics").status == 401
    user = {"Authorization": f"Bearer {server.token('u', 'user')}"}
    assert server.request("GET", "/metrics", **user).status == 403
    server.post(insert("ops.rows", {"id": 1}))
    service = {"Authorization": f"Bearer {server.token('s', 'service')}"}
    text = server.request("GET", "/metrics", **service).body.decode()
    for name in (
        "connections",
        'subscriptions{scope="shared"}',
        'subscriptions{scope="user"}',
        'changes_ingested_total{table="ops.rows"}',
        'ingest_requests_total{status="200"}',
        "deliveries_total",
        "delivery_bytes_total",
        "lagging_subscriptions",
        "catch_ups_total",
        "filter_evaluations_total",
        "log_last_seq",
        "log_append_seconds_bucket",
        "fanout_seconds_bucket",
        "ingest_to_socket_seconds_bucket",
        "send_buffer_bytes",
        "build_info{version=",
    ):
        assert f"\nkalam_notify_{name}" in text, name


async def test_deliveries_and_closes_are_counted(start_server: StartServer) -> None:
    server = start_server()
    async with wire(server.ws_url, server.token()) as client:
        await client.live("s", "SELECT * FROM app.orders")
        server.post(*[insert("app.orders", {"id": n}) for n in range(3)])
        await client.hear_type("change")
        assert server.metric("deliveries_total") == 3
        assert server.metric("connections") == 1
        assert server.metric("subscriptions", scope="shared") == 1
    async with asyncio.timeout(10):
        while server.metric("closes_total", code="1000") != 1:
            await asyncio.sleep(0)


async def test_the_internal_address_takes_changes_and_metrics_away(
    start_server: StartServer, kept_port: int
) -> None:
    server = start_server(server={"internal_listen": f"127.0.0.1:{kept_port}"})
    public = server.url
    assert server.post_raw(b"[]").status == 404
    assert server.request("GET", "/metrics").status == 404
    server.url = f"http://127.0.0.1:{kept_port}"
    assert server.post(insert("app.orders", {"id": 1}))["accepted"] == 1
    assert server.request("GET", "/metrics").status == 200
    with pytest.raises(InvalidStatus) as refusal:
        async with connect(server.ws_url, proxy=None):
            pass
    assert refusal.value.response.status_code == 404
    server.url = public
    assert server.request("GET", "/livez").status == 200


async def test_sigterm_drains_closes_1001_and_exits_0(start_server: StartServer) -> None:
    server = start_server(server={"drain_seconds": 3})
    token = server.token()
    async with wire(server.ws_url, token) as first, wire(server.ws_url, token) as second:
        await first.live("s", "SELECT * FROM app.orders")
        server.signal(signal.SIGTERM)
        assert (await first.closed())[0] == 1001
        assert server.request("GET", "/readyz").status == 503
        with pytest.raises(InvalidStatus) as refusal:
            async with connect(server.ws_url, proxy=None):
                pass
        assert refusal.value.response.status_code == 503
        assert (await second.closed())[0] == 1001
    assert server.process is not None
    assert await asyncio.to_thread(server.process.wait, 8) == 0


async def test_a_client_that_ignores_the_close_does_not_hold_up_the_exit(
    start_server: StartServer,
) -> None:
    server = start_server(server={"drain_seconds": 1})
    reader, writer = await asyncio.open_connection(*server.url.removeprefix("http://").split(":"))
    writer.write(
        b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    assert await asyncio.to_thread(server.stop) == 0
    writer.close()


async def test_sighup_takes_new_tables_and_keeps_the_old_configuration_when_it_is_bad(
    start_server: StartServer,
) -> None:
    server = start_server()
    token = server.token()
    async with wire(server.ws_url, token) as client:
        await client.live("old", "SELECT * FROM app.orders")
        server.configure("tables: [nonsense")
        server.signal(signal.SIGHUP)
        await _until_logged(server, "not reloaded")
        assert server.metric("config_last_reload_successful") == 0
        fresh = merged(server.settings, {"tables": {"declared": {"app.fresh": {"type": "shared"}}}})
        fresh["tables"]["declared"]["app.orders"]["access"] = "private"
        server.configure(yaml.safe_dump(fresh))
        server.signal(signal.SIGHUP)
        ended = await client.hear_type("error")
        assert (ended["subscription_id"], ended["code"]) == ("old", "UNAUTHORIZED")
        assert server.post(insert("app.fresh", {"a": 1}))["accepted"] == 1
        assert server.metric("config_last_reload_successful") == 1
        fresh["tables"]["declared"]["app.orders"]["access"] = "public"


async def _until_logged(server: Server, text: str) -> None:
    async with asyncio.timeout(20):
        while text not in server.errors:
            await asyncio.sleep(0.01)


def test_the_process_tells_what_it_takes(start_server: StartServer) -> None:
    server = start_server()
    assert server.process is not None
    text = server.request(
        "GET", "/metrics", Authorization=f"Bearer {server.token('ops', 'service')}"
    ).body.decode()
    told = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("process_"))
    fds = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
    # The request's own socket may have been closed meanwhile.
    assert fds <= float(told["process_open_fds"]) <= fds + 2
    assert float(told["process_resident_memory_bytes"]) > 10_000_000
    assert float(told["process_cpu_seconds_total"]) > 0


async def test_a_subscription_that_does_not_read_is_told_by_its_age(
    start_server: StartServer,
) -> None:
    server = start_server(websocket={"send_buffer_bytes": "16KiB"})
    async with wire(server.ws_url, server.token(), max_queue=1) as client:
        await client.live("s", "SELECT * FROM app.orders")
        client.socket.transport.pause_reading()
        rows = [insert("app.orders", {"id": n, "pad": "x" * 100_000}) for n in range(80)]
        await asyncio.to_thread(server.post, *rows)
        async with asyncio.timeout(60):
            while not server.metric("slowest_subscription_seconds") > 1:
                await asyncio.sleep(0.05)
        client.socket.transport.resume_reading()
        seen = 0
        while seen < 80:
            seen += len((await client.hear_type("change"))["rows"])
        async with asyncio.timeout(60):
            while server.metric("slowest_subscription_seconds") > 0:
                await asyncio.sleep(0.05)


async def test_acknowledged_changes_and_ids_survive_sigkill(start_server: StartServer) -> None:
    server = start_server()
    posted = server.post(
        insert("app.orders", {"id": 1}, id="evt-1"), insert("app.orders", {"id": 2}, id="evt-2")
    )
    server.kill()
    server.start()
    again = server.post(insert("app.orders", {"id": 1, "again": True}, id="evt-1"))
    assert again == {"accepted": 0, "duplicates": 1, "first_seq": None, "last_seq": None}
    more = server.post(insert("app.orders", {"id": 3}))
    assert more["first_seq"] > posted["last_seq"]
    async with wire(server.ws_url, server.token()) as client:
        await client.subscribe("s", "SELECT id FROM app.orders", {})
        await client.hear_type("subscription_ack")
        assert [row["id"] for row in (await client.hear())["rows"]] == [1, 2, 3]
        ack = await client.live("r", "SELECT * FROM app.orders", {"from": posted["first_seq"]})
        assert ack["resumed"] is True
        assert [r["id"] for r in (await client.hear())["rows"]] == [2, 3]


async def test_views_stay_exact_while_the_server_is_killed_again_and_again(
    start_server: StartServer,
) -> None:
    server = start_server()
    view, done = View(), asyncio.Event()

    async def follow() -> None:
        options: dict[str, int] = {}
        while not done.is_set():
            try:
                async with wire(server.ws_url, server.token()) as client:
                    await client.subscribe("s", "SELECT * FROM app.orders WHERE v % 2 = 0", options)
                    while not done.is_set():
                        view.apply(await client.hear())
                        if "end" in view.rows:
                            done.set()
                        options = {"from": view.last_seq}
            except (OSError, EOFError, TimeoutError, Exception) as error:
                if isinstance(error, AssertionError):
                    raise

    following = asyncio.create_task(follow())
    expected: dict[object, int] = {}
    for number in range(60):
        row = {"id": number % 7, "v": number * number % 11}
        await _post_surely(server, insert("app.orders", row, id=f"e{number}"))
        expected[row["id"]] = row["v"]
        if number % 20 == 10:
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
    await _post_surely(server, insert("app.orders", {"id": "end", "v": 0}, id="end"))
    async with asyncio.timeout(60):
        await asyncio.wait({following})
    following.result()
    del view.rows["end"]
    held = {key: row["v"] for key, row in view.rows.items()}
    assert held == {key: v for key, v in expected.items() if v % 2 == 0}


async def _post_surely(server: Server, change: object) -> None:
    assert isinstance(change, dict)
    answer = await asyncio.to_thread(server.post, change)
    assert answer["accepted"] + answer["duplicates"] == 1


async def test_a_thousand_subscribers_are_all_served_through_one_fan_out(
    start_server: StartServer,
) -> None:
    server = start_server()
    token = server.token()

    async def subscriber(number: int, started: asyncio.Barrier) -> list[int]:
        async with wire(server.ws_url, token, ping_interval=None) as client:
            name = f"s{number}" if number % 2 else "same"
            await client.live(name, "SELECT * FROM app.orders WHERE id >= 0")
            await started.wait()
            seen: list[int] = []
            while len(seen) < 5:
                message = await client.hear(60)
                assert message["subscription_id"] == name
                seen += [row["id"] for row in message["rows"]]
            return seen

    started = asyncio.Barrier(1001)
    subscribers = [asyncio.create_task(subscriber(n, started)) for n in range(1000)]
    async with asyncio.timeout(120):
        await started.wait()
    for n in range(5):
        await asyncio.to_thread(server.post, insert("app.orders", {"id": n}))
    async with asyncio.timeout(120):
        seen = await asyncio.gather(*subscribers)
    assert seen == [[0, 1, 2, 3, 4]] * 1000
    assert server.metric("deliveries_total") == 5000


def test_a_server_without_a_way_to_authenticate_does_not_start(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    settings = {key: value for key, value in BASE.items() if key != "auth"}
    file.write_text(yaml.safe_dump(settings))
    done = subprocess.run(
        [sys.executable, "-m", "kalam_notify", "serve", "--config", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "auth" in done.stderr


def test_a_taken_address_is_a_fault_of_configuration(server: Server, tmp_path: Path) -> None:
    taken = server.url.removeprefix("http://")
    done = subprocess.run(
        [sys.executable, "-m", "kalam_notify", "serve", "--dev", "--listen", taken],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert taken in done.stderr


def test_ipv6_and_port_0_can_be_listened_on(start_server: StartServer) -> None:
    server = start_server(server={"listen": "[::1]:0"})
    assert server.url.startswith("http://[::1]:")
    assert server.request("GET", "/livez").status == 200


def test_a_request_head_that_never_ends_is_cut_off(start_server: StartServer) -> None:
    server = start_server(websocket={"handshake_timeout": "500ms"})
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as slow:
        slow.sendall(b"GET /v1/ws HTTP/1.1\r\nHost: x\r\n")
        started = time.monotonic()
        assert slow.recv(1000) == b""
        assert time.monotonic() - started < 20


def test_json_logs_are_one_object_a_line(start_server: StartServer) -> None:
    server = start_server(logging={"format": "json"})
    server.stop()
    lines = [json.loads(line) for line in server.errors.splitlines()]
    assert any("draining" in line["message"] for line in lines)


@pytest.mark.parametrize("position", [2, 3, 5])
async def test_after_an_older_copy_was_put_back_everybody_begins_anew(
    start_server: StartServer, position: int
) -> None:
    server = start_server()
    server.post(insert("app.orders", {"id": 1}), insert("app.orders", {"id": 2}))
    data = server.directory / "data"
    with closing(sqlite3.connect(data / "kalam.db")) as connection:
        connection.execute("VACUUM INTO ?", (str(server.directory / "copy"),))
    server.post(*[insert("app.orders", {"id": n}) for n in (3, 4, 5)])
    server.kill()
    for file in data.glob("kalam.db*"):
        file.unlink()
    (server.directory / "copy").rename(data / "kalam.db")
    server.start()
    server.post(*[insert("app.orders", {"id": n}) for n in (6, 7, 8)])
    view = View()
    async with wire(server.ws_url, server.token()) as client:
        options = {"from": position, "on_gap": "snapshot"}
        ack = await client.live("s", "SELECT * FROM app.orders", options)
        assert ack["resumed"] is False
        async with wire(server.ws_url, server.token()) as fresh:
            await fresh.subscribe("s", "SELECT * FROM app.orders", {})
            while not view.ready:
                view.apply(await fresh.hear())
    assert set(view.rows) == {1, 2, 6, 7, 8}
    assert all(int(view.rows[n]["_seq"]) > 5 for n in (6, 7, 8))


def test_being_killed_is_no_older_copy(start_server: StartServer) -> None:
    server = start_server()
    for number in range(3):
        posted = server.post(insert("app.orders", {"id": number}))
        server.kill()
        server.start()
    assert "older copy" not in server.errors
    assert server.metric("log_last_seq") == posted["last_seq"]
