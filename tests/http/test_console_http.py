"""The console's page, its files and its tokens, as HTTP tells them; a browser is for elsewhere."""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.ports import reserve
from helpers.server import Answer, Server

from kalam_notify.http.console import policy
from kalam_notify.http.static_files import STATIC, load

CONSOLE = STATIC / "console"
FILES = sorted(path.name for path in CONSOLE.iterdir())


@pytest.fixture
def kept_port() -> Iterator[int]:
    with reserve() as kept:
        yield kept.getsockname()[1]


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    it = Server(tmp_path_factory.mktemp("dev"))
    try:
        yield it.start("--dev")
    finally:
        it.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    it = Server(tmp_path_factory.mktemp("closed"))
    try:
        yield it.start()
    finally:
        it.close()


def as_(server: Server, role: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {server.token('boss', role)}"}


def test_under_dev_the_page_comes_to_everybody(dev: Server) -> None:
    page = dev.request("GET", "/")
    assert page.status == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.body == (CONSOLE / "index.html").read_bytes()
    again = dev.request("GET", "/", If_None_Match=page.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    assert dev.request("POST", "/", b"").status == 405


def test_elsewhere_it_takes_the_role_dba_and_tells_by_its_status(server: Server) -> None:
    closed = server.request("GET", "/")
    assert closed.status == 401
    assert closed.headers["www-authenticate"] == "Bearer"
    assert closed.body == (CONSOLE / "index.html").read_bytes(), "the page asks for a token"
    assert server.request("GET", "/", If_None_Match=closed.headers["etag"]).status == 401
    assert server.request("GET", "/", Authorization="Bearer nonsense").status == 401
    assert server.request("GET", "/", **as_(server, "service")).status == 403
    for role in ("dba", "system"):
        assert server.request("GET", "/", **as_(server, role)).status == 200


def test_a_page_of_somebody_elses_is_told_401_under_dev(dev: Server) -> None:
    elsewhere = {"Origin": "http://elsewhere.example"}
    assert dev.request("GET", "/", **elsewhere).status == 401
    assert dev.request("POST", "/v1/admin/token", b"{}", **elsewhere).status == 401
    assert dev.request("POST", "/v1/admin/token", b"{}", Origin=dev.url).status == 200


def guarded(answer: Answer) -> None:
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "style-src 'self';" in policy
    assert "connect-src 'self';" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert "require-trusted-types-for 'script'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "access-control-allow-origin" not in answer.headers


def test_all_of_it_is_under_a_strict_policy(server: Server, dev: Server) -> None:
    guarded(server.request("GET", "/"))
    guarded(dev.request("GET", "/"))
    for name in FILES:
        if name != "index.html":
            answer = server.request("GET", f"/console/{name}")
            assert (answer.status, answer.body) == (200, (CONSOLE / name).read_bytes())
            guarded(answer)


@pytest.mark.parametrize(
    "name", ["x.js", "index.html", "..%2fclient.js", "%2e%2e/client.js", "main.js/", ""]
)
def test_there_is_nothing_but_its_files(server: Server, name: str) -> None:
    assert server.request("GET", f"/console/{name}").status == 404


def test_the_client_is_at_hand_for_it(server: Server) -> None:
    assert server.request("GET", "/console/client.js").body == load("client.js").body


@pytest.mark.parametrize("name", FILES)
def test_no_file_names_a_foreign_host_or_needs_what_the_policy_forbids(name: str) -> None:
    text = (CONSOLE / name).read_text()
    hosts = set(re.findall(r"(?:https?|wss?):?//([\w.]+)", text))
    assert hosts <= {"www.w3.org"}, "but the name of a namespace"
    for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "new Function"):
        assert forbidden not in text
    assert not re.search(r"<[^>]+\s(style|on\w+)=", text), "nothing inline"
    imported = re.findall(r'(?:from|import) "\./([\w.]+)"', text)
    assert set(imported) <= {*FILES, "client.js"}


def test_the_files_are_small(server: Server) -> None:
    sizes = {name: len(load(f"console/{name}").compressed) for name in FILES}
    assert sum(sizes.values()) < 64 * 1024, sizes


def test_tokens_are_minted_under_dev_only(server: Server, dev: Server) -> None:
    asked = json.dumps({"user": "ada", "role": "user", "claims": {"tenant": "a"}}).encode()
    told = dev.request("POST", "/v1/admin/token", asked)
    assert told.status == 200
    body = told.json["token"].split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    assert (claims["sub"], claims["role"], claims["tenant"]) == ("ada", "user", "a")
    assert dev.request("POST", "/v1/admin/token").json["role"] == "service"
    assert server.request("POST", "/v1/admin/token", asked).status == 401
    refused = server.request("POST", "/v1/admin/token", asked, **as_(server, "dba"))
    assert (refused.status, refused.json["error"]["code"]) == (403, "FORBIDDEN")


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{",
        b"\xff",
        b'{"user": ""}',
        b'{"user": 5}',
        b'{"user": "a\\nb"}',
        b'{"role": "anonymous"}',
        b'{"role": "king"}',
        b'{"claims": []}',
        b'{"claims": {"sub": "x"}}',
        b'{"claims": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001,
    ],
)
def test_what_no_token_may_say_is_refused(dev: Server, body: bytes) -> None:
    refused = dev.request("POST", "/v1/admin/token", body)
    assert (refused.status, refused.json["error"]["code"]) == (400, "INVALID_REQUEST")


def test_too_large_a_wish_for_a_token_is_refused(dev: Server) -> None:
    body = json.dumps({"claims": {"x": "y" * 70_000}}).encode()
    assert dev.request("POST", "/v1/admin/token", body).status == 413


def test_on_an_internal_address_the_policy_lets_it_reach_the_public_one(
    tmp_path: Path, kept_port: int
) -> None:
    server = Server(tmp_path, {"server": {"internal_listen": f"127.0.0.1:{kept_port}"}})
    try:
        server.start()
        public = server.url
        assert server.request("GET", "/").status == 404
        server.url = f"http://127.0.0.1:{kept_port}"
        page = server.request("GET", "/")
        assert page.status == 200
        ws = public.replace("http", "ws")
        assert f"connect-src 'self' {ws};" in page.headers["content-security-policy"]
        told = server.request("GET", "/v1/admin/console").json
        assert (told["server"], told["is_open"], told["mints_tokens"]) == (public, True, False)
        odd = server.request("GET", "/", Host="x;script-src *")
        assert f"connect-src 'self' {ws};" in odd.headers["content-security-policy"]
    finally:
        server.close()


def test_the_policy_is_one_line_of_known_words() -> None:
    assert "connect-src 'self';" in policy(None)
    assert "connect-src 'self' wss://a.example:1;" in policy("https://a.example:1")
