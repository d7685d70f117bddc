"""A PostgreSQL server of one's own in a temporary directory, on a Unix socket only."""

import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg

_DEBIAN = Path("/usr/lib/postgresql")
_START_DEADLINE = 120.0
_STOP_DEADLINE = 60.0


class NoPostgres(Exception):
    """The server's programs are not installed."""


def programs() -> Path:
    """The directory of `postgres`, `initdb` and `pgbench`: PostgreSQL 15 first, else the newest."""
    versions = sorted(_DEBIAN.glob("*/bin/initdb"), key=lambda path: path.parts[-3], reverse=True)
    found = [path.parent for path in versions]
    found.sort(key=lambda path: path.parts[-2] != "15")
    config = shutil.which("pg_config")
    if config:
        command = [config, "--bindir"]
        found.append(Path(subprocess.run(command, capture_output=True, text=True).stdout.strip()))
    for directory in found:
        if (directory / "initdb").exists():
            return directory
    raise NoPostgres("install postgresql-15")


class Cluster:
    """Start with `start()`, end with `stop()`; `directory` must be empty and on a local disk.

    The server does not run as root; for root it runs as the user `postgres`. `settings` are laid
    over those that logical replication wants.
    """

    def __init__(
        self,
        directory: Path,
        *,
        durable: bool = True,
        binaries: Path | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._programs = binaries or programs()
        self.directory = directory
        self._server: subprocess.Popen[bytes] | None = None
        self.settings = {
            "wal_level": "logical",
            "max_wal_senders": "40",
            "max_replication_slots": "40",
            "listen_addresses": "",
            "unix_socket_directories": str(directory),
            "fsync": "on" if durable else "off",
            **(settings or {}),
        }

    def dsn(self, database: str = "postgres", user: str = "postgres") -> str:
        """Where it listens, as a URL."""
        return f"postgresql://{user}@/{database}?host={self.directory}"

    def start(self) -> None:
        """Make the cluster if there is none yet, run it, and wait until it takes connections."""
        data = self.directory / "data"
        if not data.exists():
            self.directory.mkdir(parents=True)
            if os.geteuid() == 0:
                shutil.chown(self.directory, _unprivileged())
            initdb = [str(self._programs / "initdb"), "-D", str(data), "-U", "postgres", "-N"]
            self._run([*initdb, "--auth=trust", "-E", "UTF8", "--locale=C.UTF-8"])
        self.launch()
        self._await_connections()

    def launch(self) -> None:
        """Run it, and wait for nothing."""
        command = [str(self._programs / "postgres"), "-D", str(self.directory / "data")]
        settings = [part for item in self.settings.items() for part in ("-c", "=".join(item))]
        with (self.directory.parent / "postgres.log").open("ab") as log:
            self._server = subprocess.Popen(
                [*command, *settings],
                stdout=log,
                stderr=log,
                user=_unprivileged(),
                group=_unprivileged_group(),
                extra_groups=[] if os.geteuid() == 0 else None,
                cwd=self.directory,
            )

    def stop(self) -> None:
        """A "fast shutdown": clients are disconnected."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL for every process of the server, which recovers at its next start."""
        if self._server is None:
            return
        children = _children(self._server.pid)
        self._end(signal.SIGKILL)
        for pid in children:
            while _is_there(pid):
                time.sleep(0.01)

    def _end(self, number: int) -> None:
        if self._server is not None:
            self._server.send_signal(number)
            self._server.wait(_STOP_DEADLINE)
            self._server = None

    def connect(
        self, database: str = "postgres", user: str = "postgres"
    ) -> psycopg.Connection[Any]:
        return psycopg.connect(self.dsn(database, user), autocommit=True)

    def pgbench(self, *arguments: str) -> list[str]:
        """The command line of pgbench against this server."""
        where = ["-h", str(self.directory), "-U", "postgres"]
        return [str(self._programs / "pgbench"), *where, *arguments, "postgres"]

    def _run(self, command: Sequence[str]) -> str:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            user=_unprivileged(),
            group=_unprivileged_group(),
            cwd=self.directory,
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed: {done.stderr}")
        return done.stdout

    def _await_connections(self) -> None:
        deadline = time.monotonic() + _START_DEADLINE
        while True:
            try:
                self.connect().close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


def _children(pid: int) -> list[int]:
    """The server's own processes, which end by themselves when their parent has."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in text.split()]


def _is_there(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in "ZX"


def _unprivileged() -> int | None:
    return pwd.getpwnam("postgres").pw_uid if os.geteuid() == 0 else None


def _unprivileged_group() -> int | None:
    return pwd.getpwnam("postgres").pw_gid if os.geteuid() == 0 else None
