"""Schema changes are followed while others write: no stop, no step by hand."""

import signal
import threading
from collections.abc import Callable

import pytest
from postgres_kit import Database, Followed, eventually

Follow = Callable[..., Followed]

TABLE = (
    "CREATE TABLE t (id int PRIMARY KEY, a int, b text)",
    "INSERT INTO t SELECT n, n, 'b' || n FROM generate_series(1, 300) n",
)


class Load:
    """Somebody who updates rows of `t` all the time, whatever columns it has."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        with self._database.connect() as connection:
            number = 0
            while not self._end.is_set():
                number += 1
                connection.execute(f"UPDATE t SET id = id WHERE id = {number % 300 + 1}".encode())

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


CHANGES = [
    "ALTER TABLE t ADD c int DEFAULT 7",
    "ALTER TABLE t ADD c text",
    "ALTER TABLE t ADD c uuid DEFAULT gen_random_uuid()",
    "ALTER TABLE t DROP b",
    "ALTER TABLE t RENAME b TO renamed",
    "ALTER TABLE t ALTER a TYPE text",
    "ALTER TABLE t ALTER a TYPE int USING a + 1",
    "ALTER TABLE t ALTER a TYPE numeric(10,2), ADD d bool DEFAULT true, DROP b",
    "BEGIN; LOCK TABLE t; UPDATE t SET a = 0 WHERE id < 9; ALTER TABLE t ADD c int DEFAULT 1;"
    " UPDATE t SET c = 2 WHERE id < 5; COMMIT",
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_table_is_what_postgresql_answers(follow: Follow, change: str) -> None:
    followed = follow(*TABLE)
    watcher = followed.watch("SELECT * FROM public.t")
    followed.await_equal(watcher)
    with Load(followed.database):
        followed.database.run(change)
    followed.await_equal(watcher)
    # Subscribers are told of the new columns, too.
    described = followed.database.connection.execute("SELECT * FROM t LIMIT 0").description or []
    columns = [column.name for column in described]
    eventually(
        lambda: [column["name"] for column in watcher.acks[-1]["schema"]] == columns,
        "the new schema",
    )


def test_a_value_of_an_enum_is_renamed_on_every_row(follow: Follow) -> None:
    followed = follow(
        "CREATE TYPE mood AS ENUM ('sad', 'happy')",
        "CREATE TABLE t (id int PRIMARY KEY, m mood)",
        "INSERT INTO t VALUES (1, 'sad'), (2, 'happy')",
    )
    watcher = followed.watch("SELECT * FROM public.t")
    followed.await_equal(watcher)
    followed.database.run("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'")
    followed.await_equal(watcher)


def test_who_does_not_know_of_gaps_is_told_that_the_table_changed(follow: Follow) -> None:
    followed = follow(*TABLE)
    watcher = followed.watch("SELECT * FROM public.t", on_gap="error")
    followed.await_equal(watcher)
    followed.database.run("ALTER TABLE t ADD c int DEFAULT 7")
    eventually(lambda: bool(watcher.faults), "the end of the subscription")
    assert watcher.faults[0].startswith("RESUME_EXPIRED")


def test_tables_that_are_created_later_are_followed(follow: Follow) -> None:
    followed = follow(*TABLE)
    followed.database.run(
        "CREATE TABLE later (id int PRIMARY KEY, v int)",
        "INSERT INTO later SELECT n, n FROM generate_series(1, 50) n",
    )
    eventually(lambda: "follows public.later" in followed.server.errors, "the new table")
    watcher = followed.watch("SELECT * FROM public.later WHERE v > 10")
    followed.await_equal(watcher)
    followed.database.run("UPDATE later SET v = 0 WHERE id < 30")
    followed.await_equal(watcher)


def test_what_a_transaction_wrote_before_its_table_was_followed_is_not_lost(
    follow: Follow,
) -> None:
    followed = follow(*TABLE)
    with followed.database.connect() as writer:
        followed.database.run("CREATE TABLE later (id int PRIMARY KEY)")
        writer.autocommit = False
        writer.execute("INSERT INTO later VALUES (1)")
        name = f"kalam_{followed.database.name}"
        published = f"SELECT 1 FROM pg_publication_tables WHERE pubname = '{name}'"
        published += " AND tablename = 'later'"
        eventually(lambda: bool(followed.database.run(published)), "the publication")
        writer.execute("INSERT INTO later VALUES (2)")
        writer.commit()
    eventually(lambda: "follows public.later" in followed.server.errors, "the new table")
    watcher = followed.watch("SELECT * FROM public.later")
    followed.await_equal(watcher)
    assert len(watcher.rows) == 2


def test_a_dropped_table_ends_its_subscriptions_and_its_rows(follow: Follow) -> None:
    followed = follow(*TABLE)
    watcher = followed.watch("SELECT * FROM public.t")
    followed.await_equal(watcher)
    followed.database.run("DROP TABLE t")
    eventually(lambda: bool(watcher.faults), "the end of the subscription")
    assert watcher.faults == ["NOT_FOUND: there is no table public.t"]
    assert watcher.rows == {}
    followed.database.run("CREATE TABLE t (name text PRIMARY KEY)", "INSERT INTO t VALUES ('x')")
    follows = "follows public.t"
    eventually(lambda: followed.server.errors.count(follows) == 2, "the new table")
    again = followed.watch("SELECT * FROM public.t")
    followed.await_equal(again)


def test_a_renamed_table_is_another_table(follow: Follow) -> None:
    followed = follow(*TABLE)
    followed.database.run("ALTER TABLE t RENAME TO other")
    eventually(lambda: "follows public.other" in followed.server.errors, "the new name")
    watcher = followed.watch("SELECT * FROM public.other")
    followed.await_equal(watcher)
    followed.database.run("UPDATE other SET a = 0")
    followed.await_equal(watcher)


def test_a_table_may_get_another_key(follow: Follow) -> None:
    followed = follow(*TABLE)
    watcher = followed.watch("SELECT * FROM public.t")
    followed.await_equal(watcher)
    followed.database.run(
        "BEGIN; ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (b); COMMIT"
    )
    eventually(
        lambda: (
            [c["name"] for c in watcher.acks[-1]["schema"] if "pk" in c.get("flags", ())] == ["b"]
        ),
        "the new key",
    )
    followed.await_equal(watcher)
    followed.database.run("UPDATE t SET id = 0 WHERE a < 100")
    followed.await_equal(watcher)


def test_a_new_table_that_somebody_locks_keeps_nobody_else_waiting(follow: Follow) -> None:
    followed = follow(*TABLE)
    watcher = followed.watch("SELECT * FROM public.t")
    followed.await_equal(watcher)
    with followed.database.connect() as owner:
        # The table is not to be seen before it is locked.
        followed.server.signal(signal.SIGSTOP)
        owner.execute("CREATE TABLE busy (a int)")
        owner.autocommit = False
        owner.execute("LOCK TABLE busy IN ACCESS EXCLUSIVE MODE")
        followed.server.signal(signal.SIGCONT)
        eventually(lambda: "lock timeout" in followed.server.errors, "the lock to be met")
        followed.database.run("UPDATE t SET a = 0 WHERE id < 100")
        followed.await_equal(watcher)
        owner.commit()
    eventually(lambda: "follows public.busy" in followed.server.errors, "the table")
