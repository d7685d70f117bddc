"""PostgreSQL, the feeder, the daemon and subscribers, all of them real processes."""

import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import run
from pgfeed import catalog
from pgfeed.outbox import Outbox
from pgfeed.poster import Poster
from pgfeed.session import Session
from pgfeed.streaming import Stream
from pgfeed.truncation import KeyReader
from postgres_feed import Feed
from postgres_receiver import Receiver
from rehearsal.cluster import Cluster
from rehearsal.processes import Daemon

pytest_plugins = ["postgres_fixtures"]

TABLE = ("public.t",)


class DaemonAsReceiver(Receiver):
    """The daemon in the place of the stand-in."""

    def __init__(self, daemon: Daemon) -> None:
        self.url = f"http://{daemon.address}"
        self.token = daemon.token("feeder", "service")


@pytest.fixture
def fed_daemon(cluster: Cluster, tmp_path: Path) -> Iterator[Feed]:
    """A daemon that declares public.t, and a feed into it."""
    declared = {"public.t": {"type": "shared", "primary_key": ["id"]}}
    config = tmp_path / "config.yaml"
    key = {"name": "feeder", "sha256": hashlib.sha256(b"key").hexdigest(), "role": "service"}
    settings = {
        "server": {"data_dir": str(tmp_path / "data")},
        "auth": {"jwt": {"secret": "a secret of thirty-two bytes or more"}, "api_keys": [key]},
        "tables": {"declared": declared},
    }
    config.write_text(json.dumps(settings))
    daemon = Daemon(config, tmp_path)
    daemon.start()
    feed = Feed(cluster, tmp_path, DaemonAsReceiver(daemon))
    yield feed
    feed.close()
    daemon.kill()


class Died(Exception):
    pass


class StreamThatDies(Stream):
    """Dies when everything is posted and the slot does not know."""

    def _advance(self, end: str) -> None:
        raise Died


def die_before_advancing(feed: Feed, token: str) -> None:
    state = feed.state.load()
    assert state is not None
    session = Session(feed.dsn, feed.name)
    session.lock(threading.Event())
    tables = {table.name: table for table in catalog.describe(session.connection, TABLE, "text")}
    poster = Poster(feed.receiver.url, {"X-API-Key": "key"}, threading.Event())
    keys = KeyReader(feed.receiver.url, token)
    stream = StreamThatDies(session, feed.state, state, tables, Outbox(poster), keys)
    with pytest.raises(Died):
        stream.run_once()
    session.close()
    poster.close()


def test_a_truncate_told_twice_spares_the_rows_inserted_after_it(fed_daemon: Feed) -> None:
    feed = fed_daemon
    assert isinstance(feed.receiver, DaemonAsReceiver)
    token = feed.receiver.token
    feed.run("CREATE TABLE t (id int PRIMARY KEY, v int)")
    feed.run("INSERT INTO t SELECT n, 0 FROM generate_series(1, 3000) n")
    process = feed.start(*TABLE, more=("--token", token))
    feed.await_streaming()
    assert process.end() == 0
    feed.run("BEGIN; TRUNCATE t; INSERT INTO t VALUES (2, 2), (4000, 4); COMMIT")
    die_before_advancing(feed, token)
    feed.start()
    feed.await_caught_up()
    [table] = catalog.describe(feed.database, TABLE, "text")
    assert KeyReader(feed.receiver.url, token).keys(table) == [{"id": 2}, {"id": 4000}]
    assert list(feed.state.path.glob("truncate-*")) == []


def test_a_truncate_without_access_to_the_keys_stops_the_feeder(fed_daemon: Feed) -> None:
    feed = fed_daemon
    feed.run("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    feed.start(*TABLE)
    feed.await_streaming()
    feed.run("TRUNCATE t")
    assert "give a --token" in feed.await_end(1)


@pytest.mark.usefixtures("cluster")
def test_every_view_is_exact_after_kills_on_the_way(capsys: pytest.CaptureFixture[str]) -> None:
    """The rehearsal in small; what it prints is shown when it fails."""
    code = run.main(["--seconds", "8", "--subscribers", "60", "--fast", "--pgbench-clients", "2"])
    assert code == 0, capsys.readouterr().out
