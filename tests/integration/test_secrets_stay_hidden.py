"""Everything that a run writes anywhere is searched for the secrets that it was run with."""

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.server import Server
from helpers.wire import Wire, wire
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

SECRET = "hush-signing-secret-4711-0123456789abcdef"
OLD_SECRET = "hush-older-secret-4712-0123456789abcdef"
API_KEY = "hush-api-key-4713"
NO_TOKEN = "hush-no-token-4714"
NO_KEY = "hush-no-key-4715"
FORGED = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJodXNoIn0.aHVzaC1mb3JnZWQtNDcxNg"
HOOK_SECRET = "whsec_aHVzaC1zaWduaW5nLWhvb2stc2VjcmV0LTQ3MTc="
PLAIN_HOOK_SECRET = "hush-plain-hook-secret-4718"
QUERY = "SELECT * FROM app.orders"

BAD_CONFIGURATIONS = [
    "auth: {{jwt: {{secret: ' {0}'}}}}",
    'auth: {{jwt: {{secret: "{0}\\n"}}}}',
    "auth: {{jwt: {{secret: '${{{0}}}'}}}}",
    "auth: {{jwt: {{secret: [{0}, {0}]}}}}",
    "auth: {{jwt: {{secret: {{a: {0}}}}}}}",
    "auth: {{jwt: {{secrets: {0}}}}}",
    "auth: {{jwt: {0}}}",
    "auth: {{jwt: {{secret: {0}, public_key: {0}, algorithms: [RS256]}}}}",
    "auth: {{jwt: {{secret: 'ssh-rsa {0}'}}}}",
    "auth: {{jwt: {{secret: !{0} x}}}}",
    "auth: {{jwt: {{secret: *{0}}}}}",
    "auth: {{jwt: {{secret: {0}}}",
    "auth: {{jwt: {{secret: '{0}}}}}",
    "auth: {{jwt: {{secret: {0}}}}}\nauth: {{anonymous: 3}}",
    "auth: {{jwt: {{jwks_url: 'https://a:{0}@b.c/d', algorithms: [RS256]}}}}",
    "auth: {{api_keys: [{{name: a, role: service, sha256: {0}}}]}}",
    "auth: {{api_keys: [{0}]}}",
    "ingest: {{hooks: {{a: {{secrets: ' {0}'}}}}}}",
    "ingest: {{hooks: {{a: {{secrets: [whsec_{0}]}}}}}}",
    "ingest: {{hooks: {{a: {{secrets: [{0}, {0}]}}}}}}",
    "ingest: {{hooks: {{a: {{secrets: {{b: {0}}}}}}}}}",
    "ingest: {{hooks: {{a: {{secret: {0}}}}}}}",
    "ingest: {{hooks: {{a: {0}}}}}",
    "ingest: {{hooks: [{0}]}}",
    "ingest: {{hooks: {{a: {{secrets: {0}, format: xml}}}}}}",
    "log: {{url: 'nats://u:{0}@a/no.stream'}}",
    "log: {{url: 'nats://u:{0}@a:0,{0}@b/KALAM'}}",
    "log: {{url: 'nats://{0}/KALAM/'}}",
    "log: {{url: ['nats://u:{0}@a/KALAM']}}",
    "{0}",
    "secret: {0}",
]


class Outputs:
    """What was written, by where."""

    def __init__(self) -> None:
        self.texts: list[tuple[str, str]] = []

    def add(self, where: str, *texts: object) -> None:
        for text in texts:
            shown = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
            self.texts.append((where, shown))

    def search(self, *needles: str) -> None:
        # The parts of a token are as good as the whole; its header is everybody's.
        parts = {part for needle in needles for part in (needle, *needle.split(".")[1:])}
        found = [
            (where, part, text) for where, text in self.texts for part in parts if part in text
        ]
        assert found == []

    def run(self, *arguments: str, stdin: bytes = b"[]", **environ: str) -> int:
        """One verb to its end; the exit code."""
        kept = {name: value for name, value in os.environ.items() if "KALAM_NOTIFY" not in name}
        done = subprocess.run(
            [sys.executable, "-m", "kalam_notify", *arguments],
            input=stdin,
            capture_output=True,
            timeout=60,
            env=kept | environ,
            check=False,
        )
        self.add(" ".join(arguments[:1]), done.stdout, done.stderr)
        return done.returncode


@pytest.mark.long
@pytest.mark.parametrize(("workers", "format"), [(1, "text"), (2, "json")])
async def test_no_secret_is_in_anything_that_a_run_writes(
    tmp_path: Path, workers: int, format: str
) -> None:
    outputs = Outputs()
    digest = hashlib.sha256(API_KEY.encode()).hexdigest()
    server = Server(
        tmp_path,
        {
            "server": {"workers": workers},
            "auth": {
                "jwt": {"secret": [SECRET, OLD_SECRET]},
                "api_keys": [{"name": "feeder", "role": "service", "sha256": digest}],
            },
            "ingest": {
                "hooks": {
                    "signed": {"secrets": [HOOK_SECRET]},
                    "plain": {"secrets": PLAIN_HOOK_SECRET},
                }
            },
            "logging": {"level": "debug", "format": format},
            "metrics": {"open": True},
        },
    )
    try:
        server.start()
        tokens = {name: server.token(name, "service", jti=f"{name}-1") for name in ("a", "b")}
        await over_websocket(outputs, server, tokens["a"])
        over_http(outputs, server, tokens["a"])
        if workers == 1:
            with_the_verbs(outputs, server, tokens)
            start_badly(outputs, tmp_path)
        await reload_badly(server)
        outputs.add("metrics", server.request("GET", "/metrics").body)
        outputs.add("health", server.request("GET", "/health").body)
        assert server.stop() == 0
        assert server.process is not None
        assert server.process.stdout is not None
        outputs.add("serve", server.errors, server.process.stdout.read())
    finally:
        server.close()
    assert "Traceback" not in server.errors
    outputs.search(HOOK_SECRET, HOOK_SECRET.removeprefix("whsec_"), PLAIN_HOOK_SECRET)
    outputs.search(SECRET, OLD_SECRET, API_KEY, NO_TOKEN, NO_KEY, FORGED, *tokens.values())


async def over_websocket(outputs: Outputs, server: Server, token: str) -> None:
    for wrong in (NO_TOKEN, FORGED, token + "x", ""):
        for options in (
            {"additional_headers": {"Authorization": f"Bearer {wrong}"}},
            {"subprotocols": ["bearer", wrong or "x"]},
        ):
            with pytest.raises(InvalidStatus) as refused:
                await connect(server.ws_url, proxy=None, **options)  # type: ignore[arg-type]
            outputs.add("refusal", refused.value.response.body, refused.value.response.headers)
        async with wire(server.ws_url) as client:
            await client.say(type="authenticate", method="jwt", token=wrong)
            outputs.add("auth_error", await client.hear(), await client.closed())
    for malformed in (
        {"type": "authenticate", "method": "jwt", "token": [NO_TOKEN]},
        {"type": "authenticate", "method": NO_TOKEN, "token": token},
        {"type": "authenticate", "method": "jwt", "tokn": token},
        {"type": "authentication", "token": token},
        {"type": FORGED},
    ):
        async with wire(server.ws_url) as client:
            await client.say(**malformed)
            outputs.add("malformed", await heard(client), await client.closed())
    async with connect(
        f"{server.ws_url}?token={token}", subprotocols=["bearer", token], proxy=None
    ) as socket:
        client = Wire(socket)
        outputs.add("greeting", await client.hear())
        await client.live("s", QUERY)
    async with connect(server.ws_url, subprotocols=["other", token], proxy=None) as socket:
        client = Wire(socket)
        outputs.add("subprotocol", await client.hear(), await client.closed())


async def heard(client: Wire) -> list[Any]:
    """Everything that comes, and how the end of it is told."""
    messages: list[Any] = []
    try:
        async with asyncio.timeout(20):
            while True:
                messages.append(await client.socket.recv())
    except ConnectionClosed as end:
        return [*messages, end]


def over_http(outputs: Outputs, server: Server, token: str) -> None:
    for headers in (
        {"Authorization": f"Bearer {token}"},
        {"Authorization": f"Bearer {token}x"},
        {"Authorization": f"Bearer {NO_TOKEN}"},
        {"Authorization": f"Basic {NO_TOKEN}"},
        {"Authorization": NO_TOKEN},
        {"X_API_Key": API_KEY},
        {"X_API_Key": NO_KEY},
        {"X_Webhook_Secret": PLAIN_HOOK_SECRET},
        {"X_Webhook_Secret": HOOK_SECRET, "webhook_signature": f"v1,{PLAIN_HOOK_SECRET}"},
        {"Authorization": PLAIN_HOOK_SECRET, "webhook_id": HOOK_SECRET, "webhook_timestamp": "1"},
        {},
    ):
        for method, path, body in (
            ("POST", "/v1/changes", b"[]"),
            ("POST", "/v1/changes", b'{"table":'),
            ("POST", "/v1/hooks/signed", b"[]"),
            ("POST", "/v1/hooks/plain", b'{"table":'),
            ("GET", f"/v1/hooks/plain?secret={PLAIN_HOOK_SECRET}", None),
            ("GET", f"/v1/explain?sql=SELECT&token={token}", None),
            ("POST", "/v1/admin/revoke", b'{"user": "nobody"}'),
            ("GET", "/nowhere", None),
            ("GET", "/v1/ws", None),
        ):
            answer = server.request(method, path, body, **headers)
            outputs.add(path.partition("?")[0], answer.body, answer.headers)


def with_the_verbs(outputs: Outputs, server: Server, tokens: dict[str, str]) -> None:
    url = ("--url", server.url)
    right, revoked = tokens["a"], tokens["b"]
    assert outputs.run("publish", *url, "--token", right) == 0
    assert outputs.run("publish", *url, KALAM_NOTIFY_TOKEN=f"{right}\n") == 0
    assert outputs.run("publish", *url, KALAM_NOTIFY_API_KEY=f"{API_KEY}\r\n") == 0
    assert outputs.run("explain", *url, QUERY, "--token", right) == 0
    body = b'{"token_id": "b-1"}'
    boss = {"Authorization": f"Bearer {server.token('boss', 'dba')}"}
    assert server.request("POST", "/v1/admin/revoke", body, **boss).status == 200
    for wrong in (NO_TOKEN, f"{right}x", f"{right}\n{right}"):
        for verb, argument in (("publish", "-"), ("tail", QUERY), ("explain", QUERY)):
            assert outputs.run(verb, *url, argument, "--token", wrong) == 1
    assert outputs.run("tail", *url, QUERY, "--token", revoked) == 1
    assert outputs.run("publish", *url, "--api-key", NO_KEY) == 1
    assert outputs.run("publish", *url, "--api-key", f"{NO_KEY}\n{NO_KEY}") == 1
    # The right words in the wrong places.
    assert outputs.run("publish", *url, "--tokn", right) == 2
    assert outputs.run("tail", *url, f"--api_key={API_KEY}", QUERY) == 2
    assert outputs.run("token", "--secret", SECRET, "--user", "x") == 2
    assert outputs.run("token", "--user", "x", "--role", right) == 2
    assert outputs.run("tail", "--url", f"http://me:{API_KEY}@127.0.0.1:x", QUERY) == 1
    assert outputs.run("explain", "--url", f"http://me:{API_KEY}@127.0.0.1:1", QUERY) == 1
    assert outputs.run("tail", *url, f"SELECT {right} FROM app.orders", "--token", NO_TOKEN) == 1


def start_badly(outputs: Outputs, directory: Path) -> None:
    file = directory / "bad.yaml"
    for number, text in enumerate(BAD_CONFIGURATIONS):
        file.write_text(text.format(SECRET))
        verb = ("serve", "--config") if number % 2 else ("check-config",)
        assert outputs.run(*verb, str(file)) == 2
    assert outputs.run("serve", KALAM_NOTIFY_AUTH__JWT__SECRET=f"{SECRET}\n") == 2
    assert outputs.run("token", "--user", "x", KALAM_NOTIFY_AUTH__JWT__SECRET=f" {SECRET}") == 2


async def reload_badly(server: Server) -> None:
    good = server.config_file.read_text()
    for number, text in enumerate(BAD_CONFIGURATIONS, 1):
        server.config_file.write_text(text.format(SECRET))
        server.signal(signal.SIGHUP)
        async with asyncio.timeout(20):
            while server.errors.count("the configuration was not reloaded") < number:
                await asyncio.sleep(0.01)
    changed = yaml.safe_load(good)
    changed["auth"]["jwt"]["secret"] = [SECRET]
    server.config_file.write_text(json.dumps(changed))
    server.signal(signal.SIGHUP)
    async with asyncio.timeout(20):
        while "configuration reloaded; changed: auth.jwt.secret" not in server.errors:
            await asyncio.sleep(0.01)
