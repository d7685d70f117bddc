"""A position of one life of a log is never taken for one of another."""

import time
from pathlib import Path

import pytest
from log_kit import EVENTS, FOREVER, ORDERS, TABLES, Clock, LogKind, event, everything, put, seqs

from kalam_notify.log import EventLog, MemoryLog, Retention, SqliteLog, open_log, reaches
from kalam_notify.log.following import Follower
from kalam_notify.store.trimming import Edges

BEGIN = 1_700_000_000_000_000


def log_of(kind: LogKind, directory: Path, begin: int, retention: Retention = FOREVER) -> EventLog:
    how = {"retention": retention, "clock": Clock(), "trim_seconds": 3600, "begin": begin}
    if kind == "memory":
        return MemoryLog(**how)  # type: ignore[arg-type]
    return SqliteLog(directory / "kalam.db", durability="os", **how)  # type: ignore[arg-type]


async def test_a_log_that_begins_anew_begins_at_the_time_in_microseconds(
    log_kind: LogKind, tmp_path: Path
) -> None:
    before = time.time_ns() // 1000
    log = open_log(f"{log_kind}:", tmp_path)
    log.declare(TABLES)
    await log.start()
    appended = await log.append([put(1), event()])
    assert before < (appended.first_seq or 0) <= time.time_ns() // 1000 + 1
    assert appended.first_seq == log.base + 1 == log.first_seq
    assert appended.last_seq == log.base + 2 < 2**53
    assert seqs(await everything(log)) == [log.base + 1, log.base + 2]
    await log.close()


async def test_a_log_that_goes_on_keeps_its_beginning(tmp_path: Path) -> None:
    for begin, expected in ((BEGIN, BEGIN), (BEGIN + 10**9, BEGIN)):
        log = log_of("sqlite", tmp_path, begin)
        log.declare(TABLES)
        await log.start()
        await log.append([put(1)])
        assert log.base == expected
        await log.close()
    assert log.last_seq == BEGIN + 2


async def test_an_emptied_directory_begins_behind_the_mark_that_was_left(tmp_path: Path) -> None:
    log = log_of("sqlite", tmp_path, BEGIN)
    log.declare(TABLES)
    await log.start()
    await log.append([put(1)])
    await log.close()
    (tmp_path / "kalam.db").unlink()
    # The clock has been put back.
    log = log_of("sqlite", tmp_path, BEGIN - 10**9)
    log.declare(TABLES)
    await log.start()
    assert ((await log.append([put(1)])).first_seq or 0) > BEGIN + 1
    assert not reaches(log, BEGIN + 1, log.last_seq, ORDERS.id)
    await log.close()


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        (0, True),
        (1, False),
        (500, False),
        (BEGIN - 1, False),
        (BEGIN, True),
        (BEGIN + 2, True),
        (BEGIN + 3, False),
    ],
)
async def test_only_positions_of_this_life_are_reached(
    log_kind: LogKind, tmp_path: Path, position: int, expected: bool
) -> None:
    log = log_of(log_kind, tmp_path, BEGIN)
    log.declare(TABLES)
    await log.start()
    await log.append([put(1), put(2)])
    assert reaches(log, position, log.last_seq, ORDERS.id) is expected
    assert reaches(log, position, log.last_seq, EVENTS.id) is expected
    await log.close()


async def test_what_retention_took_is_not_reached(log_kind: LogKind, tmp_path: Path) -> None:
    log = log_of(log_kind, tmp_path, BEGIN, Retention(max_age=None, max_bytes=1))
    log.declare(TABLES)
    await log.start()
    await log.append([put(1), put(2)])
    await log.trim()
    reached = [reaches(log, at, log.last_seq, ORDERS.id) for at in (0, BEGIN, BEGIN + 1, BEGIN + 2)]
    assert reached == [False, False, False, True]
    assert reaches(log, 0, log.last_seq, EVENTS.id)
    await log.close()


def test_edges_that_were_read_earlier_and_told_later_are_not_learned() -> None:
    follower = Follower(None, None, None, 0)  # type: ignore[arg-type]
    earlier = Edges(1, 5, 0, {ORDERS.id: 5}, version=1)
    later = Edges(1, 5, 0, {ORDERS.id: 5, EVENTS.id: 3}, version=2)
    follower.learn(later)
    follower.learn(earlier)
    assert follower.horizon(EVENTS.id) == 3
