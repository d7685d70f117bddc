"""`publish` as a process: CSV, rows, large arrays, and what it tells on a terminal."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.server import Server, insert
from pseudo_terminal import Terminal

from kalam_notify.client import connect_sync

COMMAND = [sys.executable, "-m", "kalam_notify", "publish"]
SECONDS = 120.0


def environ_of(server: Server) -> dict[str, str]:
    token = server.token("feeder", "service")
    return {**os.environ, "KALAM_NOTIFY_URL": server.url, "KALAM_NOTIFY_TOKEN": token}


def publish(server: Server, *flags: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *flags],
        input=stdin,
        capture_output=True,
        timeout=SECONDS,
        env=environ_of(server),
        check=False,
    )
    text = done.stdout.decode(), done.stderr.decode()
    return subprocess.CompletedProcess(done.args, done.returncode, *text)


def rows(server: Server, table: str, user: str = "alice", **options: Any) -> list[dict[str, Any]]:
    with connect_sync(server.url, token=server.token(user)) as db:
        found = db.live(f"SELECT * FROM {table}", **options).rows
        return [{name: row[name] for name in row if name != "_seq"} for row in found]


def test_a_csv_file_becomes_rows_of_a_table(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "orders.CSV"
    file.write_text("id,status,total,zip\n1,open,2.5,01234\n2,,3,5\n")
    done = publish(server, "--table", "app.orders", "--text", "zip", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("accepted=2 duplicates=0 ")
    assert rows(server, "app.orders") == [
        {"id": 1, "status": "open", "total": 2.5, "zip": "01234"},
        {"id": 2, "status": None, "total": 3, "zip": "5"},
    ]
    piped = ["--table", "app.orders", "--format", "csv", "--change-type", "delete", "-"]
    assert publish(server, *piped, stdin=b"id\n1\n").returncode == 0
    assert [row["id"] for row in rows(server, "app.orders")] == [2]


def test_rows_of_a_user_are_the_users(server: Server) -> None:
    done = publish(server, "--table", "app.notes", "--user", "alice", stdin=b'{"id":1}\n{"id":2}\n')
    assert done.returncode == 0, done.stderr
    assert rows(server, "app.notes") == [{"id": 1}, {"id": 2}]
    assert rows(server, "app.notes", "bob") == []


def test_a_run_that_is_repeated_with_a_key_is_stored_once(server: Server) -> None:
    events = json.dumps([{"n": n, "kind": "a"} for n in range(5)]).encode()
    flags = ["--table", "app.events", "--key", "n,kind"]
    assert publish(server, *flags, stdin=events).stdout.startswith("accepted=5 duplicates=0")
    assert publish(server, *flags, stdin=events).stdout.startswith("accepted=0 duplicates=5")
    assert publish(server, *flags[:2], stdin=events).stdout.startswith("accepted=5 duplicates=0")


def test_an_array_beyond_every_limit_of_a_batch_is_posted_in_parts(
    server: Server, tmp_path: Path
) -> None:
    count = 12_345
    file = tmp_path / "array.json"
    file.write_text(json.dumps([insert("app.orders", {"id": n}) for n in range(count)], indent=1))
    done = publish(server, str(file))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"accepted={count} duplicates=0 ")
    found = [row["id"] for row in rows(server, "app.orders", batch_size=10_000)]
    assert found == list(range(count))


def test_what_is_wrong_in_a_large_array_is_told_with_its_place(server: Server) -> None:
    many: list[Any] = [insert("app.orders", {"id": n}) for n in range(10_500)]
    many[10_200] = insert("app.nowhere", {"id": 1})
    done = publish(server, stdin=json.dumps(many).encode())
    assert (done.returncode, done.stdout[:15]) == (1, "accepted=10000 ")
    assert "UNKNOWN_TABLE" in done.stderr
    assert "index 200" in done.stderr
    assert "counted from change 10001 on; the changes before are in" in done.stderr
    cut = publish(server, stdin=json.dumps(many[:5]).encode()[:-5])
    assert (cut.returncode, cut.stdout[:11]) == (1, "accepted=0 ")
    assert "the array has no end: is the file cut off?" in cut.stderr


def test_a_terminal_shows_percent_and_the_time_that_is_left(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "changes.ndjson"
    lines = [json.dumps(insert("app.orders", {"id": n, "note": "x" * 500})) for n in range(6000)]
    file.write_text("\n".join(lines))
    terminal = Terminal([*COMMAND, str(file)], environ=environ_of(server))
    try:
        assert terminal.end() == 0
    finally:
        terminal.close()
    shares = [int(it) for it in re.findall(r"(\d+)%  ETA \d+:\d\d  [\d,]+ changes", terminal.text)]
    assert shares == sorted(shares)
    assert len(shares) > 2
    assert shares[-1] == 100
    assert terminal.text.endswith("\n")
    assert "accepted=6000 " in terminal.text


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["x.csv"], "name their table with --table"),
        (["--format", "csv"], "name their table with --table"),
        (["--key", "id"], "--key is for rows"),
        (["--user", "u"], "--user is for rows"),
        (["--change-type", "delete"], "--change-type is for rows"),
        (["--table", "a.b", "--text", "c"], "--text is for CSV"),
        (["--key", ""], "give the names of columns"),
    ],
)
def test_flags_that_do_not_go_together_are_wrong_usage(flags: list[str], told: str) -> None:
    done = subprocess.run(
        [*COMMAND, *flags], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
