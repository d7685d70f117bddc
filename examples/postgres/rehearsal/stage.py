"""Everything a rehearsal runs on, brought up in order and taken down in reverse."""

import hashlib
import secrets
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import yaml
from pgfeed.state import State, StateDirectory

from rehearsal.cluster import Cluster
from rehearsal.processes import Daemon, Process, SubscriberProcess, feeder
from rehearsal.questions import HISTORY, TABLES, Question, choose, whole_history
from rehearsal.subscribers import Setup
from rehearsal.timeline import wait_until

_FEEDER = Path(__file__).resolve().parent.parent / "feeder.py"
_SLOT = "rehearsal"


class Stage:
    """The database, the daemon, the feeder and the client processes, in one directory."""

    def __init__(self, directory: Path, *, durable: bool) -> None:
        self._directory = directory
        self._owned = ExitStack()
        self._key = secrets.token_urlsafe(24)
        self.cluster = Cluster(directory / "postgres", durable=durable)
        self._state = StateDirectory(directory / "feeder-state")

    def __enter__(self) -> "Stage":
        with ExitStack() as opening:
            opening.callback(self.cluster.stop)
            self.cluster.start()
            self._run(self.cluster.pgbench("-i", "-s", "1", "-q"))
            self.database: psycopg.Connection[Any] = self.cluster.connect()
            opening.callback(self.database.close)
            config = self._write_config()
            self.daemon = Daemon(config, self._directory)
            opening.callback(self.daemon.kill)
            self.daemon.start()
            self.token = self.daemon.token("alice", "user")
            self.feeder = self._make_feeder()
            opening.callback(self.feeder.kill)
            self._owned = opening.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._owned.close()

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

    def feeder_state(self) -> State | None:
        return self._state.load()

    def slot_lag(self) -> int:
        """Bytes of WAL that the feeder has not acknowledged."""
        row = self.database.execute(
            "SELECT pg_current_wal_lsn() - confirmed_flush_lsn FROM pg_replication_slots"
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

    def _make_feeder(self) -> Process:
        arguments = ["--dsn", self.cluster.dsn, "--url", f"http://{self.daemon.address}"]
        arguments += ["--api-key", self._key, "--slot", _SLOT]
        arguments += ["--state-dir", str(self._state.path), *_table_arguments()]
        return feeder(arguments, self._directory)

    def _write_config(self) -> Path:
        """The daemon's configuration, its tables as the feeder prints them."""
        command = [sys.executable, str(_FEEDER), "--print-config", "--access", "public"]
        tables = self._run([*command, "--dsn", self.cluster.dsn, *_table_arguments()])
        digest = hashlib.sha256(self._key.encode()).hexdigest()
        config = {
            "server": {"data_dir": str(self._directory / "data"), "drain_seconds": 1},
            "auth": {
                "jwt": {"secret": secrets.token_urlsafe(48)},
                "api_keys": [{"name": "feeder", "sha256": digest, "role": "service"}],
            },
            **yaml.safe_load(tables),
        }
        path = self._directory / "kalam-notify.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    def _run(self, command: list[str]) -> str:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed: {done.stderr}")
        return done.stdout


def _table_arguments() -> list[str]:
    return [part for table in TABLES for part in ("--table", table)]


def _end_child(child: "subprocess.Popen[str]") -> None:
    if child.poll() is None:
        child.kill()
        child.communicate()


def spool_progress(state: State | None) -> int:
    """Bytes of the first copy that the daemon has acknowledged; 0 outside the copy."""
    return state.posted if state is not None and state.phase == "copying" else 0
