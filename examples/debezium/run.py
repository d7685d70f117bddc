"""An unmodified Debezium Server feeds the daemon, and both are killed now and then.

    python examples/debezium/run.py [--seconds 600] [--kills 5] [--rate 50] [--cache DIR]

PostgreSQL with pgbench behind it, Debezium Server's HTTP sink with Standard Webhooks' signatures,
the daemon, and a reader that polls it and keeps a view. Each side is killed (SIGKILL) as many times
as `--kills` says. In the end the view, and what a newcomer is told, must be what SELECT tells, to
the last digit. Prints a line for everything that happens; exit code 0 when all is equal.

Wants PostgreSQL's programs, Java 21 or later (JAVA_HOME), and 1 GB of disk: Debezium Server's
distribution comes from Maven Central (457 MB), once.
"""

import argparse
import contextlib
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

VERSION = "3.0.0.Final"
ARCHIVE = (
    "https://repo1.maven.org/maven2/io/debezium/debezium-server-dist/"
    f"{VERSION}/debezium-server-dist-{VERSION}.tar.gz"
)
TABLE = "shop.orders"
SCHEMA = """
create schema shop;
create table shop.orders (
    id bigint primary key, status text, total numeric(12,2) not null default 0,
    at timestamptz not null default now(), note text);
alter table shop.orders alter column note set storage external;
insert into shop.orders (id, note)
  select g, repeat(md5(g::text), 100) from generate_series(1, 50) g;
"""
# Long notes are TOASTed: an update that leaves one alone does not tell it. One that moves a row to
# another key has to, for nothing is stored under that key yet.
WORK = r"""
\set id random(1, 200)
\set kind random(1, 20)
\if :kind <= 10
update shop.orders set total = total + 0.01, at = now() where id = :id;
\elif :kind <= 15
insert into shop.orders (id, status, note) values (:id, 'open', repeat(md5(random()::text), 100))
  on conflict (id) do update set status = 'again', note = excluded.note, at = now();
\elif :kind <= 17
delete from shop.orders where id = :id;
\elif :kind <= 19
update shop.orders set id = 1000 + :id, note = note || '' where id = :id
  and not exists (select from shop.orders where id = 1000 + :id);
\else
update shop.orders set status = null where id between :id and :id + 3;
\endif
"""


def say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def distribution(cache: Path) -> Path:
    """Debezium Server's files, fetched once."""
    home = cache / "debezium-server"
    if not home.exists():
        cache.mkdir(parents=True, exist_ok=True)
        archive = cache / "debezium-server.tar.gz"
        say(f"fetching {ARCHIVE}")
        urllib.request.urlretrieve(ARCHIVE, archive)
        with tarfile.open(archive) as files:
            files.extractall(cache, filter="data")
        archive.unlink()
    return home


class Postgres:
    """A cluster of its own, thrown away at the end."""

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        self.home = Path(tempfile.mkdtemp(prefix="kalam-debezium-"))
        self.port = free_port()
        if os.geteuid() == 0:
            shutil.chown(self.home, "postgres")
        data, log = self.home / "data", self.home / "log"
        self._run("initdb", "-D", data, "-U", "postgres", "-A", "trust", "--locale=C", "-E", "UTF8")
        options = f"-k {self.home} -p {self.port} -c listen_addresses=127.0.0.1"
        options += " -c wal_level=logical -c timezone=UTC"
        self._run("pg_ctl", "-D", data, "-l", log, "-w", "-o", options, "start")

    def _run(self, program: str, *arguments: object) -> None:
        user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        command = [*user, str(self._binaries / program), *map(str, arguments)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")

    def client(self, program: str, *arguments: object) -> list[str]:
        where = ["-h", "127.0.0.1", "-p", self.port, "-U", "postgres"]
        return [str(self._binaries / program), *map(str, [*where, *arguments])]

    def ask(self, sql: str) -> str:
        done = subprocess.run(
            self.client("psql", "-X", "-At", "-v", "ON_ERROR_STOP=1", "-c", sql),
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    def close(self) -> None:
        self._run("pg_ctl", "-D", self.home / "data", "-m", "immediate", "stop")
        shutil.rmtree(self.home)


class Killable:
    """A program that can be killed, and is started again whenever it has ended, as a service is."""

    def __init__(self, name: str, command: list[str], log: Path, **how: Any) -> None:
        self.name = name
        self._start = lambda: subprocess.Popen(
            command, stdout=log.open("a"), stderr=subprocess.STDOUT, start_new_session=True, **how
        )
        self.process = self._start()
        self.kills = 0
        self._is_wanted = True
        threading.Thread(target=self._look_after, daemon=True).start()

    def _look_after(self) -> None:
        while True:
            code = self.process.wait()
            if not self._is_wanted:
                return
            if code != -signal.SIGKILL:
                # Debezium Server ends itself where its slot is still taken by its predecessor.
                say(f"{self.name} ended by itself ({code})")
                time.sleep(1)
            self.process = self._start()

    def kill(self) -> None:
        """SIGKILL; it is started anew."""
        self.kills += 1
        say(f"killing {self.name}, for the {self.kills}. time")
        self._signal(signal.SIGKILL)

    def end(self) -> None:
        self._is_wanted = False
        self._signal(signal.SIGTERM)
        self.process.wait()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def daemon(directory: Path, port: int, secret: str) -> Killable:
    settings = {
        "server": {"listen": f"127.0.0.1:{port}", "data_dir": str(directory / "data")},
        "auth": {"jwt": {"secret": secrets.token_hex(32)}, "anonymous": True},
        "tables": {
            "declared": {
                TABLE: {
                    "type": "shared",
                    "access": "public",
                    "primary_key": "id",
                    "columns": {
                        "id": "bigint",
                        "status": "text",
                        "total": "numeric(12,2)",
                        "at": "timestamptz",
                        "note": "text",
                    },
                }
            }
        },
        "ingest": {"hooks": {"debezium": {"secrets": [secret], "format": "debezium"}}},
    }
    file = directory / "config.yaml"
    file.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "kalam_notify", "serve", "--config", str(file)]
    return Killable("the daemon", command, directory / "daemon.log")


def debezium(files: Path, directory: Path, database: Postgres, hook: str, secret: str) -> Killable:
    home = directory / "debezium"
    home.mkdir()
    for name in ("lib", "jmx", "lib_metrics", "run.sh"):
        (home / name).symlink_to(files / name)
    for runner in files.glob("*runner.jar"):
        (home / runner.name).symlink_to(runner)
    source, sink = "debezium.source", "debezium.sink"
    properties = {
        f"{sink}.type": "http",
        f"{sink}.http.url": hook,
        f"{sink}.http.retries": 600,
        f"{sink}.http.authentication.type": "standard-webhooks",
        f"{sink}.http.authentication.webhook.secret": secret,
        "debezium.format.value": "json",
        "debezium.format.schemas.enable": "true",
        f"{source}.connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        f"{source}.plugin.name": "pgoutput",
        f"{source}.offset.storage.file.filename": home / "offsets.dat",
        f"{source}.offset.flush.interval.ms": 0,
        f"{source}.database.hostname": "127.0.0.1",
        f"{source}.database.port": database.port,
        f"{source}.database.user": "postgres",
        f"{source}.database.password": "none",
        f"{source}.database.dbname": "postgres",
        f"{source}.topic.prefix": "shop",
        f"{source}.table.include.list": TABLE,
        f"{source}.skipped.operations": "none",
        "quarkus.http.port": free_port(),
        "quarkus.log.console.json": "false",
        "quarkus.log.level": "INFO",
    }
    (home / "config").mkdir()
    text = "\n".join(f"{name}={value}" for name, value in properties.items())
    (home / "config/application.properties").write_text(text)
    return Killable("Debezium Server", ["bash", "run.sh"], directory / "debezium.log", cwd=home)


class Reader(threading.Thread):
    """Polls the daemon for ever, and keeps a view by what it is told."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._position: int | None = None
        self.rows: dict[int, dict[str, Any]] = {}
        self.polls = 0

    def run(self) -> None:
        while True:
            try:
                self._poll()
            except (OSError, urllib.error.URLError, json.JSONDecodeError):
                time.sleep(0.1)  # the daemon is down, or was killed in the middle of its answer

    def _poll(self) -> None:
        asked = {} if self._position is None else {"from": self._position, "wait": 1}
        answer = poll(self._url, **asked)
        for message in answer["messages"]:
            apply(message, self.rows)
        self._position = answer["position"]
        self.polls += 1


def poll(url: str, **asked: object) -> Any:
    query = urllib.parse.urlencode({"sql": f"SELECT * FROM {TABLE}", **asked})
    with urllib.request.urlopen(f"{url}/v1/poll?{query}", timeout=60) as response:
        return json.load(response)


def apply(message: dict[str, Any], rows: dict[int, dict[str, Any]]) -> None:
    """Take one message into a view; fails where it does not fit."""
    if message.get("change_type") == "delete":
        for row in message["old_values"]:
            del rows[row["id"]]
        return
    for row in message.get("rows", ()):
        if message.get("change_type") == "insert":
            assert row["id"] not in rows, row
        rows[row["id"]] = row


def seen(rows: dict[int, dict[str, Any]]) -> dict[int, tuple[Any, ...]]:
    return {
        key: (row["status"], row["total"], datetime.fromisoformat(row["at"]), row["note"])
        for key, row in rows.items()
    }


def selected(database: Postgres) -> dict[int, tuple[Any, ...]]:
    columns = "id, status, total::text, to_char(at, 'YYYY-MM-DD\"T\"HH24:MI:SS.US+00:00'), note"
    found = database.ask(f"select json_agg(json_build_array({columns})) from {TABLE}")
    return {
        key: (status, total, datetime.fromisoformat(at), note)
        for key, status, total, at, note in json.loads(found)
    }


@contextlib.contextmanager
def everything(options: argparse.Namespace) -> Iterator[tuple[Postgres, Killable, Killable, str]]:
    files = distribution(options.cache)
    directory = Path(tempfile.mkdtemp(prefix="kalam-debezium-run-"))
    secret = f"whsec_{b64encode(secrets.token_bytes(32)).decode()}"
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with contextlib.ExitStack() as stack:
        stack.callback(say, f"logs are in {directory}")
        database = Postgres(options.postgres)
        stack.callback(database.close)
        subprocess.run(
            database.client("psql", "-q", "-v", "ON_ERROR_STOP=1"),
            input=SCHEMA,
            text=True,
            check=True,
        )
        server = daemon(directory, port, secret)
        stack.callback(server.end)
        feeder = debezium(files, directory, database, f"{url}/v1/hooks/debezium", secret)
        stack.callback(feeder.end)
        yield database, server, feeder, url


def until(true: Any, what: str, seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--kills", type=int, default=5, help="of either side")
    parser.add_argument("--rate", type=int, default=50, help="transactions a second")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/kalam-notify")
    parser.add_argument("--postgres", type=Path, default=Path("/usr/lib/postgresql/15/bin"))
    options = parser.parse_args()
    with everything(options) as (database, server, feeder, url):
        reader = Reader(url)
        reader.start()
        until(lambda: len(reader.rows) == 50, "the snapshot")
        say("the snapshot has come")
        script = database.home / "work.sql"
        script.write_text(WORK)
        bench = subprocess.Popen(
            database.client(
                *("pgbench", "-n", "-f", script, "-c", 2, "-R", options.rate),
                *("-T", options.seconds, "postgres"),
            ),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        pause = options.seconds / (2 * options.kills + 1)
        for victim in random.sample([server, feeder] * options.kills, 2 * options.kills):
            time.sleep(pause)
            victim.kill()
        assert bench.wait() == 0
        say("pgbench is done")
        expected = selected(database)
        until(lambda: seen(dict(reader.rows)) == expected, "the view is what SELECT tells")
        fresh: dict[int, dict[str, Any]] = {}
        for message in poll(url)["messages"]:
            apply(message, fresh)
        assert seen(fresh) == expected
        updates = database.ask("select n_tup_ins + n_tup_upd + n_tup_del from pg_stat_user_tables")
        say(f"equal: {len(expected)} rows after {updates} changes, {reader.polls} polls")
        say(f"{server.kills} kills of the daemon, {feeder.kills} of Debezium Server")
    return 0


if __name__ == "__main__":
    sys.exit(main())
