"""A real `kalam-notify serve` process, and HTTP to it."""

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import msgspec
import yaml

from helpers.ports import reserve
from kalam_notify.auth import sign
from kalam_notify.config import JwtSettings, load_config
from kalam_notify.model import Role

SECRET = "a-secret-that-only-the-tests-know-0123456789"
START_SECONDS = 120
"""A guard against hanging: several workers beside other tests on a busy machine need their time."""
# Servers under test sign their own certificates.
_UNVERIFIED = ssl._create_unverified_context()

ORDERS = {"type": "shared", "access": "public", "primary_key": "id"}
EVENTS = {"type": "shared", "access": "public"}
NOTES = {"type": "user", "primary_key": "id"}
VAULT = {"type": "shared", "access": "private", "primary_key": "id"}

BASE: dict[str, Any] = {
    "server": {"listen": "127.0.0.1:0", "drain_seconds": 2},
    "auth": {"jwt": {"secret": SECRET}},
    "tables": {
        "declared": {
            "app.orders": ORDERS,
            "app.events": EVENTS,
            "app.notes": NOTES,
            "app.vault": VAULT,
        }
    },
}


def merged(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `extra` laid over it, section by section."""
    result = dict(base)
    for key, value in extra.items():
        if isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


class Answer(msgspec.Struct):
    """What an HTTP request came back with."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """One server process on a data directory of its own; may be killed and started again.

    Starting and stopping is for one thread at a time; asking (`token`, `request`, `post`) is for
    any thread at any moment, so that a test may kill and start it while others go on posting.

    `python` goes between the interpreter and its `-m kalam_notify`.
    """

    def __init__(
        self,
        directory: Path,
        settings: Mapping[str, Any] | None = None,
        *,
        python: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.python = python
        self.settings = merged(BASE, settings or {})
        # A copy, for the section may be that of BASE: no two servers share a data directory.
        self.settings["server"] = {
            "data_dir": str(directory / "data"),
            **self.settings["server"],
        }
        self.config_file = directory / "config.yaml"
        self.process: subprocess.Popen[str] | None = None
        self.url = ""
        self._port: socket.socket | None = None
        self._signing: JwtSettings | None = None

    def start(self, *flags: str) -> "Server":
        """Run the process and wait until it says where it listens."""
        self.configure(yaml.safe_dump(self.settings))
        self._signing = load_config(self.config_file).auth.jwt
        listen = ["--listen", self._address()]
        command = [sys.executable, *self.python, "-m", "kalam_notify", "serve", "--config"]
        with (self.directory / "stderr.txt").open("a") as stderr:
            self.process = subprocess.Popen(
                [*command, str(self.config_file), *listen, *flags],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        self.url = _first_line(self.process, self.directory).removeprefix("listening on ")
        return self

    def _address(self) -> str:
        """Where to listen: a free port once chosen is kept from start to start."""
        host, _, port = self.settings["server"]["listen"].rpartition(":")
        if port == "0":
            self._port = self._port or reserve(host.strip("[]"))
            port = self._port.getsockname()[1]
        return f"{host}:{port}"

    def configure(self, text: str) -> None:
        """Give it another configuration file, which it reads at its next start or SIGHUP.

        At one stroke: who reads meanwhile finds the old file or the new one, never half of one.
        """
        written = self.config_file.with_suffix(".new")
        written.write_text(text)
        written.replace(self.config_file)

    @property
    def errors(self) -> str:
        """What the process has written to stderr."""
        return (self.directory / "stderr.txt").read_text()

    @property
    def ws_url(self) -> str:
        return self.url.replace("http", "ws", 1) + "/v1/ws"

    def kill(self) -> None:
        """SIGKILL: no chance to tidy up."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        if self.process is not None and self.process.stdout is not None:
            self.process.stdout.close()
        if self._port is not None:
            self._port.close()

    def token(self, user: str = "alice", role: str = "user", **claims: Any) -> str:
        """A token that this server honours, as it was last started."""
        parsed = Role.parse(role)
        assert parsed is not None
        assert self._signing is not None, "it was never started"
        ttl = claims.pop("ttl", 3600.0)
        return sign(self._signing, user, role=parsed, ttl=ttl, claims=claims)

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """One HTTP request; header names with `_` for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.url + path, data=body, method=method, headers=named)
        try:
            with urllib.request.urlopen(request, timeout=30, context=_UNVERIFIED) as response:
                return Answer(response.status, dict(response.headers), response.read())
        except urllib.error.HTTPError as refusal:
            with refusal:
                return Answer(refusal.code, dict(refusal.headers), refusal.read())

    def post(self, *changes: Mapping[str, Any], **headers: str) -> Any:
        """Post changes as one batch; the accepted answer."""
        answer = self.post_raw(json.dumps(changes).encode(), **headers)
        assert answer.status == 200, answer.body
        return answer.json

    def post_raw(self, body: bytes, **headers: str) -> Answer:
        headers.setdefault("Authorization", f"Bearer {self.token('feeder', 'service')}")
        headers.setdefault("Content_Type", "application/json")
        return self.request("POST", "/v1/changes", body, **headers)

    def metric(self, name: str, **labels: str) -> float:
        """The value of one sample of /metrics; 0 where it is not there."""
        headers = {"Authorization": f"Bearer {self.token('ops', 'service')}"}
        wanted = ",".join(f'{key}="{value}"' for key, value in labels.items())
        sample = f"kalam_notify_{name}" + (f"{{{wanted}}}" if wanted else "")
        for line in self.request("GET", "/metrics", **headers).body.decode().splitlines():
            if line.startswith(sample + " "):
                return float(line.split()[-1])
        return 0.0


def _first_line(process: "subprocess.Popen[str]", directory: Path) -> str:
    """The line that says where it listens; fails with what the process wrote if there is none."""
    lines: Queue[str | None] = Queue()

    def read() -> None:
        assert process.stdout is not None
        with contextlib.suppress(ValueError):
            for line in process.stdout:
                lines.put(line.strip())
        # Its end of the pipe is closed: it is ending, if it is not gone yet.
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    try:
        while (line := lines.get(timeout=START_SECONDS)) is not None:
            if line.startswith("listening on "):
                return line
        process.wait(timeout=START_SECONDS)
    except (Empty, subprocess.TimeoutExpired):
        pass
    how = "did not listen" if process.poll() is None else "ended"
    process.kill()
    raise AssertionError(f"the server {how}: {(directory / 'stderr.txt').read_text()}")


@contextlib.contextmanager
def running_server(directory: Path, settings: Mapping[str, Any] | None = None) -> Iterator[Server]:
    """A started server, killed at the end."""
    server = Server(directory, settings)
    try:
        yield server.start()
    finally:
        server.close()


def insert(table: str, row: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """An insert as a producer posts it."""
    return {"table": table, "change_type": "insert", "row_data": dict(row), **more}


def update(table: str, row: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"table": table, "change_type": "update", "row_data": dict(row), **more}


def delete(table: str, old: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"table": table, "change_type": "delete", "old_data": dict(old), **more}
