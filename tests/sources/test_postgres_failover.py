"""A standby takes over: with the slot kept in step it goes on, without it all is compared."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from npm_postgres import binaries
from postgres_kit import Database, Followed, eventually, running_cluster

from loadtest.harness.postgres import Cluster


@contextmanager
def standby_of(primary: Cluster, programs: Path | None) -> Iterator[Cluster]:
    """A hot standby, made of the primary's files while it is down."""
    with primary.connect() as connection:
        connection.execute("SELECT pg_create_physical_replication_slot('standby')")
    primary.stop()
    directory = primary.directory.parent / "s"
    directory.mkdir()
    shutil.copymode(primary.directory, directory)
    owner = primary.directory.stat()
    shutil.chown(directory, owner.st_uid, owner.st_gid)
    data = [str(primary.directory / "data"), str(directory / "data")]
    subprocess.run(["cp", "-a", *data], check=True)
    (directory / "data/standby.signal").touch()
    settings = {
        "primary_conninfo": f"host={primary.directory} user=postgres dbname=postgres",
        "primary_slot_name": "standby",
        "hot_standby_feedback": "on",
    }
    primary.start()
    with primary.connect() as connection:
        if connection.info.server_version >= 170000:
            settings["sync_replication_slots"] = "on"
    standby = Cluster(directory, durable=False, binaries=programs, settings=settings)
    try:
        standby.start()
        yield standby
    finally:
        standby.stop()


@pytest.mark.long
@pytest.mark.parametrize("release", ["15", "18"])
def test_a_promoted_standby_is_followed(release: str, tmp_path: Path) -> None:
    programs = None if release == "15" else binaries(release)
    with running_cluster(binaries=programs) as primary, standby_of(primary, programs) as standby:
        database = Database(primary)
        both = f"{primary.directory},{standby.directory}"
        url = f"postgresql://postgres@/{database.name}?host={both}&target_session_attrs=read-write"
        followed = Followed(database, tmp_path, {"source": {"postgres": url}})
        watcher = None
        try:
            database.run(
                "CREATE TABLE t (id int PRIMARY KEY, v int)",
                "INSERT INTO t SELECT n, n FROM generate_series(1, 100) n",
            )
            followed.start()
            watcher = followed.watch("SELECT * FROM public.t")
            followed.await_equal(watcher)
            if release == "18":
                synced = (
                    "SELECT 1 FROM pg_replication_slots"
                    f" WHERE slot_name = '{followed.slot}' AND synced AND NOT temporary"
                )
                with standby.connect() as connection:
                    eventually(
                        lambda: connection.execute(synced.encode()).fetchone() is not None,
                        "the slot on the standby",
                    )
            database.run("UPDATE t SET v = 0 WHERE id < 50")
            followed.await_equal(watcher)
            end = database.value("SELECT pg_current_wal_lsn()::text")
            with standby.connect() as connection:
                replayed = f"SELECT pg_last_wal_replay_lsn() >= '{end}'"
                eventually(
                    lambda: connection.execute(replayed.encode()).fetchone() == (True,),
                    "the standby to have everything",
                )
                primary.kill()
                connection.execute("SELECT pg_promote()")
            database.cluster, database.url = standby, standby.dsn(database.name)
            database.connection = database.connect()
            database.run("DELETE FROM t WHERE id > 90", "UPDATE t SET v = 7 WHERE id < 10")
            followed.await_equal(watcher)
            assert ("copied anew" in followed.server.errors) is (release == "15")
        finally:
            followed.server.close()
            if watcher is not None:
                watcher.close()
            if database.connection.broken:
                database.connection = database.connect()
            followed.close()
