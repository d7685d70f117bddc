"""The console script, run as a process of its own."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

SCRIPT = Path(sys.executable).with_name("kalam-notify")

Run = Callable[..., subprocess.CompletedProcess[str]]


def run_in(
    directory: Path, command: Sequence[str], environ: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The finished process, its output as text; it sees no settings but those of `environ`."""
    kept = {name: value for name, value in os.environ.items() if "KALAM_NOTIFY" not in name}
    return subprocess.run(
        command,
        cwd=directory,
        env=kept | (environ or {}),
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture(scope="session")
def script() -> Path:
    return SCRIPT


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`run(*args, environ={...}, module=False)`: the finished process, its output as text."""

    def run_script(
        *args: str, environ: dict[str, str] | None = None, module: bool = False
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "kalam_notify"] if module else [str(SCRIPT)]
        return run_in(tmp_path, [*command, *args], environ)

    return run_script
