"""PostgreSQL, a server that follows it, and views to compare; and what tests say of them."""

import contextlib
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from helpers.server import Server
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from loadtest.harness.postgres import Cluster, NoPostgres

PATIENCE = float(os.environ.get("PATIENCE", "60"))
"""A guard against hanging, no expectation of speed."""


@contextlib.contextmanager
def running_cluster(**options: Any) -> Iterator[Cluster]:
    # Not below pytest's own directory, which only the user who runs the tests may enter.
    directory = Path(tempfile.mkdtemp(prefix="kalam-pg-"))
    directory.chmod(0o711)
    try:
        cluster = Cluster(directory / "c", durable=False, **options)
    except NoPostgres as error:
        shutil.rmtree(directory)
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(directory, ignore_errors=True)


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until it holds: other processes are looked at until they show it."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.05)


class Database:
    """A database of a test's own, in a cluster that others use, too."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.name = f"t{uuid.uuid4().hex[:12]}"
        with cluster.connect() as connection:
            connection.execute(f"CREATE DATABASE {self.name}".encode())
        self.url = cluster.dsn(self.name)
        self.connection = self.connect()

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url, autocommit=True)

    def run(self, *statements: str) -> list[Any]:
        """Run statements; the rows of the last one."""
        rows: list[Any] = []
        for statement in statements:
            cursor = self.connection.execute(statement.encode())
            rows = cursor.fetchall() if cursor.description else []
        return rows

    def value(self, sql: str) -> Any:
        return self.run(sql)[0][0]

    def answer(self, sql: str) -> Counter[bytes]:
        """PostgreSQL's own answer as JSON, its numerics as text."""
        with self.connect() as connection:
            connection.execute("SET timezone = 'UTC'")
            columns = connection.execute(f"{sql} LIMIT 0".encode()).description or []
            shown = ", ".join(map(_shown, columns))
            rows = connection.execute(
                f"SELECT to_json(one)::text FROM (SELECT {shown} FROM ({sql}) q) one".encode()
            )
            return canonical(msgspec.json.decode(text) for (text,) in rows)

    def close(self) -> None:
        self.connection.close()
        with self.cluster.connect() as connection:
            slots = connection.execute(
                "SELECT slot_name FROM pg_replication_slots WHERE database = %s", (self.name,)
            ).fetchall()
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                (self.name,),
            )
            for (slot,) in slots:
                _drop_slot(connection, slot)
            connection.execute(f"DROP DATABASE {self.name} WITH (FORCE)".encode())


def _shown(column: psycopg.Column) -> str:
    name = '"' + column.name.replace('"', '""') + '"'
    return f"q.{name}::text AS {name}" if column.type_code == 1700 else f"q.{name}"


def _drop_slot(connection: psycopg.Connection[Any], slot: str) -> None:
    def dropped() -> bool:
        try:
            connection.execute("SELECT pg_drop_replication_slot(%s)", (slot,))
        except psycopg.errors.ObjectInUse:
            return False
        except psycopg.errors.UndefinedObject:
            pass
        return True

    eventually(dropped, f"the end of slot {slot}")


_encode = msgspec.json.Encoder(order="sorted").encode


def canonical(rows: Any) -> Counter[bytes]:
    """Rows as a multiset, their seqs left out."""
    return Counter(
        _encode({name: value for name, value in row.items() if name != "_seq"}) for row in rows
    )


class Watcher:
    """A subscriber in a thread: its view is kept up through everything."""

    def __init__(self, server: Server, sql: str, **options: Any) -> None:
        self.sql = sql
        self._server = server
        self._options = {"on_gap": "snapshot", **options}
        self.rows: dict[Any, dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []
        self.faults: list[str] = []
        self.acks: list[dict[str, Any]] = []
        self.ready = False
        self._key: tuple[str, ...] = ()
        self._position: int | None = None
        self._end = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def view(self) -> Counter[bytes]:
        with self._lock:
            return canonical(self.rows.values())

    def close(self) -> None:
        self._end.set()
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        while not self._end.is_set():
            with contextlib.suppress(OSError, TimeoutError, WebSocketException):
                self._follow()
            time.sleep(0.05)

    def _follow(self) -> None:
        headers = {"Authorization": f"Bearer {self._server.token()}"}
        with connect(
            self._server.ws_url, additional_headers=headers, compression=None, max_size=None
        ) as socket:
            options = dict(self._options)
            if self._position is not None:
                options["from"] = self._position
            subscription = {"id": "view", "sql": self.sql, "options": options}
            socket.send(
                msgspec.json.encode({"type": "subscribe", "subscription": subscription}).decode()
            )
            while not self._end.is_set():
                try:
                    frame = socket.recv(timeout=0.2)
                except TimeoutError:
                    continue
                with self._lock:
                    if self._apply(msgspec.json.decode(frame)):
                        socket.send('{"type":"next_batch","subscription_id":"view"}')

    def _apply(self, message: dict[str, Any]) -> bool:
        match message["type"]:
            case "subscription_ack":
                self.acks.append(message)
                self._key = tuple(
                    column["name"]
                    for column in message["schema"]
                    if "pk" in column.get("flags", ())
                )
                if not message.get("resumed"):
                    self.rows.clear()
                    self._position = None
            case "initial_data_batch":
                for row in message["rows"]:
                    self._put(row)
                control = message["batch_control"]
                self.ready = not control["has_more"]
                if self.ready:
                    self._position = max(self._position or 0, control["last_seq_id"])
                return bool(control["has_more"])
            case "change":
                self._change(message)
            case "error":
                self.faults.append(f"{message['code']}: {message['message']}")
                self._end.set()
        return False

    def _name(self, row: Mapping[str, Any]) -> Any:
        return tuple(row[column] for column in self._key)

    def _put(self, row: dict[str, Any]) -> None:
        if self._key:
            self.rows[self._name(row)] = row

    def _change(self, message: dict[str, Any]) -> None:
        kind = message["change_type"]
        rows = message["old_values"] if kind == "delete" else message["rows"]
        for row in rows:
            seq = int(row["_seq"])
            if self._position is not None and seq <= self._position:
                self.faults.append(f"seq {seq} after {self._position}")
            self._position = seq
            if not self._key:
                self.events.append({"kind": kind, **row})
            elif kind == "delete":
                if self.rows.pop(self._name(row), None) is None:
                    self.faults.append(f"delete of an unknown row: {row}")
            else:
                if (self._name(row) in self.rows) is not (kind == "update"):
                    self.faults.append(f"{kind} of {row}")
                self._put(row)


class Followed:
    """A database, and a server that follows it as its source `shop`."""

    def __init__(
        self, database: Database, directory: Path, settings: Mapping[str, Any] | None = None
    ) -> None:
        self.database = database
        self.slot = f"kalam_{database.name}"
        source = {
            "postgres": database.url,
            "access": "public",
            "slot": self.slot,
            "publication": self.slot,
        }
        more = dict(settings or {})
        source |= more.pop("source", {})
        directory.mkdir(exist_ok=True)
        self.server = Server(
            directory, {"sources": {"shop": source}, "tables": {"declared": {}}, **more}
        )
        self._watchers: list[Watcher] = []

    def start(self, *flags: str) -> "Followed":
        self.server.start(*flags)
        return self

    def watch(self, sql: str, **options: Any) -> Watcher:
        watcher = Watcher(self.server, sql, **options)
        self._watchers.append(watcher)
        return watcher

    def await_equal(self, watcher: Watcher, sql: str | None = None) -> None:
        """Wait until the view is PostgreSQL's answer, which does not change meanwhile."""
        expected = self.database.answer(sql or watcher.sql)

        def equal() -> bool:
            return bool(watcher.faults) or (watcher.ready and watcher.view() == expected)

        try:
            eventually(equal, watcher.sql)
        except AssertionError:
            missing, extra = expected - watcher.view(), watcher.view() - expected
            shown = [[row[:60] for row in list(rows)[:3]] for rows in (missing, extra)]
            raise AssertionError(
                f"{watcher.sql}: {missing.total()} missing {shown[0]}, {extra.total()} too many"
                f" {shown[1]}; {self._slot()}; {self.server.errors[-3000:]}"
            ) from None
        assert watcher.faults == [], (
            f"{watcher.sql}: {watcher.faults[:3]} {self.server.errors[-3000:]}"
        )

    def _slot(self) -> str:
        """What the database says of the slot, for a test that failed."""
        query = "SELECT pg_current_wal_lsn(), * FROM pg_replication_slots WHERE slot_name = %s"
        return str(self.database.connection.execute(query, (self.slot,)).fetchone())

    def close(self) -> None:
        for watcher in self._watchers:
            watcher.close()
        self.server.close()
        self.database.close()
