"""`tail` on a terminal: colours, differences, a table that stays; and in a pipe as ever."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers.server import Server, delete, insert, update
from pseudo_terminal import Terminal

SQL = "SELECT * FROM app.orders"
TABLE = "app.orders"
Open = Callable[..., Terminal]


@pytest.fixture
def tail(server: Server) -> Iterator[Open]:
    opened: list[Terminal] = []

    def open_it(*flags: str, sql: str = SQL, **options: Any) -> Terminal:
        command = [sys.executable, "-m", "kalam_notify", "tail", sql, *flags]
        environ = {"KALAM_NOTIFY_URL": server.url, "KALAM_NOTIFY_TOKEN": server.token()}
        options["environ"] = environ | options.get("environ", {})
        opened.append(Terminal(command, **options))
        return opened[-1]

    yield open_it
    for terminal in opened:
        terminal.close()


def test_an_update_tells_what_has_changed_and_words_have_colours(
    server: Server, tail: Open
) -> None:
    server.post(insert(TABLE, {"id": 1, "status": "open", "total": 1}))
    terminal = tail("--snapshot", sql=f"{SQL} WHERE status <> 'gone'")
    terminal.until(lambda: '"open"' in terminal.text)
    server.post(
        update(TABLE, {"id": 1, "status": "paid", "total": 1}),
        update(TABLE, {"id": 1, "status": "gone", "total": 1}),
        update(TABLE, {"id": 1, "status": None, "total": 2}),
        update(TABLE, {"id": 1, "status": "open", "total": 2}),
        delete(TABLE, {"id": 1}),
    )
    terminal.until(lambda: "delete" in terminal.text)
    assert terminal.interrupt() == 0
    told = [re.sub(r"\d{16}  ", "", line) for line in terminal.text.splitlines()]
    assert [line for line in told if line and "^C" not in line] == [
        "subscribed",
        'row     id: 1  status: "open"  total: 1',
        'update  id: 1  status: "open" -> "paid"',
        'leave   id: 1  status: "paid"  total: 1',
        'enter   id: 1  status: "open"  total: 2',
        'delete  id: 1  status: "open"  total: 2',
    ]
    for coloured in ("\x1b[33mupdate ", "\x1b[31mleave  ", "\x1b[32menter  "):
        assert coloured in terminal.written


@pytest.mark.parametrize("environ", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_who_wants_no_colours_gets_none(server: Server, tail: Open, environ: Any) -> None:
    server.post(insert(TABLE, {"id": 1}))
    terminal = tail("--snapshot", environ=environ)
    terminal.until(lambda: "id: 1" in terminal.text)
    assert terminal.interrupt() == 0
    assert "\x1b" not in terminal.written


def test_json_on_a_terminal_is_as_in_a_pipe(server: Server, tail: Open) -> None:
    server.post(insert(TABLE, {"id": 1}))
    terminal = tail("--snapshot", "--json", "--columns", "status")
    terminal.until(lambda: '"rows":[{"id":1,' in terminal.text)
    assert terminal.interrupt() == 0
    assert "\x1b" not in terminal.written


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_nothing_in_a_row_acts_on_the_terminal(server: Server, tail: Open, encoding: str) -> None:
    evil = "\x1b[2J\x1b]0;title\x07 \x9b31m \u202e\u20ac\x7f"
    server.post(insert(TABLE, {"id": 1, "status": evil}))
    for flags in (["--snapshot"], ["--table"]):
        terminal = tail(*flags, environ={"PYTHONIOENCODING": encoding}, encoding=encoding)
        terminal.until(lambda it=terminal: "title" in it.written)
        assert terminal.interrupt() == 0
        shown = terminal.written
        for sequence in ("\x1b[2J", "\x1b]", "\x9b", "\x07", "\u202e", "\x7f"):
            assert sequence not in shown
        assert "\\u001b[2J" in shown
        assert "Traceback" not in shown


def test_columns_are_those_that_are_named_in_their_order(server: Server, tail: Open) -> None:
    server.post(insert(TABLE, {"id": 1, "status": "open", "total": 5}))
    terminal = tail("--snapshot", "--columns", "total,id")
    terminal.until(lambda: "total: 5  id: 1\n" in terminal.text)
    server.post(
        update(TABLE, {"id": 1, "status": "paid", "total": 5}),
        update(TABLE, {"id": 1, "status": "paid", "total": 6}),
    )
    terminal.until(lambda: "total: 5 -> 6" in terminal.text)
    assert terminal.interrupt() == 0
    assert "status" not in terminal.text.replace("--columns", "")
    with subprocess.Popen(
        [sys.executable, "-m", "kalam_notify", "tail", SQL, "--snapshot", "--columns", "total"],
        env={"KALAM_NOTIFY_URL": server.url, "KALAM_NOTIFY_TOKEN": server.token()},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as piped:
        assert piped.stdout is not None
        assert re.fullmatch(rb'row     \d+  {"total":6}\n', piped.stdout.readline())
        piped.terminate()


def test_a_table_stays_on_the_screen_and_follows_the_rows(server: Server, tail: Open) -> None:
    server.post(*(insert(TABLE, {"id": n, "status": "open"}) for n in range(1, 4)))
    terminal = tail("--table", lines=8, columns=40)
    terminal.until(lambda: len(terminal.picture) == 5)
    assert terminal.picture[:4] == ["id  status", "1   open", "2   open", "3   open"]
    assert terminal.picture[4].startswith("live, 3 rows: SELECT * FROM app.orders"[:39])
    server.post(update(TABLE, {"id": 2, "status": "paid"}), delete(TABLE, {"id": 1}))
    terminal.until(lambda: terminal.picture[1:3] == ["2   paid", "3   open"])
    assert "\x1b[33mpaid" in terminal.written  # the cell that changed
    assert terminal.interrupt() == 0
    # The screen is as it was.
    assert terminal.written.count("\x1b[?1049h") == terminal.written.count("\x1b[?1049l") == 1
    assert terminal.written.rstrip().endswith("\x1b[?25h\x1b[?1049l")


def test_a_table_fits_into_the_window_and_follows_its_size(server: Server, tail: Open) -> None:
    long = "\N{CJK UNIFIED IDEOGRAPH-6F22}" * 100
    server.post(*(insert(TABLE, {"id": n, "status": "x" * 100, "note": long}) for n in range(1000)))
    terminal = tail("--table", lines=10, columns=50)
    for lines, columns in ((10, 50), (5, 20), (30, 100), (2, 3), (1, 1)):
        terminal.resize(lines, columns)
        terminal.until(lambda lines=lines: len(terminal.picture) == lines)
        for line in terminal.picture:
            assert len(line) + line.count("\N{CJK UNIFIED IDEOGRAPH-6F22}") <= columns
        if lines > 4:
            assert any("more rows" in line or "more r" in line for line in terminal.picture)
    assert terminal.interrupt() == 0


def test_a_table_is_shown_again_after_the_server_was_killed(server: Server, tail: Open) -> None:
    server.post(insert(TABLE, {"id": 1, "status": "open"}))
    terminal = tail("--table")
    terminal.until(lambda: terminal.picture[1:2] == ["1   open"])
    server.kill()
    terminal.until(lambda: terminal.picture[-1].startswith("reconnecting, 1 rows"))
    server.start()
    server.post(insert(TABLE, {"id": 2, "status": "open"}))
    terminal.until(lambda: terminal.picture[-1].startswith("live, 2 rows"))
    assert terminal.interrupt() == 0


def test_a_table_whose_query_is_refused_says_so(server: Server, tail: Open) -> None:
    terminal = tail("--table", sql="SELECT * FROM app.nowhere")
    assert terminal.end() == 1
    assert "NOT_FOUND" in terminal.text
    assert "\x1b[?1049h" not in terminal.written


@pytest.mark.parametrize("flags", [["--table"], ["--table", "--json"], ["--columns", "a,,b"]])
def test_what_cannot_be_shown_is_wrong_usage(flags: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kalam_notify", "tail", SQL, *flags],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, b"")
