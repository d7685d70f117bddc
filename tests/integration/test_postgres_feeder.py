"""The PostgreSQL feeder as a real process against a real PostgreSQL."""

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from pgfeed import catalog
from pgfeed.faults import SetupFault
from pgfeed.state import State
from postgres_feed import Feed

pytest_plugins = ["postgres_fixtures"]

ALL_TYPES = """
    CREATE TYPE mood AS ENUM ('glad', 'sad'); CREATE DOMAIN short AS varchar(8);
    CREATE TABLE t (id int PRIMARY KEY, small smallint, big bigint, r real, f float8, n numeric,
        b boolean, ts timestamp, tz timestamptz, d date, iv interval, j json, jb jsonb,
        raw bytea, c char(5), s text, arr int[], u uuid, m mood, dom short, "Odd ""name" text,
        twice int GENERATED ALWAYS AS (id * 2) STORED);
    ALTER TABLE t REPLICA IDENTITY FULL;
"""
A_ROW = """
    INSERT INTO t VALUES ({id}, -7, 9223372036854775807, 0.1, 1e300, 1234567890.123456789012345670,
        true, '2026-01-02 03:04:05.5', '2026-01-02 03:04:05+02', '2026-01-02', '1 day 02:00',
        E'{{"a" :\\n [1.50, null]}}', '{{"z": 12345678901234567890123, "t": "\\u00e9"}}',
        '\\x00ff', 'ab', E'tab\\t quote " back \\\\ \\nline \\u2028 é', '{{1,NULL,3}}',
        '00000000-0000-0000-0000-0000000000ff', 'sad', 'dom', 'odd')
"""


def test_a_row_is_the_same_json_whether_copied_or_streamed(feed: Feed) -> None:
    feed.run(ALL_TYPES)
    feed.run(A_ROW.format(id=1))
    feed.run("INSERT INTO t (id, f, r, n) VALUES (3, 'NaN', '-Infinity', 'NaN')")
    feed.start("public.t")
    feed.await_changes(2)
    feed.run(A_ROW.format(id=2))
    feed.run("INSERT INTO t (id, f, r, n) VALUES (4, 'NaN', '-Infinity', 'NaN')")
    feed.await_changes(4)
    rows = feed.receiver.rows("public.t", "id")
    ids = {"id": 0, "twice": 0}
    assert rows[1] | ids == rows[2] | ids
    assert rows[3] | ids == rows[4] | ids
    assert (rows[3]["f"], rows[3]["r"], rows[3]["n"], rows[3]["s"]) == (None, None, None, None)
    assert rows[2] == {
        "id": 2, "small": -7, "big": 9223372036854775807, "r": 0.1, "f": 1e300,
        "n": "1234567890.123456789012345670", "b": True, "ts": "2026-01-02T03:04:05.5",
        "tz": "2026-01-02T01:04:05+00:00", "d": "2026-01-02", "iv": "1 day 02:00:00",
        "j": {"a": [1.5, None]}, "jb": {"z": 12345678901234567890123, "t": "é"}, "raw": "00ff",
        "c": "ab   ", "s": 'tab\t quote " back \\ \nline \u2028 é', "arr": "{1,NULL,3}",
        "u": "00000000-0000-0000-0000-0000000000ff", "m": "sad", "dom": "dom",
        'Odd "name': "odd", "twice": 4,
    }  # fmt: skip


def test_numeric_can_be_fed_as_numbers(feed: Feed) -> None:
    feed.run("CREATE TABLE t (id int PRIMARY KEY, n numeric(9, 2)); INSERT INTO t VALUES (1, 2.50)")
    feed.start("public.t", more=("--numeric", "number"))
    feed.await_changes(1)
    feed.run("INSERT INTO t VALUES (2, 2.50)")
    feed.await_changes(2)
    assert [change["row_data"]["n"] for change in feed.receiver.changes] == [2.5, 2.5]


class Writer:
    """Writes to a keyed and to a keyless table until it is told to stop."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _write(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            number = 0
            while not self._stop.is_set():
                number += 1
                connection.execute(
                    b"INSERT INTO k VALUES (%(n)s %% 500, %(n)s) "
                    b"ON CONFLICT (id) DO UPDATE SET v = %(n)s",
                    {"n": number},
                )
                with connection.transaction():
                    connection.execute(b"DELETE FROM k WHERE id = %s", (number * 7 % 500,))
                    connection.execute(b"INSERT INTO h VALUES (%s), (%s)", (number, number))


@pytest.fixture
def busy(feed: Feed) -> Iterator[Feed]:
    feed.run("CREATE TABLE k (id int PRIMARY KEY, v int); CREATE TABLE h (n int)")
    feed.run("INSERT INTO k SELECT n, 0 FROM generate_series(100, 30000) n")
    feed.run("INSERT INTO h SELECT n FROM generate_series(1, 12000) n")
    writer = Writer(feed.dsn)
    yield feed
    writer.stop()
    feed.await_caught_up()
    assert_told_exactly(feed)


def assert_told_exactly(feed: Feed) -> None:
    rows = feed.receiver.rows("public.k", "id")
    assert {key: row["v"] for key, row in rows.items()} == dict(feed.run("SELECT id, v FROM k"))
    told = sorted(change["row_data"]["n"] for change in feed.receiver.of("public.h"))
    assert told == [n for (n,) in feed.run("SELECT n FROM h ORDER BY n")]


def kill_at_post(feed: Feed, number: int) -> None:
    """Kill the feeder when the receiver has stored its post of this number, unacknowledged."""
    reached = threading.Event()

    def withhold(batch: list[Any]) -> bool:
        if len(feed.receiver.batches) == number:
            reached.set()
        return len(feed.receiver.batches) == number

    feed.receiver.after = withhold
    assert reached.wait(60)
    assert feed.process is not None
    feed.process.kill()
    feed.start()


def test_a_kill_during_the_copy_loses_and_doubles_nothing(busy: Feed) -> None:
    busy.start("public.k", "public.h")
    kill_at_post(busy, 3)
    busy.await_streaming()
    assert busy.receiver.duplicates > 0


def test_kills_between_post_and_acknowledgement_lose_and_double_nothing(busy: Feed) -> None:
    busy.start("public.k", "public.h")
    busy.await_streaming()
    for _ in range(3):
        kill_at_post(busy, len(busy.receiver.batches) + 2)
    assert busy.receiver.duplicates > 0


def test_a_kill_before_the_copy_was_spooled_starts_over(busy: Feed) -> None:
    system, database = (
        busy.run("SELECT system_identifier::text FROM pg_control_system()"),
        busy.name,
    )
    tables = ("public.k", "public.h")
    busy.state.save(State(busy.name, system[0][0], database, tables, "text", "feedfeedfeed"))
    busy.run(f"SELECT pg_create_logical_replication_slot('{busy.name}', 'wal2json')")
    busy.start(*tables)
    busy.await_changes(40_000)


def test_a_daemon_that_is_away_or_overloaded_is_waited_for(busy: Feed) -> None:
    refusals = iter([503, 0, 429, 0, 500])
    busy.receiver.answer = lambda batch: next(refusals, 200)
    busy.start("public.k", "public.h")
    busy.await_changes(42_000)


def test_a_transaction_is_torn_only_when_it_does_not_fit_into_a_post(feed: Feed) -> None:
    feed.run("CREATE TABLE h (tx int, n int)")
    feed.start("public.h")
    feed.await_streaming()
    for size in (3000, 3000, 12_000, 1, 3000):
        feed.run(f"INSERT INTO h SELECT {size}, n FROM generate_series(1, {size}) n")
    feed.await_changes(21_001)
    batches = [[change["row_data"]["tx"] for change in batch] for batch in feed.receiver.batches]
    assert all(batch.count(3000) in (0, 3000) for batch in batches)
    assert sum(batch.count(12_000) for batch in batches) == 12_000
    assert max(len(batch) for batch in batches) <= 5000


def test_a_batch_too_large_for_the_daemon_is_halved(feed: Feed) -> None:
    feed.run("CREATE TABLE h (n int); INSERT INTO h SELECT generate_series(1, 1000)")
    feed.receiver.answer = lambda batch: 413 if len(batch) > 300 else 200
    feed.start("public.h")
    feed.await_changes(1000)
    assert [change["row_data"]["n"] for change in feed.receiver.changes] == [*range(1, 1001)]


def test_a_refused_change_stops_the_feeder_and_is_named(feed: Feed) -> None:
    feed.run("CREATE TABLE h (n int)")
    feed.start("public.h")
    feed.await_streaming()
    feed.receiver.answer = lambda batch: 400
    feed.run("INSERT INTO h VALUES (4711)")
    assert '"row_data":{"n":4711}' in feed.await_end(1)


def test_a_changed_key_is_a_delete_and_an_insert(feed: Feed) -> None:
    feed.run("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 5)")
    feed.start("public.t")
    feed.await_changes(1)
    feed.run("UPDATE t SET v = 6; UPDATE t SET id = 2; DELETE FROM t")
    feed.await_changes(5)
    steps = [
        (c["change_type"], c.get("row_data"), c.get("old_data")) for c in feed.receiver.changes
    ]
    assert steps == [
        ("insert", {"id": 1, "v": 5}, None),
        ("update", {"id": 1, "v": 6}, None),
        ("delete", None, {"id": 1}),
        ("insert", {"id": 2, "v": 6}, None),
        ("delete", None, {"id": 2}),
    ]


def test_long_values_that_an_update_leaves_alone_stay(feed: Feed) -> None:
    feed.run("CREATE TABLE t (id int PRIMARY KEY, v int, long text)")
    feed.run("ALTER TABLE t ALTER long SET STORAGE EXTERNAL")
    feed.run("ALTER TABLE t REPLICA IDENTITY FULL")
    feed.start("public.t")
    feed.await_streaming()
    feed.run("INSERT INTO t VALUES (1, 1, repeat('x', 9000))")
    feed.run("UPDATE t SET v = 2")
    feed.await_changes(2)
    assert feed.receiver.rows("public.t", "id")[1] == {"id": 1, "v": 2, "long": "x" * 9000}


def test_a_column_added_on_the_way_that_could_be_lost_stops_the_feeder(feed: Feed) -> None:
    feed.run("CREATE TABLE t (id int PRIMARY KEY, v int)")
    feed.start("public.t")
    feed.await_streaming()
    feed.run("INSERT INTO t VALUES (1, 1)")
    feed.run("ALTER TABLE t ADD w int")
    feed.run("INSERT INTO t VALUES (2, 2, 2)")
    feed.await_changes(2)
    feed.run("ALTER TABLE t ADD long text")
    feed.run("INSERT INTO t VALUES (3, 3, 3, 'x')")
    assert "REPLICA IDENTITY FULL" in feed.await_end(2)
    assert feed.receiver.rows("public.t", "id")[2] == {"id": 2, "v": 2, "w": 2}


def test_old_rows_of_a_keyless_table_come_with_full_identity(feed: Feed) -> None:
    feed.run("CREATE TABLE h (n int); ALTER TABLE h REPLICA IDENTITY FULL")
    feed.start("public.h")
    feed.await_streaming()
    feed.run("INSERT INTO h VALUES (1)")
    feed.run("UPDATE h SET n = 2")
    feed.run("DELETE FROM h")
    feed.await_changes(3)
    steps = [
        (c["change_type"], c.get("row_data"), c.get("old_data")) for c in feed.receiver.changes
    ]
    assert steps == [
        ("insert", {"n": 1}, None),
        ("update", {"n": 2}, {"n": 1}),
        ("delete", None, {"n": 2}),
    ]


def test_a_change_that_postgres_cannot_tell_stops_the_feeder(feed: Feed) -> None:
    feed.run("CREATE TABLE h (n int)")
    feed.start("public.h")
    feed.run("INSERT INTO h VALUES (1)")
    feed.await_changes(1)
    feed.run("UPDATE h SET n = 2")
    assert "REPLICA IDENTITY FULL" in feed.await_end(1)


def test_tables_that_cannot_be_fed_exactly_are_refused_at_once(feed: Feed) -> None:
    feed.run("""
        CREATE TABLE "Upper" (id int PRIMARY KEY); CREATE UNLOGGED TABLE forgetful (id int);
        CREATE TABLE parts (id int) PARTITION BY LIST (id); CREATE VIEW seen AS SELECT 1 AS id;
        CREATE TABLE hidden (id int PRIMARY KEY, _seq int);
        CREATE TABLE yes_or_no (id boolean PRIMARY KEY);
        CREATE TABLE later (id int PRIMARY KEY DEFERRABLE);
        CREATE TABLE long (id int PRIMARY KEY, words text);
        CREATE TABLE nothing (id int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING;
    """)
    names = ["upper", "forgetful", "parts", "seen", "hidden", "yes_or_no", "later", "long"]
    names += ["nothing", "no-name"]
    with pytest.raises(SetupFault) as caught:
        catalog.describe(feed.database, [f"public.{name}" for name in names], "text")
    faults = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in faults] == [f"public.{name}" for name in names]
    assert feed.run("SELECT * FROM pg_replication_slots WHERE database = current_database()") == []


def test_a_slot_without_its_state_is_refused(feed: Feed) -> None:
    feed.run("CREATE TABLE h (n int)")
    feed.run(f"SELECT pg_create_logical_replication_slot('{feed.name}', 'wal2json')")
    feed.start("public.h")
    assert "knows nothing of its copy" in feed.await_end(2)


def test_a_state_without_its_slot_is_refused(feed: Feed) -> None:
    feed.run("CREATE TABLE h (n int); INSERT INTO h VALUES (1)")
    process = feed.start("public.h")
    feed.await_streaming()
    assert process.end() == 0
    feed.run(f"SELECT pg_drop_replication_slot('{feed.name}')")
    feed.start()
    assert "is gone" in feed.await_end(2)


def test_a_second_feeder_waits_for_the_first(feed: Feed) -> None:
    feed.run("CREATE TABLE h (n int); INSERT INTO h VALUES (1)")
    first = feed.start("public.h")
    feed.await_changes(1)
    feed.process = None
    second = feed.start("public.h")
    log = feed.directory / "feeder.log"
    feed.await_that(lambda: "another feeder holds slot" in log.read_text(), "the second to wait")
    first.kill()
    feed.run("INSERT INTO h VALUES (2)")
    feed.await_changes(2)
    assert feed.receiver.duplicates == 0
    assert second.end() == 0


def test_a_feeder_that_waits_for_another_can_be_ended(feed: Feed) -> None:
    feed.run("CREATE TABLE h (n int)")
    first = feed.start("public.h")
    feed.await_streaming()
    feed.process = None
    second = feed.start("public.h")
    log = feed.directory / "feeder.log"
    feed.await_that(lambda: "another feeder holds slot" in log.read_text(), "the second to wait")
    assert second.end() == 0
    assert first.end() == 0


def test_connections_that_postgres_ends_are_made_again(busy: Feed) -> None:
    busy.start("public.k", "public.h")

    def losses() -> int:
        return (busy.directory / "feeder.log").read_text().count("PostgreSQL is away")

    for _ in range(5):
        before = losses()
        busy.await_changes(len(busy.receiver.changes) + 500)
        busy.run(
            "SELECT pg_terminate_backend(pid) FROM pg_locks "
            "WHERE locktype = 'advisory' AND database = "
            "(SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        busy.await_that(lambda: losses() > before, "the loss")  # noqa: B023 - awaited right here


def test_wal_that_concerns_no_chosen_table_is_let_go(feed: Feed) -> None:
    feed.run("CREATE TABLE h (n int); CREATE TABLE other (n int)")
    feed.start("public.h")
    feed.await_streaming()
    feed.run("INSERT INTO other SELECT generate_series(1, 1000)")
    feed.await_caught_up()
    assert feed.receiver.changes == []
