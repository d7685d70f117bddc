"""The programs of docs/python.md run, print what the page says, and are well typed."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers.server import Server, running_server

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/python.md").read_text()
EXAMPLES = sorted((ROOT / "examples/python").glob("*.py"))
SECONDS = 60.0


class Program(NamedTuple):
    text: str
    prints: str


PROGRAMS = [
    Program(*found)
    for found in re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE, re.DOTALL)
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with running_server(tmp_path) as server:
        yield server


def test_every_program_of_the_page_tells_what_it_prints() -> None:
    assert len(PROGRAMS) == PAGE.count("```python") > 5


def test_the_programs_print_what_the_page_says(server: Server, tmp_path: Path) -> None:
    for program in PROGRAMS:
        done = subprocess.run(
            [sys.executable, "-c", program.text.replace("http://127.0.0.1:2900", server.url)],
            env={**os.environ, "KALAM_NOTIFY_TOKEN": server.token("dev", "service")},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert (done.stdout, done.stderr) == (program.prints, "")


def test_programs_and_examples_are_well_typed(tmp_path: Path) -> None:
    for number, program in enumerate(PROGRAMS):
        (tmp_path / f"program_{number}.py").write_text(program.text)
    (tmp_path / "inferred.py").write_text(INFERRED)
    checked = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--python-version", "3.11"),
            *("--cache-dir", str(tmp_path / "cache"), "--follow-imports", "silent"),
            *(str(path) for path in (*sorted(tmp_path.glob("*.py")), *EXAMPLES)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS * 5,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


# What a type checker makes of the rows: each line fails where it would be anything else.
INFERRED = """
from typing import Any, assert_type
import msgspec
from kalam_notify.client import Connection, Live, SyncConnection, SyncLive, Update, connect

class Order(msgspec.Struct):
    id: int

async def check(db: Connection, sync: SyncConnection) -> None:
    assert_type(db.live("", row_type=Order), Live[Order])
    assert_type((await db.live("", row_type=Order)).rows, list[Order])
    assert_type(db.live("").rows, list[dict[str, Any]])
    assert_type(sync.live("", ["a"], row_type=Order), SyncLive[Order])
    assert_type(sync.live("").rows, list[dict[str, Any]])
    async for rows in db.live("", row_type=Order, sort_key=lambda row: row.id):
        assert_type(rows, list[Order])
    for change in sync.live("", row_type=Order).changes():
        if isinstance(change, Update):
            assert_type(change.row, Order)
    connect("", tokne="x")  # type: ignore[call-arg]
    db.live("", row_typ=Order)  # type: ignore[call-overload]
"""
