"""What operators see of a source: prerequisites, metrics, a database that is away, the guard."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from postgres_kit import Database, Followed, eventually, running_cluster

from loadtest.harness.postgres import Cluster

Follow = Callable[..., Followed]


def kalam_notify(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "kalam_notify", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def config_of(directory: Path, url: str, **source: object) -> Path:
    path = directory / "config.yaml"
    settings = {
        "server": {"data_dir": str(directory / "data"), "listen": "127.0.0.1:0"},
        "auth": {"anonymous": True},
        "sources": {"shop": {"postgres": url, **source}},
    }
    path.write_text(yaml.safe_dump(settings))
    return path


def test_everything_that_is_missing_is_told_at_once_with_its_cure(tmp_path: Path) -> None:
    with running_cluster(
        settings={"wal_level": "replica", "max_replication_slots": "0"}
    ) as cluster:
        with cluster.connect() as connection:
            connection.execute("CREATE ROLE reader LOGIN")
            connection.execute("CREATE TABLE orders (id int PRIMARY KEY)")
            connection.execute("CREATE TABLE loose (a int)")
        config = config_of(tmp_path, cluster.dsn(user="reader"))
        for arguments in (
            ("check-config", str(config), "--connect"),
            ("serve", "--config", str(config)),
        ):
            done = kalam_notify(*arguments)
            assert done.returncode == 2, done.stderr
            for cure in (
                "ALTER SYSTEM SET wal_level = logical",
                'ALTER ROLE "reader" REPLICATION',
                "ALTER SYSTEM SET max_replication_slots",
                'GRANT SELECT ON "public"."loose", "public"."orders"',
                'ALTER TABLE "public"."loose" REPLICA IDENTITY FULL',
                'CREATE PUBLICATION "kalam_shop" FOR TABLE "public"."loose", "public"."orders"',
            ):
                assert cure in done.stderr, (cure, done.stderr)


def test_the_cures_are_enough_for_a_role_without_rights(cluster: Cluster, tmp_path: Path) -> None:
    database = Database(cluster)
    role = f"r_{database.name}"
    database.run(
        "CREATE TABLE orders (id int PRIMARY KEY, v int)",
        "INSERT INTO orders VALUES (1, 1)",
        f"CREATE ROLE {role} LOGIN REPLICATION",
        f"GRANT SELECT ON orders TO {role}",
        f"CREATE PUBLICATION kalam_{database.name} FOR TABLE orders",
    )
    url = cluster.dsn(database.name, role)
    followed = Followed(database, tmp_path, {"source": {"postgres": url}})
    try:
        followed.start()
        watcher = followed.watch("SELECT * FROM public.orders")
        followed.await_equal(watcher)
        database.run("UPDATE orders SET v = 2")
        followed.await_equal(watcher)
    finally:
        followed.close()
        with cluster.connect() as connection:
            connection.execute(f"DROP ROLE {role}".encode())


def test_a_database_that_is_not_there_is_told_with_exit_code_2(tmp_path: Path) -> None:
    config = config_of(tmp_path, "postgresql://nobody@127.0.0.1:1/nothing")
    done = kalam_notify("serve", "--config", str(config))
    assert done.returncode == 2
    assert "sources.shop" in done.stderr
    assert "does not answer" in done.stderr


def test_a_role_or_a_database_that_is_not_there_is_told(cluster: Cluster, tmp_path: Path) -> None:
    for url in (cluster.dsn("postgres", "nobody"), cluster.dsn("nothing")):
        done = kalam_notify("check-config", str(config_of(tmp_path, url)), "--connect")
        assert done.returncode == 2
        assert "does not exist" in done.stderr


def test_row_level_security_that_would_hide_rows_is_told(cluster: Cluster, tmp_path: Path) -> None:
    database = Database(cluster)
    role = f"r_{database.name}"
    try:
        database.run(
            "CREATE TABLE orders (id int PRIMARY KEY)",
            "ALTER TABLE orders ENABLE ROW LEVEL SECURITY",
            f"CREATE ROLE {role} LOGIN REPLICATION",
            f"GRANT SELECT ON orders TO {role}",
            "CREATE PUBLICATION kalam_shop FOR TABLE orders",
        )
        url = cluster.dsn(database.name, role)
        done = kalam_notify("check-config", str(config_of(tmp_path, url)), "--connect")
        assert (done.returncode, "BYPASSRLS" in done.stderr) == (2, True), done.stderr
    finally:
        database.close()
        with cluster.connect() as connection:
            connection.execute(f"DROP ROLE {role}".encode())


def test_check_config_without_connect_asks_nobody(tmp_path: Path) -> None:
    config = config_of(tmp_path, "postgresql://nobody@127.0.0.1:1/nothing")
    assert kalam_notify("check-config", str(config)).returncode == 0


def test_metrics_tell_of_the_source(follow: Follow) -> None:
    followed = follow("CREATE TABLE t (id int PRIMARY KEY)")
    eventually(lambda: followed.server.metric("source_up", source="shop") == 1, "source_up")
    followed.database.run("INSERT INTO t SELECT generate_series(1, 500)")
    name = {"table": "public.t"}
    eventually(
        lambda: followed.server.metric("changes_ingested_total", **name) == 500, "the changes"
    )
    eventually(lambda: followed.server.metric("source_lag_seconds", source="shop") < 5, "no lag")
    text = followed.server.request(
        "GET", "/metrics", Authorization=f"Bearer {followed.server.token('ops', 'service')}"
    ).body.decode()
    assert 'kalam_notify_source_lag_bytes{source="shop"}' in text


def test_a_database_that_goes_away_is_waited_for(tmp_path: Path) -> None:
    with running_cluster() as cluster:
        followed = Followed(Database(cluster), tmp_path)
        followed.database.run("CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
        try:
            followed.start()
            watcher = followed.watch("SELECT * FROM public.t")
            followed.await_equal(watcher)
            cluster.stop()
            server = followed.server
            eventually(lambda: server.metric("source_up", source="shop") == 0, "source_up 0")
            assert server.request("GET", "/readyz").status == 200
            eventually(lambda: "not followed at the moment" in server.errors, "a line")
            # It is tried again several times, which the log does not show.
            time.sleep(2)
            assert server.errors.count("not followed at the moment") == 1
            # A restart meanwhile serves what is known.
            server.stop()
            followed.start()
            other = followed.watch("SELECT * FROM public.t")
            eventually(lambda: len(other.rows) == 1, "the row that is known")
            cluster.start()
            followed.database.connection = followed.database.connect()
            followed.database.run("INSERT INTO t VALUES (2)")
            followed.await_equal(watcher)
            eventually(lambda: server.metric("source_up", source="shop") == 1, "source_up 1")
        finally:
            followed.server.close()
            for one in (watcher, other):
                one.close()
            followed.database.connection = followed.database.connect()
            followed.close()


def test_a_slot_that_keeps_too_much_is_dropped_and_the_tables_copied_anew(
    follow: Follow,
) -> None:
    followed = follow(
        "CREATE TABLE t (id int PRIMARY KEY, v int)", "INSERT INTO t VALUES (1, 1)",
        start=False, source={"max_slot_bytes": "20MiB"},
    )  # fmt: skip
    followed.start()
    watcher = followed.watch("SELECT * FROM public.t")
    followed.await_equal(watcher)
    with followed.database.connect() as idle:
        # A transaction that stays open keeps the slot's WAL.
        idle.autocommit = False
        idle.execute("INSERT INTO t VALUES (2, 2)")
        followed.database.run(
            "CREATE UNLOGGED TABLE other (v text)",
            "SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000000))"
            " FROM generate_series(1, 40)",
        )
        eventually(lambda: "is dropped" in followed.server.errors, "the guard")
        idle.commit()
    followed.database.run("UPDATE t SET v = 5")
    followed.await_equal(watcher)


def test_several_sources_are_followed_side_by_side(cluster: Cluster, tmp_path: Path) -> None:
    one, other = Database(cluster), Database(cluster)
    other.run("CREATE SCHEMA mill", "CREATE TABLE mill.t (id int PRIMARY KEY)")
    one.run("CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    followed = Followed(one, tmp_path)
    followed.server.settings["sources"]["mill"] = {
        "postgres": other.url, "tables": ["mill.*"], "access": "public",
        "slot": f"kalam_{other.name}", "publication": f"kalam_{other.name}",
    }  # fmt: skip
    try:
        followed.start()
        first = followed.watch("SELECT * FROM public.t")
        second = followed.watch("SELECT * FROM mill.t")
        one.run("INSERT INTO t VALUES (2)")
        other.run("INSERT INTO mill.t VALUES (3)")
        followed.await_equal(first)
        eventually(lambda: [row["id"] for row in second.rows.values()] == [3], "the other's row")
    finally:
        followed.close()
        other.close()


def test_dev_with_a_source_leaves_no_slot_behind(database: Database, tmp_path: Path) -> None:
    database.run("CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    command = [sys.executable, "-m", "kalam_notify", "serve", "--dev", "--listen", "127.0.0.1:0"]
    with (tmp_path / "errors").open("w") as errors:
        process = subprocess.Popen(
            [*command, "--source", database.url], stdout=subprocess.PIPE, stderr=errors, text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
    try:
        assert process.stdout is not None
        url = ""
        for line in process.stdout:
            if line.startswith("listening on "):
                url = line.split()[-1]
                break
        tail = [sys.executable, "-m", "kalam_notify", "tail", "--url", url, "--json", "--snapshot"]
        shown = subprocess.Popen(
            [*tail, "SELECT * FROM public.t"], stdout=subprocess.PIPE, text=True
        )
        assert shown.stdout is not None
        assert json.loads(shown.stdout.readline())["type"] == "subscription_ack"
        assert json.loads(shown.stdout.readline())["rows"][0]["id"] == 1
        database.run("INSERT INTO t VALUES (2)")
        assert json.loads(shown.stdout.readline())["rows"][0]["id"] == 2
        shown.kill()
        shown.wait()
        shown.stdout.close()
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()
    slots = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"
    eventually(lambda: database.value(slots) == 0, "the end of the slot")


def test_who_subscribed_before_its_table_was_there_is_told_of_it(
    cluster: Cluster, tmp_path: Path
) -> None:
    database = Database(cluster)
    followed = Followed(database, tmp_path, {"tables": {"auto_create": True}})
    try:
        followed.start()
        watcher = followed.watch("SELECT * FROM public.later WHERE total > 3")
        eventually(lambda: watcher.ready, "the subscription")
        database.run(
            "CREATE TABLE later (code text PRIMARY KEY, total numeric)",
            "INSERT INTO later VALUES ('a', 2), ('b', 10.5), ('c', NULL)",
        )
        followed.await_equal(watcher)
    finally:
        followed.server.close()
        watcher.close()
        followed.close()


def test_a_reload_gives_a_sources_table_another_policy(follow: Follow) -> None:
    followed = follow(
        "CREATE TABLE t (id int PRIMARY KEY, owner text)",
        "INSERT INTO t VALUES (1, 'alice'), (2, 'bob')",
    )
    watcher = followed.watch("SELECT * FROM public.t")
    followed.await_equal(watcher)
    entry = {"type": "shared", "access": "public", "policy": "owner = 'bob'"}
    followed.server.settings["tables"]["declared"]["public.t"] = entry
    followed.server.configure(yaml.safe_dump(followed.server.settings))
    followed.server.signal(signal.SIGHUP)
    followed.await_equal(watcher, "SELECT * FROM public.t WHERE owner = 'bob'")
    followed.database.run("UPDATE t SET owner = 'bob'")
    followed.await_equal(watcher)
