"""tables, connections, subscriptions, top, kick and explain --why, against a real server."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.server import Server, insert, running_server
from helpers.wire import wire

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Verb = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("administered")) as it:
        yield it


@pytest.fixture
def verb(server: Server, run: Run) -> Verb:
    """Run a verb as a dba, or with another role."""

    def run_verb(
        *args: str, role: str = "dba", environ: dict[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        return run(*args, environ=environment(server, role) | (environ or {}))

    return run_verb


def environment(server: Server, role: str = "dba") -> dict[str, str]:
    return {"KALAM_NOTIFY_URL": server.url, "KALAM_NOTIFY_TOKEN": server.token("boss", role)}


def test_tables_are_listed(server: Server, verb: Verb) -> None:
    server.post(insert("app.orders", {"id": 1}))
    done = verb("tables")
    assert done.returncode == 0, done.stderr
    head, *lines = done.stdout.splitlines()
    assert head.split() == [
        "TABLE",
        "TYPE",
        "ACCESS",
        "KEY",
        "SUBSCRIPTIONS",
        "CHANGES",
        "COLUMNS",
    ]
    assert [line.split()[0] for line in lines] == [
        "app.events",
        "app.notes",
        "app.orders",
        "app.vault",
    ]
    rows = [json.loads(line) for line in verb("tables", "--json").stdout.splitlines()]
    assert [row["table"] for row in rows] == [line.split()[0] for line in lines]


async def test_connections_and_subscriptions_are_listed_and_kicked(
    server: Server, verb: Verb
) -> None:
    sql = "SELECT * FROM app.orders WHERE status = 'open'"
    async with (
        wire(server.ws_url, server.token("kate")) as one,
        wire(server.ws_url, server.token("kate")) as two,
        wire(server.ws_url, server.token("liam")) as three,
    ):
        for client in (one, two, three):
            await client.live("s", sql)
        lines = verb("connections", "--user", "kate").stdout.splitlines()
        assert len(lines) == 3
        assert all(" kate " in line for line in lines[1:])
        lines = verb("subscriptions", "--user", "liam", "--table", "app.orders").stdout
        assert lines.count(sql) == 1
        assert "hash status = 'open'" in lines
        assert verb("subscriptions", "--lagging", "--json").stdout == ""
        row = json.loads(verb("connections", "--user", "liam", "--json").stdout)
        done = verb("kick", row["id"], "--reason", "maintenance")
        assert (done.returncode, done.stdout) == (0, f"closed {row['id']}\n")
        assert await three.closed() == (1008, "maintenance")
        done = verb("kick", row["id"])
        assert done.returncode == 1
        assert f"no connection {row['id']}" in done.stderr
        done = verb("kick", "--user", "kate")
        assert (done.returncode, done.stdout.count("closed ")) == (0, 2)
        assert [await client.closed() for client in (one, two)] == [
            (1008, "closed by an administrator")
        ] * 2
    done = verb("kick", "--user", "kate")
    assert (done.returncode, done.stdout) == (1, "")


async def test_explain_why_tells_what_kept_a_change_back(server: Server, verb: Verb) -> None:
    async with wire(server.ws_url, server.token("mia")) as client:
        await client.live("mine", "SELECT * FROM app.orders WHERE status = 'open'")
        seq = server.post(insert("app.orders", {"id": 7, "status": "paid"}))["last_seq"]
        done = verb("explain", "--why", str(seq), "mia")
        assert done.returncode == 0, done.stderr
        assert "mine on 1-" in done.stdout
        assert "status = 'open' is FALSE" in done.stdout
        assert '{"status":"paid"}' in done.stdout
        told = json.loads(verb("explain", "--why", str(seq), "mia", "--json").stdout)
        assert told["subscriptions"][0]["outcome"] == "filter"
    done = verb("explain", "--why", str(seq + 10**6), "mia")
    assert done.returncode == 1
    assert "NOT_FOUND" in done.stderr


def test_what_takes_a_dba_is_refused_to_others(verb: Verb) -> None:
    for args in (["tables"], ["kick", "1-abcdef-1"], ["explain", "--why", "1", "x"]):
        done = verb(*args, role="service")
        assert (done.returncode, done.stdout) == (1, "")
        assert "FORBIDDEN" in done.stderr


@pytest.mark.parametrize(
    "args",
    [
        ["kick"],
        ["explain"],
        ["explain", "SELECT 1", "--why", "1", "x"],
        ["explain", "--why", "x", "x"],
        ["explain", "--why", "1"],
        ["top", "--interval", "0"],
    ],
)
def test_wrong_usage_exits_2(verb: Verb, args: list[str]) -> None:
    done = verb(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: kalam-notify" in done.stderr


@pytest.mark.parametrize("flags", [["--once"], []], ids=["once", "piped"])
def test_top_into_a_pipe_is_one_picture(server: Server, verb: Verb, flags: list[str]) -> None:
    server.post(insert("app.events", {"n": 1}))
    done = verb("top", *flags, "--interval", "0.1")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert f"at {server.url}  ok" in done.stdout
    for figure in ("connections", "deliveries", "p99", "memory", "reaching back"):
        assert figure in done.stdout
    assert re.search(r"^app\.events +0\.0 +\d", done.stdout, re.MULTILINE)


class Terminal:
    """A verb on a terminal of its own."""

    def __init__(self, command: list[str], environ: dict[str, str]) -> None:
        master, slave = pty.openpty()
        self._master = master
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40", **environ},
            start_new_session=True,
        )
        os.close(slave)
        self.shown = ""

    def wait_for(self, pattern: str, seconds: float = 30.0) -> None:
        until = time.monotonic() + seconds
        while not re.search(pattern, self.shown):
            left = until - time.monotonic()
            ready = select.select([self._master], [], [], max(left, 0))[0]
            assert ready, f"{pattern!r} was not shown, but {self.shown[-2000:]!r}"
            try:
                self.shown += os.read(self._master, 65536).decode(errors="replace")
            except OSError:  # the other side has gone
                assert re.search(pattern, self.shown), self.shown[-2000:]

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.fixture
def terminal(server: Server, script: Path) -> Iterator[Terminal]:
    command = [str(script), "top", "--interval", "0.2"]
    it = Terminal(command, environment(server))
    yield it
    it.close()


def test_top_on_a_terminal_shows_itself_anew_until_q(server: Server, terminal: Terminal) -> None:
    terminal.wait_for(r"\x1b\[\?1049h")
    terminal.wait_for(r"app\.orders|app\.events|connections")
    server.post(insert("app.events", {"n": 2}))
    terminal.wait_for(r"(?s)q ends it.*q ends it.*q ends it")
    terminal.press("q")
    terminal.wait_for(r"\x1b\[\?1049l")
    assert terminal.process.wait(30) == 0


def test_top_waits_for_a_server_that_starts_again(script: Path, tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        command = [str(script), "top", "--interval", "0.2"]
        terminal = Terminal(command, environment(server))
        try:
            terminal.wait_for(r"connections 0")
            server.kill()
            terminal.wait_for("asking again")
            terminal.shown = ""
            server.start()
            terminal.wait_for(r"connections 0")
            terminal.press("q")
            assert terminal.process.wait(30) == 0
        finally:
            terminal.close()


async def test_top_takes_the_role_of_metrics_and_leaves_out_what_takes_more(
    server: Server, verb: Verb
) -> None:
    done = verb("top", "--once", "--interval", "0.1", role="service")
    assert done.returncode == 0, done.stderr
    assert "deliveries" in done.stdout
    done = verb("top", "--once", "--interval", "0.1", role="user")
    assert (done.returncode, done.stdout) == (1, "")
    assert "FORBIDDEN" in done.stderr


def test_top_ends_clean_on_an_interrupt(terminal: Terminal) -> None:
    terminal.wait_for("q ends it")
    terminal.process.send_signal(signal.SIGINT)
    terminal.wait_for(r"\x1b\[\?1049l")
    assert terminal.process.wait(30) == 0


def test_a_server_that_is_not_there_is_told_in_a_line(verb: Verb) -> None:
    gone = {"KALAM_NOTIFY_URL": "http://127.0.0.1:9"}
    for args in (["tables"], ["top", "--once"], ["kick", "1-abcdef-1"]):
        done = verb(*args, environ=gone)
        assert (done.returncode, done.stdout) == (1, "")
        assert len(done.stderr.splitlines()) == 1
