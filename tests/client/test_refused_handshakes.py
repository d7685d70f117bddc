"""The JavaScript client and a daemon that refuses its handshake: it stays away, and says why."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.browser import Browser, Site, program
from helpers.server import Server

from kalam_notify.http.static_files import STATIC

JS = Path(__file__).parents[2] / "clients" / "js"
SECONDS = 60.0
ALLOWED = "https://app.example.com"
REFUSED = {
    "name": "AuthenticationError",
    "code": "AUTHENTICATION_FAILED",
    "status": 403,
    "message": "this origin is not allowed",
}

NODE = """
import WebSocket from "ws";
const [module, url, origin] = process.argv.slice(1);
const { connect } = await import(module);
class Socket extends WebSocket { constructor(url) { super(url, { origin }); } }
const db = connect(url, { WebSocket: Socket });
const live = db.live("SELECT * FROM app.orders");
const told = await live.ready.then(() => ({ name: live.status }), (error) => error);
const { name, code, status, message } = told;
console.log(JSON.stringify({ name, code, status, message }));
db.close();
"""

PAGE = """<!doctype html><script src="/tell.js"></script><script type="module">
import { connect } from "%(url)s/client.js";
const live = connect("%(url)s").live("SELECT * FROM app.orders");
const told = await live.ready.then(() => ({ name: live.status }), (error) => error);
const { name, code, status, message } = told;
tell("end", { name, code, status, message });
</script>"""


def settings(*origins: str) -> dict[str, Any]:
    return {"server": {"allowed_origins": list(origins)}, "auth": {"anonymous": True}}


def missing(cure: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(cure)
    pytest.skip(cure)


@pytest.mark.parametrize("origin", [ALLOWED, "https://elsewhere.example.com"])
def test_node_is_told_by_its_socket(start_server: Callable[..., Server], origin: str) -> None:
    node = shutil.which("node")
    if node is None or not (JS / "node_modules" / "ws").exists():
        missing(f"install Node, and run `npm ci` in {JS}")
    server = start_server(**settings(ALLOWED))
    module = (STATIC / "client.js").as_uri()
    done = subprocess.run(
        [str(node), "--input-type=module", "-e", NODE, module, server.url, origin],
        cwd=JS,
        capture_output=True,
        timeout=SECONDS,
        text=True,
        check=True,
    )
    expected = {"name": "live"} if origin == ALLOWED else REFUSED
    assert json.loads(done.stdout) == expected


@pytest.mark.parametrize("is_allowed", [True, False])
def test_a_page_asks_why(
    start_server: Callable[..., Server], tmp_path: Path, is_allowed: bool
) -> None:
    browser = program()
    if browser is None:
        missing("install Chromium (Debian's package `chromium`)")
    site = Site({})
    try:
        server = start_server(**settings(site.url if is_allowed else ALLOWED))
        site.pages["/"] = PAGE % {"url": server.url}
        opened = Browser(str(browser), tmp_path / "browser", site.url + "/")
        try:
            assert site.told("end") == ({"name": "live"} if is_allowed else REFUSED)
        finally:
            opened.close()
    finally:
        site.close()


def test_whoever_asks_without_an_upgrade_is_told_of_a_refused_origin(
    start_server: Callable[..., Server],
) -> None:
    server = start_server(**settings(ALLOWED))
    for origin, status in ((ALLOWED, 426), ("https://elsewhere.example.com", 403)):
        answer = server.request("GET", "/v1/ws", Origin=origin)
        assert answer.status == status
        # Whatever it is, a page may read it.
        assert answer.headers["access-control-allow-origin"] == "*"
    assert server.request("GET", "/v1/ws").status == 426
