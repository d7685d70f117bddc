"""A PostgreSQL server of the test's own, on a Unix socket in a temporary directory."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

BINARIES = Path("/usr/lib/postgresql/15/bin")
_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "shared_buffers": "16MB",
}


def is_installed() -> bool:
    return (BINARIES / "initdb").exists()


@contextlib.contextmanager
def private_postgres() -> Iterator[str]:
    """Run a server with text in code-point order; the value is a libpq connection string."""
    home = Path(tempfile.mkdtemp(prefix="kalam-pg-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(home, "postgres")
        data = home / "data"
        _run(
            "initdb", "-D", data, "-U", "postgres", "-E", "UTF8", "--locale=C", "-A", "trust", "-N"
        )
        options = " ".join(f"-c {name}={value!r}" for name, value in _SETTINGS.items())
        start = ("-o", f"-k {home} {options}", "-l", home / "log", "-w", "start")
        _run("pg_ctl", "-D", data, *start)
        try:
            yield f"host={home} user=postgres dbname=postgres"
        finally:
            _run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _run(program: str, *arguments: object) -> None:
    """A program of the server's, as a user that the server accepts: it refuses root."""
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    command = [*user, str(BINARIES / program), *map(str, arguments)]
    # Output to files: the server would hold a pipe open.
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(command, stdout=output, stderr=output, cwd="/", check=False)
        if done.returncode:
            output.seek(0)
            raise RuntimeError(f"{program}: {output.read().decode(errors='replace')}")
