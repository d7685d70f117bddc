"""Batches whose rows are too long to be held together are stored all the same, all or nothing."""

import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from log_kit import EVENTS, ORDERS, TABLES, Clock, event, everything, gone, new_log, put, seqs
from msgspec import structs

from kalam_notify.log import SqliteLog
from kalam_notify.model import SHARED, PostedChange
from kalam_notify.model.changes import Appended
from kalam_notify.store import schema, storing
from kalam_notify.store.digest import Digest
from kalam_notify.store.rows import Indexes, Numbers
from kalam_notify.store.storing import Posting, store


def keeping(change: PostedChange) -> PostedChange:
    """The same, but that the row's pad is what it was."""
    return structs.replace(change, unchanged=("pad",))


keys = st.integers(1, 4)
ids = st.one_of(st.none(), st.sampled_from(["a", "b", "c"]))
changes = st.one_of(
    st.builds(lambda k, i, n: put(k, id=i, pad="x" * n), keys, ids, st.integers(0, 40)),
    st.builds(lambda k, i: gone(k, id=i), keys, ids),
    st.builds(lambda i: event(id=i), ids),
    st.builds(lambda k, i: keeping(put(k, id=i, n=1)), keys, ids),
    st.builds(lambda k: structs.replace(put(k, n=1), only_if_new=True), keys),
    st.builds(
        lambda i, new: PostedChange(
            ORDERS.id, SHARED, "truncate", None, None, id=i, only_if_new=new
        ),
        ids,
        st.booleans(),
    ),
)
postings = st.lists(
    st.builds(
        Posting,
        st.lists(changes, max_size=6),
        st.one_of(st.none(), st.just("key")),
        st.none(),
        st.integers(0, 2**53),
    ),
    min_size=1,
    max_size=3,
)


def stored(
    directory: Path, groups: list[list[Posting]]
) -> tuple[list[Any], list[list[Appended]], int]:
    """The tables, the answers and a digest when each group is a transaction of its own."""
    schema.prepare(directory / "kalam.db")
    connection = schema.open_writer(directory / "kalam.db", "os")
    numbers, indexes = Numbers({table.id: table for table in TABLES}), Indexes()
    # Not in the order of what is written, which may differ.
    numbers.of(connection, ORDERS.id), numbers.of(connection, EVENTS.id)
    answers, digest = [], Digest()
    for group in groups:
        connection.execute("BEGIN IMMEDIATE")
        group_stored = store(connection, numbers, indexes, group, 1.0)
        answers.append(group_stored.answers)
        connection.execute("COMMIT")
        if group_stored.changes is None:
            digest.add_stored(connection, group_stored.before, group_stored.last_seq)
        else:
            digest.add(group_stored.changes)
    tables = ("log", "rows", "batch_keys", "state")
    found = [connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables]
    connection.close()
    return found, answers, digest.value


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(groups=st.lists(postings, min_size=1, max_size=4), portion=st.integers(1, 3))
def test_portions_store_what_would_be_stored_at_once(
    groups: list[list[Posting]], portion: int
) -> None:
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        expected = stored(Path(one), groups)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(storing, "_MOST_HELD", 30)
            patch.setattr(storing, "_PORTION", portion)
            assert stored(Path(other), groups) == expected


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(groups=st.lists(postings, min_size=1, max_size=4))
def test_how_batches_are_grouped_into_transactions_changes_nothing(
    groups: list[list[Posting]],
) -> None:
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        found, answers, digest = stored(Path(one), groups)
        alone = stored(Path(other), [[posting] for group in groups for posting in group])
        each = [[answer] for group in answers for answer in group]
        assert alone == (found, each, digest)


async def test_a_post_that_touches_long_rows_is_stored_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "_MOST_HELD", 100_000)
    log = new_log("sqlite", tmp_path, Clock())
    log.declare(TABLES)
    await log.start()
    for n in range(40):
        await log.append([put(n, pad="x" * 10_000)])
    assert (await log.append([gone(n) for n in range(40)])).last_seq == 80
    await log.wait_beyond(79)
    deleted = (await everything(log))[40:]
    assert seqs(deleted) == list(range(41, 81))
    assert all(change.old and len(change.old.json) > 10_000 for change in deleted)
    assert (tmp_path / "kalam.mark").read_text() == f"{80:016}\n"
    await log.close()


async def test_a_fault_in_a_later_portion_stores_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "_MOST_HELD", 100_000)
    log = new_log("sqlite", tmp_path, Clock())
    assert isinstance(log, SqliteLog)
    log.declare(TABLES)
    await log.start()
    await log.append([put(n, pad="x" * 10_000) for n in range(40)])
    write, written = storing.write_entries, 0

    def failing(*arguments: Any) -> None:
        nonlocal written
        written += 1
        if written == 2:
            raise sqlite3.IntegrityError("made up")
        write(*arguments)

    monkeypatch.setattr(storing, "write_entries", failing)
    batch: list[PostedChange] = [gone(n) for n in range(40)]
    with pytest.raises(Exception, match="made up"):
        await log.append(batch)
    monkeypatch.setattr(storing, "write_entries", write)
    assert log.last_seq == 40
    assert (await log.append(batch)).last_seq == 80
    await log.close()
