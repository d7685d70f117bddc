"""What every log promises of pages: the rows exactly as they stood at one position."""

import asyncio
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from log_kit import (
    EVENTS,
    NOTES,
    ORDERS,
    TABLES,
    Clock,
    LogKind,
    event,
    everything,
    gone,
    new_log,
    page_of,
    put,
    seqs,
    values,
)

from kalam_notify.log import EventLog, Matches
from kalam_notify.model import SHARED, Change, PostedChange


def even(values: dict[str, Any]) -> bool:
    return bool(values["v"] % 2 == 0)


async def test_a_page_gives_the_current_rows_in_order_of_their_seq(log: EventLog) -> None:
    await log.append([put(1, v=1), put(2, v=1), put(3, v=1), put(1, v=2), gone(2)])
    page = await page_of(log)
    assert (page.as_of, seqs(page), page.has_more) == (5, [3, 4], False)
    assert values(page) == [{"id": 3, "v": 1}, {"id": 1, "v": 2}]


async def test_a_page_of_a_table_without_data_is_empty(log: EventLog) -> None:
    await log.append([event()])
    page = await page_of(log)
    assert (page.as_of, list(page.rows), page.has_more) == (1, [], False)


async def test_a_page_of_one_owner_never_shows_another(log: EventLog) -> None:
    await log.append([put(n, table=NOTES, owner=owner) for n in (1, 2) for owner in ("al", "bo")])
    assert seqs(await page_of(log, NOTES, owner="bo")) == [2, 4]
    assert seqs(await page_of(log, NOTES, owner="cy")) == []


@pytest.mark.parametrize(("limit", "has_more"), [(4, True), (5, False), (6, False)])
async def test_has_more_is_exact_at_the_limit(log: EventLog, limit: int, has_more: bool) -> None:
    await log.append([put(n) for n in range(5)])
    page = await page_of(log, limit=limit)
    assert (len(page.rows), page.has_more) == (min(limit, 5), has_more)


@pytest.mark.parametrize(("limit", "has_more"), [(4, True), (5, False), (6, False)])
async def test_has_more_counts_matching_rows_only(
    log: EventLog, limit: int, has_more: bool
) -> None:
    await log.append([put(n, v=int(n not in range(0, 500, 100))) for n in range(700)])
    page = await page_of(log, matches=even, limit=limit)
    assert (len(page.rows), page.has_more) == (min(limit, 5), has_more)


async def test_a_page_is_bounded_by_bytes_but_gives_one_row(log: EventLog) -> None:
    await log.append([put(n, pad="x" * 1000) for n in range(10)])
    page = await page_of(log, max_bytes=1)
    assert (seqs(page), page.has_more) == ([1], True)
    page = await page_of(log, max_bytes=2500)
    assert (seqs(page), page.has_more) == ([1, 2, 3], True)


async def test_pages_tell_the_rows_as_of_the_first_one(log: EventLog) -> None:
    await log.append([put(n, v=0) for n in range(1, 7)])
    first = await page_of(log, limit=2)
    await log.append([put(1, v=1), put(4, v=1), gone(5), put(7, v=1), put(4, v=2)])
    await log.append([put(5, v=9), gone(6)])
    second = await page_of(log, after=2, as_of=first.as_of, limit=2)
    third = await page_of(log, after=4, as_of=first.as_of, limit=2)
    assert [seqs(first), seqs(second), seqs(third)] == [[1, 2], [3, 4], [5, 6]]
    assert values(second) + values(third) == [{"id": n, "v": 0} for n in range(3, 7)]
    assert (second.has_more, third.has_more) == (True, False)


async def test_entries_of_a_table_without_key_page_as_rows(log: EventLog) -> None:
    await log.append([event(v=1), put(1), event(v=2, kind="update"), event(kind="delete")])
    page = await page_of(log, EVENTS, limit=1)
    assert (page.as_of, seqs(page), page.has_more) == (4, [1], True)
    await log.append([event(v=3)])
    page = await page_of(log, EVENTS, after=1, as_of=4)
    assert (seqs(page), values(page), page.has_more) == ([3], [{"v": 2}], False)


async def test_the_newest_rows_begin_where_it_says(log: EventLog) -> None:
    await log.append([put(n, v=n) for n in range(10)])
    await log.append([put(0, v=0), gone(9)])
    for matches, count, expected in (
        (None, 3, [8, 9, 11]),
        (even, 2, [9, 11]),
        (None, 100, [2, 3, 4, 5, 6, 7, 8, 9, 11]),
        (None, 0, []),
    ):
        as_of, after = await log.newest(ORDERS, SHARED, matches, count)
        page = await page_of(log, matches=matches, after=after, as_of=as_of)
        assert (as_of, seqs(page)) == (12, expected)


async def test_the_newest_entries_of_a_table_without_key(log: EventLog) -> None:
    await log.append([event(v=n) for n in range(10)] + [event(kind="delete"), put(1)])
    as_of, after = await log.newest(EVENTS, SHARED, even, 2)
    page = await page_of(log, EVENTS, matches=even, after=after, as_of=as_of)
    assert (as_of, seqs(page)) == (12, [7, 9])


# -- the model: writes go on between the pages of several snapshots ------------------------------


@dataclass
class Snapshot:
    """One subscriber's snapshot under way, and the rows it must end up with."""

    limit: int
    matches: Matches | None
    as_of: int | None = None
    after: int = 0
    done: bool = False
    expected: list[tuple[int, bytes]] = field(default_factory=list)
    found: list[tuple[int, bytes]] = field(default_factory=list)


class Reference:
    """The rows of ORDERS by plain replay of what the log tells."""

    def __init__(self) -> None:
        self._rows: dict[int, tuple[int, dict[str, Any], bytes]] = {}

    def apply(self, change: Change) -> None:
        if change.row is not None:
            self._rows[change.row.values["id"]] = (change.seq, change.row.values, change.row.json)
        elif change.old is not None:
            del self._rows[change.old.values["id"]]

    def rows(self, matches: Matches | None) -> list[tuple[int, bytes]]:
        found = sorted(self._rows.values(), key=lambda row: row[0])
        return [(seq, json) for seq, v, json in found if matches is None or matches(v)]


async def turn_page(log: EventLog, reference: Reference, snapshot: Snapshot) -> None:
    page = await page_of(
        log,
        matches=snapshot.matches,
        after=snapshot.after,
        as_of=snapshot.as_of,
        limit=snapshot.limit,
    )
    if snapshot.as_of is None:
        assert page.as_of == log.last_seq
        snapshot.as_of, snapshot.expected = page.as_of, reference.rows(snapshot.matches)
    assert page.as_of == snapshot.as_of
    snapshot.found += [(seq, row.json) for seq, row in page.rows]
    snapshot.after = snapshot.found[-1][0] if snapshot.found else 0
    snapshot.done = not page.has_more
    assert snapshot.found == snapshot.expected[: len(snapshot.found)]
    assert snapshot.done == (len(snapshot.found) == len(snapshot.expected))


keys = st.integers(0, 12)
writes = st.one_of(
    st.builds(lambda key, v: put(key, v=v), keys, st.integers(0, 5)),
    st.builds(lambda key, v: put(key, v=v), keys, st.integers(0, 5)),
    st.builds(gone, keys),
    st.builds(event),
    st.builds(lambda key: put(key, table=NOTES, owner="al", v=0), keys),
)
steps = st.one_of(
    st.lists(writes, min_size=1, max_size=12),
    st.builds(Snapshot, st.integers(1, 5), st.sampled_from([None, even])),
    st.integers(0, 3),
)
Step = list[PostedChange] | Snapshot | int


async def play(log: EventLog, script: list[Step]) -> None:
    reference, snapshots = Reference(), list[Snapshot]()
    for step in script:
        match step:
            case list():
                before = log.last_seq
                await log.append(step)
                for change in await everything(log, before):
                    if change.table == ORDERS.id:
                        reference.apply(change)
            case Snapshot():
                snapshots.append(step)
                await turn_page(log, reference, step)
            case int():
                for snapshot in [one for one in snapshots if not one.done][step : step + 1]:
                    await turn_page(log, reference, snapshot)
    for snapshot in snapshots:
        while not snapshot.done:
            await turn_page(log, reference, snapshot)


async def with_fresh_log(kind: LogKind, act: Callable[[EventLog], Any]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        log = new_log(kind, Path(directory), Clock())
        log.declare(TABLES)
        await log.start()
        try:
            await act(log)
        finally:
            await log.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(script=st.lists(steps, max_size=25))
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_pages_are_exact_whatever_is_written_between_them(
    kind: LogKind, script: list[Step]
) -> None:
    async def act(log: EventLog) -> None:
        await play(log, script)

    asyncio.run(with_fresh_log(kind, act))


async def test_a_long_snapshot_is_exact_under_heavy_writing(log: EventLog) -> None:
    reference, before = Reference(), 0
    await log.append([put(n, v=n) for n in range(3000)])
    for change in await everything(log, before):
        reference.apply(change)
    snapshot = Snapshot(limit=70, matches=even)
    await turn_page(log, reference, snapshot)
    turn = 0
    while not snapshot.done:
        turn += 1
        await log.append([put((turn * 37 + n * 11) % 3500, v=n) for n in range(200)])
        await log.append([gone((turn * 53 + n * 7) % 3500) for n in range(50)])
        await turn_page(log, reference, snapshot)
    assert len(snapshot.found) == 1500
