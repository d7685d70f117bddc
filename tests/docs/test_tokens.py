"""The programs of docs/tokens.md run, and the server takes their tokens."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jwt
import pytest
from helpers.server import SECRET, Server, insert, running_server

from kalam_notify.client import connect_sync

PAGE = (Path(__file__).parents[2] / "docs/tokens.md").read_text()
SECONDS = 120
USER = 'Zoë "x" 漢'
# Fence, file, and how it is run; None: a language that not every machine has.
PROGRAMS = {
    "js": ("token.mjs", "node"),
    "python": ("token_for.py", sys.executable),
    "go": ("main.go", "go run"),
    "php": ("token.php", "php"),
}
NEEDED = ("js", "python")


def program(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


def token_of(language: str, directory: Path) -> str:
    name, command = PROGRAMS[language]
    first, *others = command.split()
    runner = shutil.which(first)
    if runner is None:
        if os.environ.get("CI") and language in NEEDED:
            pytest.fail(f"install {first}")
        pytest.skip(f"no {first} here")
    (directory / name).write_text(program(language))
    done = subprocess.run(
        [runner, *others, name, USER],
        cwd=directory,
        env={**os.environ, "KALAM_SECRET": SECRET},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


@pytest.fixture
def server(tmp_path: Path) -> Any:
    declared = {
        "app.notes": {"type": "user", "primary_key": "id"},
        "app.deals": {
            "type": "shared",
            "access": "public",
            "primary_key": "id",
            "policy": "tenant = CLAIM('tenant')",
        },
    }
    with running_server(tmp_path, {"tables": {"declared": declared}}) as server:
        yield server


@pytest.mark.parametrize("language", PROGRAMS)
def test_the_server_takes_a_token_of_each_language(
    language: str, tmp_path: Path, server: Server
) -> None:
    token = token_of(language, tmp_path)
    claims = jwt.decode(token, SECRET, ["HS256"])
    assert (claims["sub"], claims["tenant"]) == (USER, "acme")
    assert claims["exp"] - claims["iat"] == 900
    server.post(
        insert("app.notes", {"id": 1}, user_id=USER),
        insert("app.notes", {"id": 2}, user_id="somebody else"),
        insert("app.deals", {"id": 1, "tenant": "acme"}),
        insert("app.deals", {"id": 2, "tenant": "other"}),
    )
    with connect_sync(server.url, token=token) as db:
        for table in ("app.notes", "app.deals"):
            assert [row["id"] for row in db.live(f"SELECT * FROM {table}")] == [1]
