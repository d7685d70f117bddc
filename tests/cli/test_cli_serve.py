"""`serve --dev` as a process: what it prints, and how it ends."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from jwt import decode

SCRIPT_ARGS = ("serve", "--dev", "--listen", "127.0.0.1:0")


@pytest.fixture
def dev_server(script: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A development server whose temporary directories are below `tmp_path`."""
    process = subprocess.Popen(
        [str(script), *SCRIPT_ARGS],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    yield process
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_a_development_server_prints_token_and_address_and_leaves_nothing(
    dev_server, tmp_path, signal_number
) -> None:
    token_line, address_line = dev_server.stdout.readline(), dev_server.stdout.readline()
    claims = decode(token_line.removeprefix("token: ").strip(), options={"verify_signature": False})
    assert (claims["sub"], claims["role"]) == ("dev", "service")
    address = address_line.removeprefix("listening on ").strip()
    assert address.startswith("http://127.0.0.1:")
    assert not address.endswith(":0")
    with urlopen(f"{address}/livez") as answer:
        assert answer.status == 200
    assert len(list(tmp_path.glob("kalam-notify-*"))) == 1
    dev_server.send_signal(signal_number)
    assert dev_server.wait(timeout=30) == 0
    assert not list(tmp_path.glob("kalam-notify-*"))
