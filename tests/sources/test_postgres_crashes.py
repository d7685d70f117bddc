"""Exactly once, whoever dies: server, worker, PostgreSQL, slot, data directory."""

import os
import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from postgres_kit import Database, Followed, eventually, running_cluster

Follow = Callable[..., Followed]

TABLES = (
    "CREATE TABLE t (id int PRIMARY KEY, v int, long text)",
    "ALTER TABLE t ALTER long SET STORAGE EXTERNAL",
    "INSERT INTO t SELECT n, 0, repeat(n::text, 3000) FROM generate_series(1, 200) n",
    "CREATE TABLE history (number int, at timestamptz DEFAULT now())",
)


class Writer:
    """Somebody who writes to `t` and `history` for as long as PostgreSQL lets them."""

    def __init__(self, database: Database, seed: int) -> None:
        self._database = database
        self._dice = random.Random(seed)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._number = 0

    def _run(self) -> None:
        while not self._end.is_set():
            try:
                with self._database.connect() as connection:
                    while not self._end.is_set():
                        with connection.transaction():
                            self._write(connection)
                        # Not more than the followers of a busy machine keep up with.
                        self._end.wait(0.005)
            except psycopg.Error:
                time.sleep(0.05)

    def _write(self, connection: psycopg.Connection) -> None:
        dice = self._dice
        for _ in range(dice.choice((1, 1, 1, 5, 300))):
            self._number += 1
            connection.execute("INSERT INTO history VALUES (%s)", (self._number,))
            id = dice.randrange(1, 260)
            match dice.randrange(4):
                case 0:
                    connection.execute("DELETE FROM t WHERE id = %s", (id,))
                case 1:
                    connection.execute(
                        "INSERT INTO t VALUES (%s, 1, %s) ON CONFLICT (id) DO UPDATE SET v = 2",
                        (id, "x" * dice.randrange(1, 9000)),
                    )
                case _:
                    connection.execute("UPDATE t SET v = v + 1 WHERE id = %s", (id,))

    def __enter__(self) -> "Writer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def history_is_exact(followed: Followed) -> None:
    """Every row of the table without a key was told exactly once."""
    expected = Counter(number for (number,) in followed.database.run("SELECT number FROM history"))
    watcher = followed.watch("SELECT number FROM public.history", **{"from": 0})
    eventually(
        lambda: bool(watcher.faults) or len(watcher.events) >= expected.total(), "the whole history"
    )
    assert watcher.faults == []
    assert Counter(one["number"] for one in watcher.events) == expected


@pytest.mark.long
def test_a_copy_that_is_cut_off_is_begun_again(follow: Follow) -> None:
    followed = follow(
        "CREATE TABLE big (id int PRIMARY KEY, v text)",
        "INSERT INTO big SELECT n, repeat('x', 200) FROM generate_series(1, 60000) n",
        "CREATE TABLE history (number int)",
        "INSERT INTO history SELECT generate_series(1, 20000)",
        start=False,
    )
    followed.start()
    followed.server.kill()
    followed.start()
    followed.server.kill()
    followed.database.run("DELETE FROM big WHERE id % 3 = 0", "UPDATE big SET v = 'y' WHERE id < 9")
    followed.start()
    watcher = followed.watch("SELECT * FROM public.big WHERE id < 500")
    followed.await_equal(watcher)
    history_is_exact(followed)


@pytest.mark.long
def test_kills_of_either_side_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    seed = int(os.environ.get("SEED", random.randrange(10**6)))
    kills = int(os.environ.get("KILLS", "6"))
    print(f"SEED={seed} KILLS={kills}")
    dice = random.Random(seed)
    with running_cluster() as cluster:
        # Long runs write more than the log keeps by default, and all of it is compared.
        keep = {"log": {"retention": {"max_bytes": "50GiB"}}}
        followed = Followed(Database(cluster), tmp_path, keep)
        followed.database.run(*TABLES)
        try:
            followed.start()
            watchers = [
                followed.watch("SELECT * FROM public.t"),
                followed.watch("SELECT id, v FROM public.t WHERE v > 3"),
            ]
            with Writer(followed.database, seed):
                for _ in range(kills):
                    time.sleep(dice.uniform(0.05, 1.5))
                    if dice.random() < 0.6:
                        followed.server.kill()
                        time.sleep(dice.uniform(0, 0.3))
                        followed.start()
                    else:
                        cluster.kill()
                        time.sleep(dice.uniform(0, 0.3))
                        cluster.start()
            followed.database.connection = followed.database.connect()
            for watcher in watchers:
                followed.await_equal(watcher)
            history_is_exact(followed)
        finally:
            if followed.database.connection.broken:
                followed.database.connection = followed.database.connect()
            followed.close()


def test_a_slot_that_is_gone_is_made_anew_and_only_differences_are_told(follow: Follow) -> None:
    followed = follow(*TABLES)
    watcher = followed.watch("SELECT * FROM public.t")
    followed.await_equal(watcher)
    acks = len(watcher.acks)
    followed.server.stop()
    followed.database.run(
        f"SELECT pg_drop_replication_slot('{followed.slot}')",
        "DELETE FROM t WHERE id = 1",
        "UPDATE t SET v = 9 WHERE id = 2",
        "INSERT INTO t VALUES (900, 1, 'new')",
    )
    followed.start()
    eventually(lambda: "was gone" in followed.server.errors, "the new slot to be told")
    followed.await_equal(watcher)
    resumed = watcher.acks[acks:]
    assert [ack["resumed"] for ack in resumed] == [True]


def test_a_data_directory_put_back_is_brought_up_again(follow: Follow, tmp_path: Path) -> None:
    followed = follow(*TABLES)
    watcher = followed.watch("SELECT * FROM public.t")
    followed.await_equal(watcher)
    followed.server.stop()
    data = Path(followed.server.settings["server"]["data_dir"])
    shutil.copytree(data, tmp_path / "copy")
    followed.start()
    followed.database.run("UPDATE t SET v = 5 WHERE id < 50", "DELETE FROM t WHERE id > 150")
    followed.await_equal(watcher)
    followed.server.stop()
    shutil.rmtree(data)
    shutil.copytree(tmp_path / "copy", data)
    followed.start()
    followed.await_equal(watcher)
    fresh = followed.watch("SELECT * FROM public.t")
    followed.await_equal(fresh)


def test_an_empty_data_directory_goes_on_with_the_slot_that_is_there(follow: Follow) -> None:
    followed = follow(*TABLES)
    followed.server.stop()
    shutil.rmtree(followed.server.settings["server"]["data_dir"])
    followed.database.run("UPDATE t SET v = 5 WHERE id < 50")
    followed.start()
    watcher = followed.watch("SELECT * FROM public.t")
    followed.await_equal(watcher)
    followed.database.run("UPDATE t SET v = 6 WHERE id < 50")
    followed.await_equal(watcher)


def test_a_log_in_memory_is_filled_again_at_every_start(follow: Follow) -> None:
    followed = follow(*TABLES, log={"url": "memory:"})
    watcher = followed.watch("SELECT * FROM public.t")
    followed.await_equal(watcher)
    followed.server.kill()
    followed.database.run("DELETE FROM t WHERE id < 50")
    followed.start()
    followed.await_equal(watcher)
    followed.database.run("DELETE FROM t WHERE id < 60")
    followed.await_equal(watcher)


def following_worker(followed: Followed) -> int:
    """The worker that holds the lock of the source."""
    lock = Path(followed.server.settings["server"]["data_dir"]) / "source-shop.lock"
    inode = str(lock.stat().st_ino)
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if fields[1] == "FLOCK" and fields[-3].endswith(f":{inode}"):
            return int(fields[4])
    return 0


def test_another_worker_goes_on_when_the_one_that_follows_dies(follow: Follow) -> None:
    followed = follow(*TABLES, start=False)
    followed.start("--workers", "3")
    watchers = [followed.watch("SELECT * FROM public.t") for _ in range(4)]
    for watcher in watchers:
        followed.await_equal(watcher)
    first = following_worker(followed)
    with Writer(followed.database, 7):
        os.kill(first, signal.SIGKILL)
        eventually(lambda: following_worker(followed) not in (0, first), "another one to follow")
    for watcher in watchers:
        followed.await_equal(watcher)
    followed.database.run("ALTER TABLE t ADD c int DEFAULT 4")
    for watcher in watchers:
        followed.await_equal(watcher)
    history_is_exact(followed)
