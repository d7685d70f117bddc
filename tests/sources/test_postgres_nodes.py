"""Several nodes and one database: one of them follows it, and another goes on when it does not."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cluster.nats_kit import Gate, NatsCluster, NatsServer
from postgres_kit import Database, Followed, Watcher, eventually
from test_postgres_crashes import TABLES, Writer, following_worker, history_is_exact

# A freeze is over when PostgreSQL has ended the connections of whoever is frozen.
ROUNDS = int(os.environ.get("FAULT_ROUNDS", "1"))


class Node(Followed):
    """One of the servers; the database is everybody's."""

    def close(self) -> None:
        for watcher in self._watchers:
            watcher.close()
        self.server.close()

    @property
    def reads(self) -> bool:
        """Whether it says that it is the one who follows."""
        try:
            return self.server.metric("source_up", source="shop") == 1
        except OSError:
            return False

    @property
    def stands_by(self) -> bool:
        return self.server.metric("source_standby", source="shop") == 1

    def state(self) -> Any:
        """How far the stream has been applied, and what it all came to."""
        path = self.server.directory / "data" / "node-KALAM.db"
        with closing(sqlite3.connect(path)) as connection:
            query = "SELECT applied, digest, last_seq, position, last FROM stream, state"
            more = "(SELECT max(position) AS position FROM source_positions), source_marks"
            return connection.execute(f"{query}, {more}").fetchone()


class Nodes:
    """Servers with the same source and the same stream."""

    def __init__(
        self, database: Database, directory: Path, urls: list[str], settings: dict[str, Any]
    ) -> None:
        self.database = database
        self.all: list[Node] = []
        more = {name: value for name, value in settings.items() if name != "nats"}
        for name, url in zip("ab", urls, strict=True):
            nats = {"replicas": 1, **settings.get("nats", {})}
            log = {"url": f"{url}/KALAM", "nats": nats, "retention": {"max_bytes": "50GiB"}}
            self.all.append(Node(database, directory / name, {"log": log, **more}))

    def start(self, *flags: str) -> "Nodes":
        for node in self.all:
            node.start(*flags)
        return self

    @property
    def reader(self) -> Node:
        """The one that follows, as soon as there is one."""
        found: list[Node] = []

        def is_found() -> bool:
            found[:] = [node for node in self.all if node.server.process and node.reads]
            return bool(found)

        eventually(is_found, "a node to follow")
        [one] = found
        return one

    def other(self, node: Node) -> Node:
        [one] = [other for other in self.all if other is not node]
        return one

    def watch(self, sql: str) -> list[tuple[Node, Watcher]]:
        """A view at each of the nodes, of a table that they come to know."""
        return [(node, _known(node, sql)) for node in self.all]

    def await_equal(self, *views: list[tuple[Node, Watcher]]) -> None:
        for node, watcher in (one for view in views for one in view):
            node.await_equal(watcher)

    def are_equal(self) -> None:
        """Until all have applied the same, which has come to the same."""
        states: list[Any] = []

        def are_level() -> bool:
            # What is compared is what was found level: a message may come the moment after.
            states[:] = [node.state() for node in self.all]
            return len({state[0] for state in states}) == 1

        eventually(are_level, "the nodes to be level")
        one, other = states
        assert one == other

    def close(self) -> None:
        for node in self.all:
            node.close()


def _known(node: Node, sql: str) -> Watcher:
    found: list[Watcher] = []

    def is_taken() -> bool:
        watcher = node.watch(sql)
        eventually(lambda: watcher.ready or bool(watcher.faults), "an answer")
        found.append(watcher)
        return not watcher.faults

    eventually(is_taken, f"the table of {sql}")
    return found[-1]


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path / "nats").start()
    yield server
    server.close()


@pytest.fixture
def nodes(database: Database, tmp_path: Path, nats: NatsServer) -> Iterator[Callable[..., Nodes]]:
    made: list[Nodes] = []

    def make(*statements: str, urls: list[str] | None = None, **settings: Any) -> Nodes:
        database.run(*statements)
        made.append(Nodes(database, tmp_path, urls or [nats.url] * 2, settings))
        return made[-1]

    yield make
    for one in made:
        one.close()


Make = Callable[..., Nodes]


def test_one_node_follows_and_all_tell(nodes: Make) -> None:
    both = nodes(*TABLES).start()
    views = both.watch("SELECT * FROM public.t")
    both.await_equal(views)
    reader = both.reader
    standby = both.other(reader)
    eventually(lambda: standby.stands_by, "the other one to stand by")
    assert not standby.reads
    assert not reader.stands_by
    for node in both.all:
        assert node.server.request("GET", "/readyz").status == 200
        post = b'[{"table":"public.t","change_type":"insert","row_data":{"id":1}}]'
        assert node.server.post_raw(post).status == 403
    both.database.run(
        "UPDATE t SET v = 7 WHERE id < 9",
        "ALTER TABLE t ADD extra int DEFAULT 3",
        "CREATE TABLE later (id int PRIMARY KEY, n numeric(9, 2))",
        "INSERT INTO later VALUES (1, 1.50)",
    )
    both.await_equal(views, both.watch("SELECT * FROM public.later"))
    both.database.run("TRUNCATE t", "INSERT INTO t VALUES (5, 5, 'five')", "DROP TABLE later")
    both.await_equal(views)
    both.are_equal()
    assert "ERROR" not in standby.server.errors


@pytest.mark.long
def test_another_node_goes_on_when_the_one_that_follows_dies_or_is_frozen(nodes: Make) -> None:
    seed = int(os.environ.get("SEED", random.randrange(10**6)))
    print(f"SEED={seed}")
    dice = random.Random(seed)
    both = nodes(*TABLES).start()
    views = [
        both.watch("SELECT * FROM public.t"),
        both.watch("SELECT id, v FROM public.t WHERE v > 3"),
    ]
    with Writer(both.database, seed):
        for _ in range(ROUNDS):
            for _ in range(3):
                time.sleep(dice.uniform(0.05, 1.5))
                _kill(both, dice)
            _freeze(both)
    both.await_equal(*views)
    for node in both.all:
        history_is_exact(node)
    both.are_equal()


def _kill(both: Nodes, dice: random.Random) -> None:
    reader = both.reader
    reader.server.kill()
    if dice.random() < 0.7:
        _await_other(both, reader, "killed")
    reader.start()


def _await_other(both: Nodes, reader: Node, what: str) -> None:
    began = time.monotonic()
    eventually(lambda: both.other(reader).reads, "the other one to follow")
    print(f"{what}: another one followed after {time.monotonic() - began:.1f} s")


def _freeze(both: Nodes) -> None:
    """The reader stands still until another one has gone on, and then goes on where it stood."""
    reader = both.reader
    reader.server.signal(signal.SIGSTOP)
    try:
        _await_other(both, reader, "frozen")
    finally:
        reader.server.signal(signal.SIGCONT)
    eventually(lambda: reader.stands_by, "the one that was frozen to stand by")
    assert both.other(reader).reads


@pytest.mark.long
def test_a_copy_that_was_cut_off_is_made_by_another_node(nodes: Make) -> None:
    both = nodes().start()
    reader = both.reader
    other = both.other(reader)
    both.database.run(
        "CREATE TABLE history (number int)",
        "INSERT INTO history SELECT generate_series(1, 5000)",
        "CREATE TABLE big (id int PRIMARY KEY, v text)",
        "INSERT INTO big SELECT n, repeat('x', 200) FROM generate_series(1, 200000) n",
    )
    eventually(
        lambda: reader.server.metric("changes_ingested_total", table="public.big") > 10_000,
        "a part of the copy",
    )
    reader.server.kill()
    both.database.run("DELETE FROM big WHERE id % 3 = 0", "UPDATE big SET v = 'y' WHERE id < 9")
    eventually(lambda: other.reads, "the other one to follow")
    assert "public.big copied" not in reader.server.errors
    reader.start()
    both.await_equal(both.watch("SELECT * FROM public.big WHERE id < 900"))
    for node in both.all:
        history_is_exact(node)
    both.are_equal()


def test_a_stream_that_is_away_for_a_while_gets_everything_in_order(
    nodes: Make, nats: NatsServer
) -> None:
    both = nodes(*TABLES).start()
    views = both.watch("SELECT * FROM public.t")
    both.await_equal(views)
    with Writer(both.database, 5):
        for seconds in (0.3, 3):
            nats.kill()
            time.sleep(seconds)
            nats.restart()
            _await_more(both.database)
    both.await_equal(views)
    for node in both.all:
        history_is_exact(node)
    both.are_equal()


def _await_more(database: Database) -> None:
    written = database.value("SELECT count(*) FROM history")
    eventually(
        lambda: bool(database.value("SELECT count(*) FROM history") > written), "more to be written"
    )


@pytest.mark.long
def test_workers_of_all_nodes_follow_in_turn(nodes: Make) -> None:
    both = nodes(*TABLES).start("--workers", "2")
    views = both.watch("SELECT * FROM public.t")
    both.await_equal(views)
    reader = both.reader
    with Writer(both.database, 6):
        worker = following_worker(reader)
        os.kill(worker, signal.SIGKILL)
        eventually(lambda: following_worker(reader) not in (0, worker), "another worker")
        reader = both.reader
        reader.server.kill()
        eventually(lambda: both.other(reader).reads, "the other node to follow")
        reader.start("--workers", "2")
    both.await_equal(views)
    for node in both.all:
        history_is_exact(node)
    both.are_equal()


def test_a_node_that_is_cut_off_from_the_stream_leaves_the_source_to_another(
    nodes: Make, nats: NatsServer
) -> None:
    gates = [Gate(nats.port) for _ in "ab"]
    patience = {"append_timeout": "2s", "stale_after": "2s"}
    both = nodes(*TABLES, urls=[gate.url for gate in gates], nats=patience).start()
    try:
        views = both.watch("SELECT * FROM public.t")
        both.await_equal(views)
        with Writer(both.database, 8):
            reader = both.reader
            between = gates[both.all.index(reader)]
            between.sever()
            eventually(lambda: both.other(reader).reads, "the other node to follow")
            assert not reader.reads
            between.restore()
        both.await_equal(views)
        for node in both.all:
            history_is_exact(node)
        both.are_equal()
    finally:
        for gate in gates:
            gate.close()


def test_a_stream_that_lost_its_end_is_told_what_is_there_anew(
    nodes: Make, nats: NatsServer, tmp_path: Path
) -> None:
    both = nodes(*TABLES).start()
    views = both.watch("SELECT * FROM public.t")
    both.await_equal(views)
    nats.stop()
    shutil.copytree(nats.store, tmp_path / "backup")
    nats.restart()
    both.database.run("DELETE FROM t WHERE id < 50", "UPDATE t SET v = 3 WHERE id > 150")
    both.await_equal(views)
    nats.stop()
    shutil.rmtree(nats.store)
    shutil.copytree(tmp_path / "backup", nats.store)
    nats.restart()
    both.database.run("UPDATE t SET v = 4 WHERE id > 180", "INSERT INTO t VALUES (7, 7, 'seven')")
    both.await_equal(views)
    both.are_equal()


def test_who_has_lost_the_lock_lets_go_and_somebody_goes_on(nodes: Make) -> None:
    both = nodes(*TABLES).start()
    views = both.watch("SELECT * FROM public.t")
    both.await_equal(views)
    with Writer(both.database, 9):
        for _ in range(3):
            reader = both.reader
            before = _turns(both)
            [(pid,)] = both.database.run(
                "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted"
                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
            both.database.run(f"SELECT pg_terminate_backend({pid})")
            eventually(lambda before=before: _turns(both) > before, "another turn")
            assert reader.server.process is not None
    both.await_equal(views)
    for node in both.all:
        history_is_exact(node)


def _turns(both: Nodes) -> int:
    return sum(node.server.errors.count("this node follows it") for node in both.all)


def test_messages_are_no_larger_than_the_stream_takes(nodes: Make, tmp_path: Path) -> None:
    small = NatsServer(tmp_path / "small", max_payload=128 * 1024).start()
    both = nodes(
        "CREATE TABLE t (id int PRIMARY KEY, v text)",
        "INSERT INTO t SELECT n, repeat('x', 1000) FROM generate_series(1, 3000) n",
        "CREATE TABLE loose (id int, v text)",
        "INSERT INTO loose SELECT n, repeat('x', 1000) FROM generate_series(1, 300) n",
        urls=[small.url] * 2,
    ).start()
    try:
        views = both.watch("SELECT * FROM public.t")
        both.await_equal(views)
        both.database.run(
            "UPDATE t SET v = repeat('y', 1100) WHERE id < 2500",
            "DELETE FROM t WHERE id > 2000",
            "TRUNCATE t",
            "INSERT INTO t SELECT n, repeat('z', 60000) FROM generate_series(1, 30) n",
        )
        both.await_equal(views)
        both.are_equal()
        assert "has no primary key and more than" in "".join(n.server.errors for n in both.all)
    finally:
        both.close()
        small.close()


def test_a_slot_that_nobody_can_follow_does_not_fill_the_databases_disk(
    nodes: Make, nats: NatsServer
) -> None:
    patience = {"append_timeout": "1s", "stale_after": "1s"}
    source = {"source": {"max_slot_bytes": "16MiB"}}
    both = nodes(*TABLES, nats=patience, **source).start()
    views = both.watch("SELECT * FROM public.t")
    both.await_equal(views)
    nats.kill()
    both.database.run(
        "CREATE TABLE much AS SELECT repeat(n::text, 9) AS v FROM generate_series(1, 400000) n",
        "UPDATE t SET v = 8",
    )
    slots = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"
    eventually(lambda: bool(both.database.value(slots) == 0), "the slot to be dropped")
    nats.restart()
    both.await_equal(views)
    both.are_equal()


@pytest.mark.long
def test_a_new_leader_of_the_stream_costs_nothing(nodes: Make, tmp_path: Path) -> None:
    servers = NatsCluster(tmp_path / "three").start()
    hosts = ",".join(url.removeprefix("nats://") for url in servers.urls)
    both = nodes(*TABLES, urls=[f"nats://{hosts}"] * 2, nats={"replicas": 3}).start()
    try:
        views = both.watch("SELECT * FROM public.t")
        both.await_equal(views)
        with Writer(both.database, 11):
            for _ in range(ROUNDS):
                leader = servers.leader_of("KALAM")
                leader.kill()
                _await_more(both.database)
                both.reader.server.kill()
                for node in both.all:
                    if node.server.process is None or node.server.process.poll() is not None:
                        node.start()
                leader.restart()
        both.await_equal(views)
        for node in both.all:
            history_is_exact(node)
        both.are_equal()
    finally:
        both.close()
        servers.close()


@pytest.mark.parametrize("way", ["--keep-rows", "--from-stream"])
def test_a_source_goes_on_after_an_operator_has_decided_whose_rows_stand(
    nodes: Make, nats: NatsServer, way: str
) -> None:
    both = nodes(*TABLES).start()
    views = both.watch("SELECT * FROM public.t")
    both.await_equal(views)
    both.database.run("UPDATE t SET v = 1 WHERE id < 60")
    both.database.run("UPDATE t SET v = 2 WHERE id > 60")
    both.await_equal(views)
    both.are_equal()
    for node in both.all:
        node.server.stop()
    if way == "--from-stream":
        # What is left of it begins with marks that follow on nothing that anybody has.
        config = nats.api("STREAM.INFO.KALAM")["config"]
        nats.api("STREAM.UPDATE.KALAM", {**config, "max_msgs": 2})
        nats.api("STREAM.UPDATE.KALAM", config)
    else:
        nats.delete_stream("KALAM")
    both.database.run("UPDATE t SET v = 3 WHERE id > 120", "DELETE FROM t WHERE id < 9")
    first = both.all[0]
    command = [sys.executable, "-m", "kalam_notify", "rebuild", way, "--yes", "--config"]
    subprocess.run([*command, str(first.server.config_file)], check=True, timeout=60)
    both.start()
    both.await_equal(views)
    both.database.run("UPDATE t SET v = 4 WHERE id = 150", "DELETE FROM t WHERE id < 19")
    both.await_equal(views)
    both.are_equal()
