"""Hooks of a real server: signed and secret posts in other programs' shapes, end to end."""

import gzip
import http.client
import json
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from helpers.server import Answer, Server, running_server
from workers_kit import until

from kalam_notify.auth.webhooks import sign, signing_key

FIXTURES = Path(__file__).parents[1] / "formats" / "fixtures"
NEW, OLD, OTHER = ("whsec_" + letter * 32 for letter in "ABC")
PLAIN = "hush-plain-hook-secret-4718"
SHARED = {"type": "shared", "access": "public", "primary_key": "id"}
SETTINGS: dict[str, Any] = {
    "tables": {"declared": {"shop.orders": SHARED, "shop.lines": SHARED, "app.mapped": SHARED}},
    "ingest": {
        "tables": {"elsewhere.orders": "app.mapped"},
        "hooks": {
            "signed": {"secrets": [NEW, OLD]},
            "plain": {"secrets": PLAIN, "tables": ["shop.orders"], "format": "supabase"},
        },
    },
}


def fixture(name: str, line: int = 0) -> bytes:
    return (FIXTURES / f"{name}.jsonl").read_bytes().splitlines()[line]


def supabase(key: int, **changed: Any) -> bytes:
    payload = {"type": "INSERT", "schema": "shop", "table": "orders", "record": {"id": key}}
    return json.dumps({**payload, "old_record": None, **changed}).encode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("hooks"), SETTINGS) as it:
        yield it


def signed(body: bytes, id: str, secret: str = NEW, at: float | None = None) -> dict[str, str]:
    key, seconds = signing_key(secret), str(int(time.time() if at is None else at))
    assert key is not None
    signature = sign(key, id, seconds, body).decode()
    head = {"webhook-id": id, "webhook-timestamp": seconds, "Content-Type": "application/json"}
    return {**head, "webhook-signature": f"v1,{signature}"}


def post(server: Server, name: str, body: bytes, headers: Mapping[str, str]) -> Answer:
    sent = {"Content-Type": "application/json", **headers}
    return server.request("POST", f"/v1/hooks/{name}", body, **sent)


def test_a_signed_message_is_stored_once_however_often_it_comes(server: Server) -> None:
    body = supabase(1)
    first = post(server, "signed", body, signed(body, "msg_1"))
    assert (first.status, first.json["accepted"]) == (200, 1)
    again = post(server, "signed", body, signed(body, "msg_1", OLD))
    assert (again.status, again.json["accepted"], again.json["duplicates"]) == (200, 0, 1)
    back = supabase(1, type="DELETE", record=None, old_record={"id": 1})
    assert post(server, "signed", back, signed(back, "msg_2")).json["accepted"] == 1
    # The stored row is another by now; its id is still known.
    late = post(server, "signed", body, signed(body, "msg_1"))
    assert late.json["duplicates"] == 1


def test_what_is_not_signed_by_one_of_its_secrets_is_refused(server: Server) -> None:
    body = supabase(2)
    wrong = [
        {},
        signed(body, "msg_3", OTHER),
        signed(body + b" ", "msg_3"),
        signed(body, "msg_3", at=time.time() - 400),
        {**signed(body, "msg_3"), "webhook-id": "msg_4"},
        {"Authorization": f"Bearer {NEW}"},
        {"Authorization": f"Bearer {server.token('feeder', 'service')}"},
    ]
    for headers in wrong:
        answer = post(server, "signed", body, headers)
        assert (answer.status, answer.json["error"]["code"]) == (401, "UNAUTHORIZED")


def test_a_packed_body_is_signed_as_it_was_before(server: Server) -> None:
    body = supabase(5)
    headers = {**signed(body, "msg_5"), "Content-Encoding": "gzip"}
    assert post(server, "signed", gzip.compress(body), headers).json["accepted"] == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {PLAIN}"},
        {"X-Hasura-Webhook-Secret": PLAIN},
        {"X-Supabase-Webhook-Secret": PLAIN},
    ],
)
def test_a_secret_in_a_header_lets_in(server: Server, headers: dict[str, str]) -> None:
    assert post(server, "plain", supabase(7), headers).status == 200
    refused = {name: f"{value}x" for name, value in headers.items()}
    assert post(server, "plain", supabase(7), refused).status == 401


def test_a_hook_keeps_to_its_tables_and_its_format(server: Server) -> None:
    headers = {"X-Webhook-Secret": PLAIN}
    other = post(server, "plain", supabase(7, table="lines"), headers)
    assert (other.status, other.json["error"]["code"]) == (403, "FORBIDDEN")
    assert post(server, "plain", fixture("maxwell", 3), headers).status == 400
    mapped = supabase(7, schema="elsewhere")
    assert post(server, "plain", mapped, headers).status == 403
    assert post(server, "signed", mapped, signed(mapped, "msg_6")).json["accepted"] == 1


def test_there_is_no_other_hook_and_no_other_method(server: Server) -> None:
    assert post(server, "none", b"{}", {}).status == 404
    assert server.request("GET", "/v1/hooks/signed").status == 405
    assert server.request("POST", "/v1/hooks/").status == 404


def test_debezium_posts_with_its_own_headers(server: Server) -> None:
    body = fixture("debezium_with_schema")
    headers = {**signed(body, "msg_f1"), "X-DEBEZIUM-__DEBEZIUM.NEWKEY": "e30="}
    assert post(server, "signed", body, headers).json["accepted"] == 1
    # After a restart the same event comes under another message id.
    again = post(server, "signed", body, signed(body, "msg_f2"))
    assert (again.json["accepted"], again.json["duplicates"]) == (0, 1)


def test_cloudevents_come_structured_in_batches_and_binary(server: Server) -> None:
    url, token = "/v1/changes", server.token("feeder", "service")
    bearer = {"Authorization": f"Bearer {token}"}

    def event(key: int, id: str) -> bytes:
        head = {"specversion": "1.0", "id": id, "source": "/s", "type": "shop.orders.created"}
        return json.dumps({**head, "data": {"id": key, "via": "event"}}).encode()

    one = {**bearer, "Content-Type": "application/cloudevents+json; charset=UTF-8"}
    assert server.request("POST", url, event(50, "a"), **one).json["accepted"] == 1
    assert server.request("POST", url, event(51, "a"), **one).json["duplicates"] == 1
    many = {**bearer, "Content-Type": "application/cloudevents-batch+json"}
    batch = b"[" + event(52, "b") + b"," + event(53, "c") + b"]"
    assert server.request("POST", url, batch, **many).json["accepted"] == 2
    binary = {
        **bearer,
        "Content-Type": "application/json",
        "ce-specversion": "1.0",
        "ce-type": "shop.orders.updated",
        "ce-source": "/s",
        "ce-id": "d%20d",
    }
    row = b'{"id": 54, "via": "headers"}'
    assert server.request("POST", url, row, **binary).json["accepted"] == 1
    assert server.request("POST", url, row, **binary).json["duplicates"] == 1
    other = {**binary, "ce-id": "e"}
    assert server.request("POST", url, row, **other).json["accepted"] == 1


def test_a_format_may_be_asked_for_in_the_address(server: Server) -> None:
    token = server.token("feeder", "service")
    bearer = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    body = fixture("maxwell", 3)
    asked = server.request("POST", "/v1/changes?format=maxwell", body, **bearer)
    assert asked.json["accepted"] == 1
    other = server.request("POST", "/v1/changes?format=hasura", body, **bearer)
    assert (other.status, other.json["error"]["message"][:14]) == (400, "a Hasura event")
    none = server.request("POST", "/v1/changes?format=xml", body, **bearer)
    assert none.json["error"]["field"] == "format"


def test_a_reload_changes_secrets_and_hooks(tmp_path: Path) -> None:
    with running_server(tmp_path, SETTINGS) as server:
        body = supabase(1)
        assert post(server, "signed", body, signed(body, "m1", OLD)).status == 200
        server.settings["ingest"] = {"hooks": {"signed": {"secrets": [NEW]}}}
        server.configure(yaml.safe_dump(server.settings))
        server.signal(signal.SIGHUP)
        until(lambda: "configuration reloaded" in server.errors, "it has reloaded")
        assert post(server, "signed", body, signed(body, "m2", OLD)).status == 401
        assert post(server, "signed", body, signed(body, "m3", NEW)).status == 200
        assert post(server, "plain", body, {"X-Webhook-Secret": PLAIN}).status == 404


@pytest.mark.parametrize("in_pieces", [False, True])
def test_a_sender_that_offers_http_2_has_its_body_read(server: Server, in_pieces: bool) -> None:
    """As Java's HttpClient does, and so Debezium Server."""
    where = urlsplit(server.url)
    with socket.create_connection((where.hostname, where.port), 30) as raw:
        for number in range(3):
            body = supabase(80, record={"id": 80, "n": number, "pieces": in_pieces})
            headers = {
                "Host": where.netloc,
                "Connection": "Upgrade, HTTP2-Settings",
                "Upgrade": "h2c",
                "HTTP2-Settings": "AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
                "Content-Length": str(len(body)),
                **signed(body, f"msg_h2c{number}{in_pieces}"),
            }
            lines = [f"{name}: {value}" for name, value in headers.items()]
            head = "\r\n".join(["POST /v1/hooks/signed HTTP/1.1", *lines, "", ""]).encode()
            pieces = [head, body[:9], body[9:]] if in_pieces else [head + body]
            for piece in pieces:
                raw.sendall(piece)
                # The server has been asked something else meanwhile, and so has read the piece.
                server.request("GET", "/livez")
            response = http.client.HTTPResponse(raw)
            response.begin()
            answer = json.loads(response.read())
            assert (response.status, answer.get("accepted")) == (200, 1), answer
