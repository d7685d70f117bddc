"""Everything that a PostgreSQL table has, told exactly: PostgreSQL, server and sockets are real."""

from collections.abc import Callable

import pytest
from postgres_kit import Followed, eventually

Follow = Callable[..., Followed]

EVERYTHING = """
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE DOMAIN age AS smallint CHECK (VALUE >= 0);
CREATE TABLE public.everything (
    id bigint PRIMARY KEY, flag boolean, small smallint, whole integer, num numeric(20,5),
    free numeric, f4 real, f8 double precision, txt text, var varchar(20), chr char(5),
    day date, clock time, at timestamp, atz timestamptz, span interval, bin bytea, doc json,
    docb jsonb, uid uuid, m mood, years age, ints int[], grid int[][], texts text[],
    nums numeric[], r int4range, addr inet, bits bit(4), "Quoted Name" text, point point
)
"""
ROWS = r"""
INSERT INTO public.everything VALUES
 (1, true, -32768, 2147483647, 12.50, 12345678901234567890.123456789, 1.1, 1e300,
  E'quote " back \\ line\n tab\t ü 🙂', 'v', 'ab', '2026-01-31', '12:00:00.25',
  '2026-01-31 12:00:00.25', '2026-01-31 12:00:00.25+02', '1 day 02:03:04', '\x00ff41',
  '{"a": [1, 2.50], "b": null}', '{"b": 1e3}', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', 'happy', 7,
  '{1,NULL,3}', '{{1,2},{3,4}}', E'{a,"b,c",NULL,"d\\"e"}', '{1.50}', '[1,5)', '10.0.0.1/8',
  B'1010', 'q', '(1,2)'),
 (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
  NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
 (3, false, 0, 0, 'NaN', 'NaN', 'NaN', '-Infinity', '', '', '', 'infinity', '00:00', '-infinity',
  'infinity', '0', '', '[]', '"text"', NULL, 'sad', 0, '{}', '{}', '{}', '{}', 'empty', '::1',
  B'0000', '', NULL)
"""
# What PostgreSQL's own JSON writes otherwise: numerics in arrays as numbers.
SHOWN = """SELECT id, flag, small, whole, num, free, f4, f8, txt, var, chr, day, clock, at, atz,
 span::text AS span, bin, doc, docb, uid, m, years, ints, grid, texts,
 nums::text[] AS nums, r, addr, bits, "Quoted Name", point FROM public.everything"""


def test_values_of_every_type_are_told_alike_by_copy_and_stream(follow: Follow) -> None:
    followed = follow(*EVERYTHING.split(";"), ROWS)
    copied = followed.watch("SELECT * FROM public.everything")
    followed.await_equal(copied, SHOWN)
    followed.database.run("UPDATE everything SET id = id + 10")
    followed.await_equal(copied, SHOWN)
    streamed = copied.view()
    fresh = followed.watch("SELECT * FROM public.everything")
    followed.await_equal(fresh, SHOWN)
    assert fresh.view() == streamed


def test_the_schema_of_a_table_is_its_catalogues(follow: Follow) -> None:
    followed = follow(*EVERYTHING.split(";"))
    watcher = followed.watch("SELECT * FROM public.everything")
    eventually(lambda: bool(watcher.acks), "the acknowledgement")
    types = {one["name"]: one["data_type"] for one in watcher.acks[0]["schema"]}
    assert types["num"] == {"Decimal": {"precision": 20, "scale": 5}}
    assert (types["id"], types["small"], types["flag"]) == ("BigInt", "SmallInt", "Boolean")
    assert (types["atz"], types["uid"], types["ints"]) == ("Timestamp", "Uuid", "Json")
    assert (types["years"], types["m"], types["bin"]) == ("SmallInt", "Text", "Bytes")


KEYS = [
    ("composite", "a int, b text, v int, PRIMARY KEY (b, a)", "1, 'x', 1", "a = a + 1"),
    ("texts", "k text PRIMARY KEY, v int", "'a\"b\\c', 1", "k = k || '!'"),
    ("uuids", "k uuid PRIMARY KEY, v int", "gen_random_uuid(), 1", "v = v + 1"),
    ("flags", "k boolean PRIMARY KEY, v int", "true, 1", "k = NOT k"),
    ("moments", "k timestamptz PRIMARY KEY, v int", "'2026-01-01Z', 1", "k = k + '1 day'"),
    ("decimals", "k numeric PRIMARY KEY, v int", "1.50, 1", "k = k + 1"),
]


@pytest.mark.parametrize(("name", "columns", "row", "change"), KEYS)
def test_rows_are_named_by_keys_of_every_kind(
    follow: Follow, name: str, columns: str, row: str, change: str
) -> None:
    followed = follow(f"CREATE TABLE {name} ({columns})", f"INSERT INTO {name} VALUES ({row})")
    watcher = followed.watch(f"SELECT * FROM public.{name}")
    followed.await_equal(watcher)
    followed.database.run(f"UPDATE {name} SET {change}")
    followed.await_equal(watcher)
    followed.database.run(f"DELETE FROM {name}")
    followed.await_equal(watcher)


def test_a_long_value_that_an_update_leaves_alone_is_kept(follow: Follow) -> None:
    long = "(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 2000) i)"
    followed = follow(
        "CREATE TABLE t (id int PRIMARY KEY, v int, long text)",
        "ALTER TABLE t ALTER long SET STORAGE EXTERNAL",
        f"INSERT INTO t SELECT n, 0, n || {long} FROM generate_series(1, 3) n",
    )
    watcher = followed.watch("SELECT * FROM public.t")
    followed.await_equal(watcher)
    followed.database.run(
        "UPDATE t SET v = v + 1",
        "BEGIN; UPDATE t SET v = v + 1 WHERE id = 1; UPDATE t SET v = v + 1 WHERE id = 1; COMMIT",
        "UPDATE t SET id = 7 WHERE id = 1",
        "BEGIN; UPDATE t SET id = 8 WHERE id = 7; UPDATE t SET id = 9 WHERE id = 8; COMMIT",
        f"BEGIN; INSERT INTO t VALUES (20, 0, {long}); UPDATE t SET v = 5 WHERE id = 20; COMMIT",
    )
    followed.await_equal(watcher)


@pytest.mark.parametrize("identity", ["FULL", "USING INDEX other", "NOTHING", "DEFAULT"])
def test_every_replica_identity_is_followed(follow: Follow, identity: str) -> None:
    followed = follow(
        "CREATE TABLE t (id int PRIMARY KEY, code text NOT NULL, long text, v int)",
        "CREATE UNIQUE INDEX other ON t (code)",
        f"ALTER TABLE t REPLICA IDENTITY {identity}",
        "INSERT INTO t SELECT n, 'c' || n, repeat(n::text, 9000), n FROM generate_series(1, 5) n",
    )
    watcher = followed.watch("SELECT * FROM public.t")
    followed.await_equal(watcher)
    followed.database.run(
        "UPDATE t SET v = 0 WHERE id < 3",
        "UPDATE t SET code = 'new' WHERE id = 2",
        "UPDATE t SET id = 30 WHERE id = 3",
        "DELETE FROM t WHERE id = 4",
    )
    followed.await_equal(watcher)


def test_a_truncate_deletes_every_row_and_none_of_those_after_it(follow: Follow) -> None:
    followed = follow(
        "CREATE TABLE t (id int PRIMARY KEY)", "CREATE TABLE u (id int PRIMARY KEY)",
        "INSERT INTO t SELECT generate_series(1, 1200)", "INSERT INTO u VALUES (1)",
    )  # fmt: skip
    one, other = followed.watch("SELECT * FROM public.t"), followed.watch("SELECT * FROM public.u")
    followed.await_equal(one)
    followed.database.run(
        "BEGIN; INSERT INTO t VALUES (5000); TRUNCATE t, u; INSERT INTO t VALUES (2), (6000); END"
    )
    followed.await_equal(one)
    followed.await_equal(other)


def test_names_in_quotes_are_followed(follow: Follow) -> None:
    followed = follow(
        'CREATE TABLE "User" ("Id" int PRIMARY KEY, "full name" text, "a""b" int)',
        """INSERT INTO "User" VALUES (1, 'Ann', 2)""",
    )
    watcher = followed.watch('SELECT * FROM public."User"')
    followed.await_equal(watcher)
    followed.database.run("""UPDATE "User" SET "full name" = 'Bea'""")
    followed.await_equal(watcher)


def test_a_partitioned_table_is_followed_by_its_root(follow: Follow) -> None:
    followed = follow(
        "CREATE TABLE m (id int, day date, v int, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)",
        "CREATE TABLE m1 PARTITION OF m FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')",
        "CREATE TABLE m2 PARTITION OF m FOR VALUES FROM ('2026-02-01') TO ('2026-03-01')",
        "INSERT INTO m SELECT n, '2026-01-20'::date + n, 0 FROM generate_series(1, 20) n",
    )
    watcher = followed.watch("SELECT * FROM public.m")
    followed.await_equal(watcher)
    followed.database.run(
        "UPDATE m SET v = 1 WHERE id < 15",
        "UPDATE m SET day = day + 10 WHERE id = 2",
        "CREATE TABLE m3 PARTITION OF m FOR VALUES FROM ('2026-03-01') TO ('2026-04-01')",
        "INSERT INTO m VALUES (100, '2026-03-05', 1)",
        "DELETE FROM m WHERE id = 20",
    )
    followed.await_equal(watcher)


def test_a_table_without_a_key_is_told_change_by_change(follow: Follow) -> None:
    followed = follow("CREATE TABLE h (a int, b text)", "INSERT INTO h VALUES (1, 'x'), (1, 'x')")
    watcher = followed.watch("SELECT * FROM public.h", **{"from": 0})
    eventually(lambda: len(watcher.events) == 2, "both rows")
    followed.database.run(
        "INSERT INTO h VALUES (2, 'y')",
        "UPDATE h SET b = 'z' WHERE a = 2",
        "DELETE FROM h WHERE a = 2",
    )
    eventually(lambda: len(watcher.events) == 5, "all changes")
    told = [(one["kind"], one.get("a"), one.get("b")) for one in watcher.events]
    assert told == [
        ("insert", 1, "x"),
        ("insert", 1, "x"),
        ("insert", 2, "y"),
        ("update", 2, "z"),
        ("delete", 2, "z"),
    ]
    assert watcher.faults == []


def test_a_large_transaction_is_told_in_order_without_what_was_undone(follow: Follow) -> None:
    followed = follow("CREATE TABLE t (id int PRIMARY KEY, v text)", start=False)
    followed.database.run(
        f"ALTER DATABASE {followed.database.name} SET logical_decoding_work_mem = '64kB'"
    )
    followed.start()
    watcher = followed.watch("SELECT * FROM public.t")
    with followed.database.connect() as connection:
        connection.autocommit = False
        connection.execute("INSERT INTO t SELECT n, 'first' FROM generate_series(1, 20000) n")
        connection.execute("SAVEPOINT a")
        connection.execute("UPDATE t SET v = 'undone'")
        connection.execute("ROLLBACK TO a")
        connection.execute("SAVEPOINT b")
        connection.execute("UPDATE t SET v = 'second' WHERE id % 2 = 0")
        connection.execute("RELEASE b")
        connection.execute("DELETE FROM t WHERE id > 19000")
        # Another one is committed before it.
        followed.database.run("INSERT INTO t VALUES (90000, 'other')")
        connection.commit()
    followed.await_equal(watcher)


def test_a_large_transaction_that_is_undone_is_not_told(follow: Follow) -> None:
    followed = follow("CREATE TABLE t (id int PRIMARY KEY, v text)", start=False)
    followed.database.run(
        f"ALTER DATABASE {followed.database.name} SET logical_decoding_work_mem = '64kB'"
    )
    followed.start()
    watcher = followed.watch("SELECT * FROM public.t")
    followed.database.run(
        "BEGIN; INSERT INTO t SELECT n, 'gone' FROM generate_series(1, 9000) n; ROLLBACK",
        "INSERT INTO t VALUES (1, 'there')",
    )
    followed.await_equal(watcher)
    assert len(watcher.rows) == 1


def test_generated_columns_are_left_out_where_the_wal_does_not_tell_them(follow: Follow) -> None:
    followed = follow(
        "CREATE TABLE t (id int PRIMARY KEY, a int, b int GENERATED ALWAYS AS (a * 2) STORED)",
        "INSERT INTO t VALUES (1, 2)",
    )
    watcher = followed.watch("SELECT * FROM public.t")
    followed.await_equal(watcher, "SELECT id, a FROM public.t")
    followed.database.run("UPDATE t SET a = 5")
    followed.await_equal(watcher, "SELECT id, a FROM public.t")


def test_nobody_may_post_to_a_table_of_a_source(follow: Follow) -> None:
    followed = follow("CREATE TABLE t (id int PRIMARY KEY)")
    answer = followed.server.post_raw(
        b'{"table":"public.t","change_type":"insert","row_data":{"id":1}}'
    )
    assert (answer.status, answer.json["error"]["code"]) == (403, "FORBIDDEN")
    assert "source" in answer.json["error"]["message"]


def test_a_declared_entry_gives_a_sources_table_its_policy(follow: Follow) -> None:
    entry = {"type": "shared", "access": "public", "policy": "owner = CURRENT_USER"}
    followed = follow(
        "CREATE TABLE t (id int PRIMARY KEY, owner text)",
        "INSERT INTO t VALUES (1, 'alice'), (2, 'bob')",
        tables={"declared": {"public.t": entry}},
    )
    watcher = followed.watch("SELECT * FROM public.t")
    followed.await_equal(watcher, "SELECT * FROM public.t WHERE owner = 'alice'")


def test_filters_read_numerics_and_instants_as_what_they_are(follow: Follow) -> None:
    followed = follow(
        "CREATE TABLE t (id int PRIMARY KEY, total numeric(12,2), at timestamptz)",
        "INSERT INTO t SELECT n, n * 1.1, '2026-01-01Z'::timestamptz + n * interval '1 hour'"
        " FROM generate_series(1, 100) n",
    )
    watcher = followed.watch(
        "SELECT * FROM public.t WHERE total > 9.9 AND at < '2026-01-03T00:00:00+00:00'"
    )
    followed.await_equal(watcher)
    followed.database.run("UPDATE t SET total = total - 5")
    followed.await_equal(watcher)
