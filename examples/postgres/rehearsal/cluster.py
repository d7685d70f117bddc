"""A PostgreSQL server of one's own in a temporary directory, on a Unix socket only."""

import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg

_DEBIAN = Path("/usr/lib/postgresql")
_START_DEADLINE = 60.0
_STOP_DEADLINE = 60.0


class NoPostgres(Exception):
    """The server's programs or its wal2json plugin are not installed."""


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
        library = directory.parent / "lib" / "wal2json.so"
        if (directory / "initdb").exists() and library.exists():
            return directory
    raise NoPostgres("install postgresql-15 and postgresql-15-wal2json")


class Cluster:
    """Start with `start()`, end with `stop()`; `directory` must be empty and on a local disk.

    The server does not run as root; for root it runs as the user `postgres`.
    """

    def __init__(self, directory: Path, *, durable: bool = True) -> None:
        self._programs = programs()
        self._directory = directory
        self._durable = durable
        self._server: subprocess.Popen[bytes] | None = None
        self.dsn = f"host={directory} port=5432 user=postgres dbname=postgres"

    def start(self) -> None:
        self._directory.mkdir(parents=True)
        if os.geteuid() == 0:
            shutil.chown(self._directory, _unprivileged())
        data = self._directory / "data"
        initdb = [str(self._programs / "initdb"), "-D", str(data), "-U", "postgres"]
        self._run([*initdb, "--auth=trust", "-E", "UTF8", "--locale=C.UTF-8"])
        command = [str(self._programs / "postgres"), "-D", str(data)]
        with (self._directory.parent / "postgres.log").open("ab") as log:
            self._server = subprocess.Popen(
                [*command, *self._settings()],
                stdout=log,
                stderr=log,
                user=_unprivileged(),
                group=_unprivileged_group(),
                extra_groups=[] if os.geteuid() == 0 else None,
                cwd=self._directory,
            )
        self._await_connections()

    def stop(self) -> None:
        if self._server is not None:
            self._server.send_signal(2)  # SIGINT: "fast shutdown", clients are disconnected
            self._server.wait(_STOP_DEADLINE)
            self._server = None

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.dsn, autocommit=True)

    def pgbench(self, *arguments: str) -> list[str]:
        """The command line of pgbench against this server."""
        where = ["-h", str(self._directory), "-p", "5432", "-U", "postgres"]
        return [str(self._programs / "pgbench"), *where, *arguments, "postgres"]

    def _settings(self) -> list[str]:
        settings = {
            "wal_level": "logical",
            "max_wal_senders": "4",
            "max_replication_slots": "4",
            "listen_addresses": "",
            "unix_socket_directories": str(self._directory),
            "fsync": "on" if self._durable else "off",
        }
        if "output_plugin_libraries" in self._known_settings():
            settings["output_plugin_libraries"] = "pgoutput, test_decoding, wal2json"
        return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]

    def _known_settings(self) -> set[str]:
        """Newer minor releases let only listed plugins decode; older ones refuse the setting."""
        described = self._run([str(self._programs / "postgres"), "--describe-config"])
        return {line.split("\t", 1)[0] for line in described.splitlines()}

    def _run(self, command: Sequence[str]) -> str:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            user=_unprivileged(),
            group=_unprivileged_group(),
            cwd=self._directory,
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


def _unprivileged() -> int | None:
    return pwd.getpwnam("postgres").pw_uid if os.geteuid() == 0 else None


def _unprivileged_group() -> int | None:
    return pwd.getpwnam("postgres").pw_gid if os.geteuid() == 0 else None
