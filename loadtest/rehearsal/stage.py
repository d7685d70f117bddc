"""Everything a rehearsal runs on, brought up in order and taken down in reverse."""

import secrets
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import yaml

from loadtest.harness.postgres import Cluster
from loadtest.rehearsal.processes import Daemon, SubscriberProcess
from loadtest.rehearsal.questions import HISTORY, Question, choose, whole_history
from loadtest.rehearsal.subscribers import Setup
from loadtest.rehearsal.timeline import wait_until


class Stage:
    """The database, the daemon and the client processes, in one directory."""

    def __init__(self, directory: Path, *, durable: bool) -> None:
        self._directory = directory
        self._owned = ExitStack()
        self.cluster = Cluster(directory / "postgres", durable=durable)

    def __enter__(self) -> "Stage":
        with ExitStack() as opening:
            opening.callback(self.cluster.stop)
            self.cluster.start()
            self._run(self.cluster.pgbench("-i", "-s", "1", "-q"))
            self.connect()
            self.daemon = Daemon(self._write_config(), self._directory)
            opening.callback(self.daemon.kill)
            self.token = self.daemon.token("alice", "user")
            self._owned = opening.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._owned.close()

    def connect(self) -> None:
        """Connect to the database, anew where it was killed."""
        self.database: psycopg.Connection[Any] = self.cluster.connect()

    def add_subscribers(self, processes: int, subscribers: int) -> list[SubscriberProcess]:
        """Client processes, not started; every other one saves its views as it goes."""
        questions = choose(subscribers, seed=subscribers)
        return [
            self._subscriber_process(
                f"clients-{number}", questions[number::processes], number % 2 == 1
            )
            for number in range(processes)
        ]

    def history_as_told(self) -> list[dict[str, Any]]:
        """All changes of the append-only table in the daemon's log, from its first one on."""
        process = self._subscriber_process("history", [whole_history()], keep=False, begin=0)
        process.start()
        process.await_line("ready")
        expected = self._count_history()

        def complete() -> bool:
            [view] = process.views()
            return bool(view.faults) or len(view.events) >= expected

        wait_until(complete, f"{expected} rows of history")
        [view] = process.views()
        process.kill()
        if view.faults:
            raise AssertionError(view.faults[0])
        return view.events

    def start_pgbench(self, clients: int, seconds: int) -> "subprocess.Popen[str]":
        command = self.cluster.pgbench("-c", str(clients), "-j", "1", "-T", str(seconds), "-n")
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._owned.callback(_end_child, child)
        return child

    def wal_end(self) -> str:
        """Where the write-ahead log ends now."""
        row = self.database.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        assert row is not None
        return str(row[0])

    def slot_lag(self, end: str) -> int:
        """Bytes of WAL before `end` that the daemon has not stored."""
        row = self.database.execute(
            "SELECT %s::pg_lsn - confirmed_flush_lsn FROM pg_replication_slots", (end,)
        ).fetchone()
        return int(row[0]) if row else sys.maxsize

    def _count_history(self) -> int:
        row = self.database.execute(f"SELECT count(*) FROM {HISTORY}".encode()).fetchone()
        return int(row[0]) if row else 0

    def _subscriber_process(
        self, name: str, questions: list[Question], keep: bool, begin: int | None = None
    ) -> SubscriberProcess:
        setup = Setup(
            url=f"ws://{self.daemon.address}/v1/ws",
            token=self.token,
            questions=questions,
            keep=str(self._directory / f"{name}.views") if keep else None,
            begin=begin,
        )
        process = SubscriberProcess(name, setup, self._directory)
        self._owned.callback(process.kill)
        return process

    def _write_config(self) -> Path:
        config = {
            "server": {"data_dir": str(self._directory / "data"), "drain_seconds": 1},
            "auth": {"jwt": {"secret": secrets.token_urlsafe(48)}},
            "sources": {"bench": {"postgres": self.cluster.dsn(), "access": "public"}},
        }
        path = self._directory / "kalam-notify.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    def _run(self, command: list[str]) -> str:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed: {done.stderr}")
        return done.stdout


def _end_child(child: "subprocess.Popen[str]") -> None:
    if child.poll() is None:
        child.kill()
        child.communicate()
