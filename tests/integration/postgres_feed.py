"""A feeder under test, with its database and its receiver."""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
from pgfeed.state import StateDirectory
from postgres_receiver import Receiver
from rehearsal.cluster import Cluster
from rehearsal.processes import Process, feeder
from rehearsal.timeline import wait_until


class Feed:
    """One database, one feeder, one receiver."""

    def __init__(self, cluster: Cluster, directory: Path, receiver: Receiver) -> None:
        self.name = f"t{uuid.uuid4().hex[:12]}"
        with cluster.connect() as connection:
            connection.execute(f"CREATE DATABASE {self.name}".encode())
        self.dsn = cluster.dsn.replace("dbname=postgres", f"dbname={self.name}")
        self.database: psycopg.Connection[Any] = psycopg.connect(self.dsn, autocommit=True)
        self.receiver = receiver
        self.directory = directory
        self.state = StateDirectory(directory / "state")
        self.process: Process | None = None

    def run(self, sql: str) -> list[Any]:
        cursor = self.database.execute(sql.encode())
        return cursor.fetchall() if cursor.description else []

    def start(self, *tables: str, more: tuple[str, ...] = ()) -> Process:
        """Start (again); `tables` only the first time."""
        if self.process is None:
            arguments = ["--dsn", self.dsn, "--url", self.receiver.url, "--api-key", "key"]
            arguments += ["--slot", self.name, "--state-dir", str(self.state.path), *more]
            arguments += [part for table in tables for part in ("--table", table)]
            self.process = feeder(arguments, self.directory)
        self.process.start()
        return self.process

    def await_changes(self, count: int) -> None:
        self.await_that(lambda: len(self.receiver.changes) >= count, f"{count} changes")

    def await_caught_up(self) -> None:
        [(end,)] = self.run("SELECT pg_current_wal_flush_lsn()::text")
        query = f"SELECT confirmed_flush_lsn >= '{end}' FROM pg_replication_slots"
        query += f" WHERE slot_name = '{self.name}'"
        self.await_that(lambda: self.run(query) == [(True,)], "the feeder to catch up")

    def await_streaming(self) -> None:
        log = self.directory / "feeder.log"
        self.await_that(lambda: "feeder: streaming" in log.read_text(), "streaming")

    def await_that(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for it while the feeder lives."""

        def holds() -> bool:
            if self.process is not None:
                self.process.require_running()
            return condition()

        wait_until(holds, what, 60)

    def await_end(self, code: int) -> str:
        """The feeder gives up by itself; its last words."""
        assert self.process is not None
        assert self.process.await_end() == code
        return (self.directory / "feeder.log").read_text()

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
        self.run(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        self.run(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots "
            "WHERE database = current_database()"
        )
        self.database.close()
