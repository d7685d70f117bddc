"""The JavaScript client as the daemon serves it."""

from pathlib import Path

from helpers.server import running_server

from kalam_notify.http.static_files import STATIC


def test_the_daemon_serves_the_client_as_a_module(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        plain = server.request("GET", "/client.js")
        assert plain.status == 200
        assert plain.headers["content-type"] == "text/javascript; charset=utf-8"
        assert plain.headers["access-control-allow-origin"] == "*"
        assert plain.body == (STATIC / "client.js").read_bytes()
        assert server.request("POST", "/client.js", b"").status == 405
        again = server.request("GET", "/client.js", If_None_Match=plain.headers["etag"])
        assert (again.status, again.body) == (304, b"")


def test_with_an_internal_address_it_is_on_the_public_one(tmp_path: Path) -> None:
    settings = {"server": {"internal_listen": "127.0.0.1:0"}}
    with running_server(tmp_path, settings) as server:
        assert server.request("GET", "/client.js").status == 200
