"""The console in a real browser, against the real daemon; tests/console has what is done there."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from helpers.browser import SECONDS, program
from helpers.server import Server, insert
from helpers.wire import wire

SCENARIOS = Path(__file__).parents[1] / "console"
TABLES = {
    "app.orders": {
        "type": "shared",
        "access": "public",
        "primary_key": "id",
        "columns": {"id": "BigInt", "status": "Text", "total": "Int"},
    },
    "app.guarded": {
        "type": "shared",
        "access": "public",
        "primary_key": "id",
        "policy": "tenant = CLAIM('tenant')",
    },
}
Play = Callable[..., Any]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server under --dev, which the tests of this module share: each has rows of its own."""
    it = Server(tmp_path_factory.mktemp("console"), {"tables": {"declared": TABLES}})
    try:
        it.start("--dev")
        changes = insert("app.loose", {"id": 1, "colour": "red"})
        headers = {"Authorization": f"Bearer {minted(it, 'feeder', 'service')}"}
        assert it.post_raw(json.dumps(changes).encode(), **headers).status == 200
        yield it
    finally:
        it.close()


def minted(server: Server, user: str, role: str, **claims: str) -> str:
    """A token that a server under --dev has made."""
    body = json.dumps({"user": user, "role": role, "claims": claims}).encode()
    answer = server.request("POST", "/v1/admin/token", body)
    assert answer.status == 200, answer.body
    token: str = answer.json["token"]
    return token


def missing() -> str | None:
    if program() is None:
        return "no browser: install Chromium (Debian's package `chromium`)"
    if shutil.which("node") is None:
        return "no Node"
    if not (SCENARIOS / "node_modules" / "playwright-core").exists():
        return "no Playwright: run `npm ci` in tests/console"
    return None


def run(scenario: str, url: str, **settings: Any) -> Any:
    """Play a scenario; what it has told."""
    lack = missing()
    if lack is not None:
        if os.environ.get("CI"):
            pytest.fail(lack)
        pytest.skip(lack)
    given = {
        "scenario": scenario,
        "url": url,
        "browser": program(),
        "timeout": SECONDS * 1000,
        **settings,
    }
    node = shutil.which("node")
    assert node is not None
    done = subprocess.run(
        [node, "run.mjs", json.dumps(given)],
        cwd=SCENARIOS,
        capture_output=True,
        text=True,
        timeout=SECONDS * 10,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def play(server: Server) -> Play:
    def play_it(scenario: str, **settings: Any) -> Any:
        token = minted(server, "feeder", "service")
        return run(scenario, server.url, service=token, **settings)

    return play_it


@pytest.mark.parametrize(
    "scenario",
    [
        "rows_enter_change_and_leave",
        "messages_stand_beside_the_rows",
        "pointing_at_the_rows_holds_them",
        "a_refused_query_says_why",
        "tables_and_columns_are_completed",
        "changes_are_posted_from_a_form",
        "a_token_is_at_hand_and_another_user_is_a_form_away",
        "the_board_shows_what_is_going_on",
        "tables_are_listed_and_queried",
        "everything_is_done_with_a_keyboard",
        "a_screen_reader_can_read_it",
        "it_fits_narrow_and_wide_light_and_dark",
        "a_connection_that_was_closed_is_told",
        "the_modules_reckon_right",
    ],
)
def test_in_the_console(play: Play, scenario: str) -> None:
    play(scenario)


async def test_connections_are_turned_over_and_closed(server: Server, play: Play) -> None:
    crowd = 130
    async with AsyncExitStack() as stack:
        token = minted(server, "crowd", "user")
        for _ in range(crowd):
            await stack.enter_async_context(wire(server.ws_url, token))
        victim = await stack.enter_async_context(
            wire(server.ws_url, minted(server, "victim", "user"))
        )
        await asyncio.to_thread(
            play, "connections_are_turned_over_page_by_page_and_closed", crowd=crowd
        )
        assert await victim.closed() == (1008, "go and rest")


@pytest.mark.parametrize(
    "scenario",
    [
        "subscriptions_tell_how_they_are_found_and_how_far_they_are",
        "why_a_user_did_not_get_a_change",
    ],
)
async def test_of_a_reader_in_the_console(server: Server, play: Play, scenario: str) -> None:
    async with wire(server.ws_url, minted(server, "reader", "user")) as reader:
        await reader.live("mine", "SELECT * FROM app.orders WHERE status = 'read' AND total > 5")
        await asyncio.to_thread(play, scenario)


def test_the_code_it_offers_runs(server: Server, play: Play, tmp_path: Path) -> None:
    code = play("code_is_ready_to_run")
    status = 'it\'s "coded"'
    post, follow = code["curl"].split("# follow the query")
    changed = post.replace('"status":"open"', json.dumps({"status": "x"})[1:-1])
    done = subprocess.run(["bash", "-c", changed], capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout)["accepted"] == 1, done
    row = insert("app.orders", {"id": 1001, "status": status, "total": 1})
    headers = {"Authorization": f"Bearer {minted(server, 'feeder', 'service')}"}
    server.post(row, **headers)
    tail = f"PATH={Path(sys.executable).parent}:$PATH; exec {follow.strip()}"
    first_output(["bash", "-c", tail], "1001", tmp_path)
    (tmp_path / "snippet.py").write_text(code["Python"])
    first_output([sys.executable, "snippet.py"], "1001", tmp_path)
    client = urllib.request.urlopen(f"{server.url}/client.js").read()
    (tmp_path / "client.mjs").write_bytes(client)
    script = re.sub(r'from "http[^"]*"', 'from "./client.mjs"', code["JavaScript"])
    # Node 20 has no WebSocket of its own: the client then takes the package `ws`.
    (tmp_path / "node_modules").symlink_to(SCENARIOS / "node_modules")
    (tmp_path / "snippet.mjs").write_text(script)
    first_output(["node", "snippet.mjs"], "1001", tmp_path)


def first_output(command: list[str], text: str, directory: Path) -> None:
    """Run what does not end by itself until it has said `text`."""
    out = directory / "out.txt"
    with out.open("w") as stream:
        environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, cwd=directory, env=environ
        )
    try:
        until = time.monotonic() + SECONDS
        while text not in out.read_text():
            assert process.poll() is None, out.read_text()
            assert time.monotonic() < until, out.read_text()
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()


def test_without_dev_a_token_of_a_dba_is_asked_for(tmp_path: Path) -> None:
    server = Server(tmp_path)
    try:
        server.start()
        run(
            "without_dev_a_token_of_a_dba_is_asked_for",
            server.url,
            service=server.token("feeder", "service"),
            dba=server.token("boss", "dba"),
        )
    finally:
        server.close()


def test_on_the_internal_address_queries_go_to_the_public_one(
    tmp_path: Path, kept_port: int
) -> None:
    server = Server(tmp_path, {"server": {"internal_listen": f"127.0.0.1:{kept_port}"}})
    try:
        server.start()
        run(
            "on_the_internal_address_queries_go_to_the_public_one",
            f"http://127.0.0.1:{kept_port}",
            others=[server.url],
            service=server.token("feeder", "service"),
        )
        assert server.request("GET", "/").status == 404
    finally:
        server.close()
