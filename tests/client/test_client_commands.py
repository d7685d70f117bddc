"""publish, tail and explain as processes, against a server process."""

import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.server import Server, delete, insert, update

COMMAND = [sys.executable, "-m", "kalam_notify"]
SQL = "SELECT * FROM app.orders"


def run(
    server: Server, verb: str, *arguments: str, stdin: bytes = b"", role: str = "service"
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, verb, "--url", server.url, *arguments],
        input=stdin,
        capture_output=True,
        timeout=60,
        env={**os.environ, "KALAM_NOTIFY_TOKEN": server.token("feeder", role)},
        check=False,
    )


def changes(count: int, first: int = 1) -> list[dict[str, Any]]:
    return [insert("app.orders", {"id": n}) for n in range(first, first + count)]


def lines(*items: object) -> bytes:
    return "".join(json.dumps(item) + "\n" for item in items).encode()


class TestPublish:
    def test_an_array_an_object_and_lines_are_accepted(
        self, server: Server, tmp_path: Path
    ) -> None:
        array = run(server, "publish", stdin=json.dumps(changes(3)).encode())
        told = re.fullmatch(
            rb"accepted=3 duplicates=0 first_seq=(\d+) last_seq=(\d+)\n", array.stdout
        )
        assert told is not None
        assert int(told[2]) - int(told[1]) == 2
        assert (array.returncode, array.stderr) == (0, b"")

        pretty = json.dumps(changes(1)[0], indent=2).encode()
        assert b"accepted=1 " in run(server, "publish", "-", stdin=pretty).stdout

        file = tmp_path / "changes.ndjson"
        file.write_bytes(b"\n" + lines(*changes(2500)).rstrip())
        told = run(server, "publish", str(file)).stdout
        found = re.fullmatch(rb"accepted=2500 duplicates=0 first_seq=(\d+) last_seq=(\d+)\n", told)
        assert found is not None
        assert int(found[1]) < int(found[2])

    def test_a_byte_order_mark_is_skipped(self, server: Server) -> None:
        for stdin in (
            json.dumps(changes(2)).encode(),
            json.dumps(changes(2), indent=1).encode(),
            lines(*changes(2)),
        ):
            done = run(server, "publish", stdin=b"\xef\xbb\xbf" + stdin)
            assert done.stdout.startswith(b"accepted=2 "), done.stderr

    def test_white_space_around_a_token_or_key_is_no_part_of_it(
        self, start_server: Callable[..., Server]
    ) -> None:
        digest = hashlib.sha256(b"key-1").hexdigest()
        server = start_server(
            auth={"api_keys": [{"name": "feeder", "role": "service", "sha256": digest}]}
        )
        token = server.token("feeder", "service")
        for flags, environ in (
            (["--token", f" {token}\n"], {}),
            ([], {"KALAM_NOTIFY_TOKEN": f"{token}\r\n"}),
            (["--api-key", "key-1\n"], {}),
            ([], {"KALAM_NOTIFY_API_KEY": "\ufeffkey-1 "}),
        ):
            done = subprocess.run(
                [*COMMAND, "publish", *flags],
                input=b"[]",
                capture_output=True,
                timeout=60,
                env={**os.environ, "KALAM_NOTIFY_URL": server.url, **environ},
                check=False,
            )
            assert (done.returncode, done.stderr) == (0, b"")

    @pytest.mark.parametrize("bad", ["hunter2\nhunter2", "hunter2 hunter2", "hunter2é", " "])
    def test_a_token_that_no_header_can_carry_is_refused_without_being_shown(
        self, shared_server: Server, bad: str
    ) -> None:
        for verb, argument in (("publish", "-"), ("explain", SQL), ("tail", SQL)):
            done = run_with_token(shared_server, verb, argument, token=bad)
            assert done.returncode == 1
            assert done.stderr.startswith(b"kalam-notify: the token ")
            assert b"hunter2" not in done.stderr + done.stdout

    def test_nothing_new_has_no_seqs(self, server: Server) -> None:
        assert run(server, "publish", stdin=b"[]").stdout.startswith(b"accepted=0 ")
        change = {**changes(1)[0], "id": "evt-1"}
        run(server, "publish", stdin=lines(change))
        again = run(server, "publish", stdin=lines(change)).stdout
        assert again == b"accepted=0 duplicates=1 first_seq=- last_seq=-\n"

    def test_a_refusal_tells_the_servers_error(self, shared_server: Server) -> None:
        refused = run(shared_server, "publish", stdin=lines(insert("app.nowhere", {"id": 1})))
        assert refused.returncode == 1
        assert b"UNKNOWN_TABLE" in refused.stderr
        assert b"field table" in refused.stderr
        forbidden = run(shared_server, "publish", stdin=lines(*changes(1)), role="user")
        assert forbidden.returncode == 1
        assert b"FORBIDDEN" in forbidden.stderr

    def test_lines_before_a_bad_batch_are_in_and_are_told(self, server: Server) -> None:
        bad = [*changes(1500), insert("app.nowhere", {"id": 1})]
        refused = run(server, "publish", stdin=lines(*bad))
        assert refused.returncode == 1
        accepted = re.search(rb"accepted=(\d+)", refused.stdout)
        counted_from = re.search(rb"counted from line (\d+)", refused.stderr)
        assert accepted is not None
        assert counted_from is not None
        assert int(counted_from[1]) == int(accepted[1]) + 1

    def test_lines_are_posted_as_they_come(self, server: Server) -> None:
        with publishing(server) as process:
            assert process.stdin is not None
            for number in (1, 2, 3):
                process.stdin.write(lines(*changes(1, number)))
                process.stdin.flush()
                follow(server, "--last", "3", "--snapshot", until=lambda m, n=number: has_row(m, n))
            process.stdin.close()
            assert process.wait(timeout=60) == 0

    def test_a_file_that_is_not_there_and_a_server_that_is_not_are_told(
        self, server: Server
    ) -> None:
        missing = run(server, "publish", "/nowhere/changes.json")
        assert missing.returncode == 1
        assert b"/nowhere/changes.json" in missing.stderr
        server.kill()
        gone = run_with_token(server, "publish", stdin=lines(*changes(1)))
        assert gone.returncode == 1
        assert b"cannot reach" in gone.stderr


def run_with_token(
    server: Server, verb: str, *arguments: str, stdin: bytes = b"", token: str = "x"
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, verb, "--url", server.url, "--token", token, *arguments],
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
    )


def publishing(server: Server) -> "subprocess.Popen[bytes]":
    token = server.token("feeder", "service")
    return subprocess.Popen(
        [*COMMAND, "publish", "--url", server.url, "--token", token],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )


def has_row(message: dict[str, Any], id: int) -> bool:
    return any(row["id"] == id for row in message.get("rows", ()))


class Tail:
    """A running `tail --json`, read message by message."""

    def __init__(self, server: Server, *arguments: str, sql: str = SQL) -> None:
        self.process = subprocess.Popen(
            [
                *COMMAND, "tail", "--url", server.url, "--token", server.token(), sql, *arguments,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip

    def messages(self) -> Iterator[dict[str, Any]]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield json.loads(line)

    def until(self, kind: str) -> dict[str, Any]:
        return next(message for message in self.messages() if message["type"] == kind)

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=60)
        return self.process.returncode


def follow(server: Server, *arguments: str, until: Callable[[dict[str, Any]], bool]) -> None:
    tail = Tail(server, "--json", *arguments)
    try:
        assert any(until(message) for message in tail.messages())
    finally:
        assert tail.interrupt() == 0


class TestTail:
    def test_without_a_flag_it_is_live_only(self, server: Server) -> None:
        server.post(insert("app.orders", {"id": 1}))
        tail = Tail(server, "--json")
        assert tail.until("subscription_ack")["batch_control"]["status"] == "ready"
        server.post(insert("app.orders", {"id": 2}))
        assert [row["id"] for row in tail.until("change")["rows"]] == [2]
        assert tail.interrupt() == 0

    def test_snapshot_last_and_from_begin_elsewhere(self, server: Server) -> None:
        seqs = server.post(*(insert("app.orders", {"id": n}) for n in (1, 2, 3)))
        snapshot = Tail(server, "--json", "--snapshot")
        assert len(snapshot.until("initial_data_batch")["rows"]) == 3
        last = Tail(server, "--json", "--last", "1")
        assert [row["id"] for row in last.until("initial_data_batch")["rows"]] == [3]
        resumed = Tail(server, "--json", "--from", str(seqs["first_seq"]))
        assert resumed.until("subscription_ack")["resumed"] is True
        assert resumed.until("change")["rows"][0]["id"] == 2
        assert {tail.interrupt() for tail in (snapshot, last, resumed)} == {0}

    def test_people_get_a_line_per_row(self, server: Server) -> None:
        server.post(insert("app.orders", {"id": 1, "a": "x"}))
        tail = Tail(server, "--snapshot")
        assert tail.process.stdout is not None
        told = [tail.process.stdout.readline().split()]
        server.post(update("app.orders", {"id": 1, "a": "y"}))
        told.append(tail.process.stdout.readline().split())
        server.post(delete("app.orders", {"id": 1}))
        told.append(tail.process.stdout.readline().split())
        # A log begins at the time: its first seq is any.
        first = int(told[0][1])
        assert told == [
            [b"row", b"%d" % first, b'{"id":1,"a":"x"}'],
            [b"update", b"%d" % (first + 1), b'{"id":1,"a":"y"}', b"was", b'{"id":1,"a":"x"}'],
            [b"delete", b"%d" % (first + 2), b'{"id":1,"a":"y"}'],
        ]
        assert tail.interrupt() == 0

    @pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8", "utf-16-le"])
    def test_a_console_of_any_encoding_shows_every_text(
        self, server: Server, encoding: str
    ) -> None:
        text = "é \u20ac \u4f60 \U0001f600"
        server.post(insert("app.orders", {"id": 1, "a": text}))
        environ = {**os.environ, "PYTHONIOENCODING": encoding, "KALAM_NOTIFY_TOKEN": server.token()}
        for flags in (["--json"], []):
            process = subprocess.Popen(
                [*COMMAND, "tail", "--url", server.url, SQL, "--snapshot", *flags],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environ,
            )
            heard = ""
            assert process.stdout is not None
            with io.TextIOWrapper(process.stdout, encoding, newline="\n") as out:
                while '"id":1' not in heard:
                    heard = out.readline()
                process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            assert b"Traceback" not in process.stderr.read()
            process.stderr.close()
            assert process.wait(60) == 0
            row = json.loads(heard)["rows"][0] if flags else json.loads(heard.split(None, 2)[2])
            assert row["a"] == text

    @pytest.mark.parametrize(
        ("sql", "told"),
        [("SELECT * FROM app.nowhere", b"NOT_FOUND"), ("SELECT", b"INVALID_SQL")],
    )
    def test_a_refused_query_ends_it(self, shared_server: Server, sql: str, told: bytes) -> None:
        refused = run(shared_server, "tail", sql)
        assert refused.returncode == 1
        assert told in refused.stderr

    def test_a_bad_token_ends_it(self, shared_server: Server) -> None:
        refused = run_with_token(shared_server, "tail", SQL, token="nonsense")
        assert refused.returncode == 1
        assert b"UNAUTHORIZED" in refused.stderr

    def test_an_address_that_is_none_ends_it(self) -> None:
        refused = subprocess.run(
            [*COMMAND, "tail", "--url", "nonsense", SQL], capture_output=True, check=False
        )
        assert refused.returncode == 1
        assert b"no server address" in refused.stderr

    def test_it_survives_a_killed_server_and_misses_nothing(self, server: Server) -> None:
        tail = Tail(server, "--json")
        tail.until("subscription_ack")
        server.post(insert("app.orders", {"id": 1}))
        assert has_row(tail.until("change"), 1)
        server.kill()
        server.start()
        server.post(insert("app.orders", {"id": 2}))
        assert tail.until("subscription_ack")["resumed"] is True
        assert has_row(tail.until("change"), 2)
        assert tail.interrupt() == 0

    def test_it_ends_when_nobody_reads_its_output(self, server: Server) -> None:
        tail = Tail(server, "--json")
        tail.until("subscription_ack")
        assert tail.process.stdout is not None
        tail.process.stdout.close()
        server.post(insert("app.orders", {"id": 1}))
        assert tail.process.wait(timeout=60) == 0
        assert tail.process.stderr is not None
        assert b"Error" not in tail.process.stderr.read()
        tail.process.stderr.close()


def test_explain_prints_the_plan_as_json(shared_server: Server) -> None:
    explained = run(shared_server, "explain", SQL + " WHERE id = 5")
    assert explained.returncode == 0, explained.stderr
    assert isinstance(json.loads(explained.stdout), dict)
    refused = run(shared_server, "explain", "SELECT")
    assert refused.returncode == 1
    assert b"INVALID_SQL" in refused.stderr
