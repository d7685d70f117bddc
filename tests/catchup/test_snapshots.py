"""Snapshots: their pages, whoever asks for them, and what goes wrong on the way."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from helpers.sinks import FakeConnection
from helpers.world import World, world

from kalam_notify.catchup import pages
from kalam_notify.catchup.pages import EncodedPage, KeptPages, PageKey, ReadFaults
from kalam_notify.errors import Compacted, LogUnavailable
from kalam_notify.filters import Filter, bind
from kalam_notify.log import Matches, MemoryLog, Page, PageRequest, Retention
from kalam_notify.model import ANONYMOUS, Owner, TableDef, TableId
from kalam_notify.model.hints import NO_HINTS, Hints
from kalam_notify.protocol.messages import NextBatch
from kalam_notify.sql import Limits, parse
from kalam_notify.subscriptions.plans import Counts, SubscriptionState, TablePlans

ORDERS = TableDef(TableId("app.orders"), "shared", "public", ("id",))
ALL = "SELECT * FROM app.orders"
NEVER = 3600.0
"""A grace that no client needs in a test."""


class Told(MemoryLog):
    """Does as it is told: fails, waits, and counts what is asked of it."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.page_faults: list[Exception] = []
        self.newest_faults: list[Exception] = []
        self.looked_back: list[int] = []
        self.pages = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def page(self, request: PageRequest) -> Page:
        self.pages += 1
        page = await super().page(request)
        await self.may_answer.wait()
        if self.page_faults:
            raise self.page_faults.pop()
        return page

    async def newest(
        self,
        table: TableDef,
        owner: Owner,
        matches: Matches | None,
        count: int,
        hints: Hints = NO_HINTS,
    ) -> tuple[int, int]:
        self.looked_back.append(count)
        if self.newest_faults:
            raise self.newest_faults.pop()
        return await super().newest(table, owner, matches, count, hints)


async def write(it: World, count: int, first: int = 1, **values: Any) -> None:
    ids = range(first, first + count)
    await it.post(*[it.change(ORDERS, "insert", {"id": id, **values}) for id in ids])


def ask(it: World, sql: str = ALL, **options: Any) -> FakeConnection:
    connection = it.connect(ANONYMOUS)
    it.subscribe(connection, "s", sql, options)
    return connection


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def turns(count: int = 30) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def want_page(it: World, client: FakeConnection, last_seq: int | None = None) -> bool:
    return it.requests.next_batch(client, NextBatch("s", last_seq))


def batches(client: FakeConnection) -> list[dict[str, Any]]:
    return [message for message in client.heard() if message["type"] == "initial_data_batch"]


def ids(messages: list[dict[str, Any]]) -> list[int]:
    return [row["id"] for message in messages for row in message["rows"]]


async def next_page(it: World, client: FakeConnection) -> dict[str, Any]:
    """The page that the client asks for."""
    assert want_page(it, client)
    await until(lambda: client.written)
    (page,) = batches(client)
    return page


# Pages


async def test_a_snapshot_comes_page_by_page_as_its_client_asks() -> None:
    async with world(MemoryLog(), [ORDERS], batch_grace=NEVER) as it:
        await write(it, 5)
        client = ask(it, batch_size=2)
        await until(lambda: client.written)
        found = batches(client)
        await write(it, 1, 6)
        # What is written meanwhile is not part of it, and comes as a change when it is over.
        found.append(await next_page(it, client))
        assert want_page(it, client)
        await it.settle()
        last, *changes = client.heard()
        found.append(last)
        controls = [page["batch_control"] for page in found]
        assert [page["rows"] for page in found] == [
            [{"id": id, "_seq": str(id)} for id in part] for part in ((1, 2), (3, 4), (5,))
        ]
        assert [control["batch_num"] for control in controls] == [0, 1, 2]
        assert [control["has_more"] for control in controls] == [True, True, False]
        assert [control["status"] for control in controls] == ["loading", "loading_batch", "ready"]
        # Where the client stands: behind the last row, and in the end at the snapshot's position.
        assert [control["last_seq_id"] for control in controls] == [2, 4, 5]
        assert [message["type"] for message in changes] == ["change"]
        assert ids(changes) == [6]
        assert not want_page(it, client)


@pytest.mark.parametrize("where", ["", " WHERE v % 2 = 1", " WHERE v = 1"])
@pytest.mark.parametrize("count", [2, 3, 4])
async def test_a_page_that_is_just_full_announces_no_other(where: str, count: int) -> None:
    async with world(MemoryLog(), [ORDERS], batch_grace=NEVER) as it:
        await write(it, count, v=1)
        await write(it, 100 if where else 0, 1000, v=2)
        client = ask(it, ALL + where, batch_size=3)
        await until(lambda: client.written)
        (first,) = batches(client)
        assert ids([first]) == list(range(1, min(count, 3) + 1))
        assert first["batch_control"]["has_more"] is (count > 3)
        if count > 3:
            assert ids([await next_page(it, client)]) == [4]


@pytest.mark.parametrize("where", ["", " WHERE v % 2 = 1"])
@pytest.mark.parametrize(("less", "on_first"), [(-1, 3), (0, 3), (1, 2)])
async def test_a_page_holds_the_rows_that_fit_into_a_message_to_the_byte(
    where: str, less: int, on_first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = len(b'{"id":1,"v":1,"_seq":"1"},')
    monkeypatch.setattr(pages, "_PAGE_BYTES", 3 * one - less)
    async with world(MemoryLog(), [ORDERS], batch_grace=NEVER) as it:
        await write(it, 3, v=1)
        client = ask(it, ALL + where)
        await until(lambda: client.written)
        found = batches(client)
        if found[-1]["batch_control"]["has_more"]:
            found.append(await next_page(it, client))
        assert ids(found) == [1, 2, 3]
        assert len(found[0]["rows"]) == on_first


async def test_a_row_larger_than_any_page_is_a_page_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pages, "_PAGE_BYTES", 50)
    async with world(MemoryLog(), [ORDERS]) as it:
        await write(it, 3, v="x" * 60)
        client = ask(it)
        await it.settle()
        assert [ids([page]) for page in batches(client)] == [[1], [2], [3]]


@pytest.mark.parametrize(("last_seq", "is_asked"), [(1, False), (2, True), (3, True), (None, True)])
async def test_an_ask_for_a_page_that_was_sent_before_is_passed_over(
    last_seq: int | None, is_asked: bool
) -> None:
    async with world(MemoryLog(), [ORDERS], batch_grace=NEVER) as it:
        await write(it, 4)
        client = ask(it, batch_size=2)
        await until(lambda: client.written)
        client.heard()
        assert want_page(it, client, last_seq) is is_asked
        # Asked twice it comes once.
        assert want_page(it, client) is not is_asked
        await until(lambda: client.written)
        await turns()
        assert ids(batches(client)) == [3, 4]


async def test_a_client_that_does_not_ask_gets_its_pages_all_the_same() -> None:
    async with world(MemoryLog(), [ORDERS], batch_grace=0.001) as it:
        await write(it, 5)
        client = ask(it, batch_size=2)
        await it.settle()
        assert ids(batches(client)) == [1, 2, 3, 4, 5]


async def test_a_page_waits_for_the_socket_not_only_for_the_client() -> None:
    async with world(MemoryLog(), [ORDERS], batch_grace=NEVER) as it:
        await write(it, 4)
        client = it.connect(ANONYMOUS)
        client.is_stuck = True
        it.subscribe(client, "s", ALL, {"batch_size": 2})
        await until(lambda: client.written)
        assert ids(batches(client)) == [1, 2]
        assert want_page(it, client)
        await turns()
        assert client.written == b""
        it.drain(client)
        await until(lambda: client.written)
        assert ids(batches(client)) == [3, 4]


async def test_a_socket_that_drains_brings_no_page_that_the_client_has_not_asked_for() -> None:
    async with world(MemoryLog(), [ORDERS], batch_grace=NEVER) as it:
        await write(it, 4)
        client = ask(it, batch_size=2)
        await until(lambda: client.written)
        client.heard()
        it.drain(client)
        await turns()
        assert client.written == b""
        assert client.subscriptions["s"].state is SubscriptionState.LOADING


async def test_a_large_page_is_read_again_rather_than_piled_upon_a_full_socket() -> None:
    log = Told()
    async with world(log, [ORDERS], batch_grace=NEVER) as it:
        await write(it, 1, v="x" * 40_000)
        log.may_answer.clear()
        client = ask(it)
        await until(lambda: log.pages)
        # Something else has come first.
        client.waiting = 1
        log.may_answer.set()
        await turns(100)
        assert client.written == b""
        it.drain(client)
        await it.settle()
        assert ids(batches(client)) == [1]


async def test_a_small_page_is_sent_on_top_of_what_waits() -> None:
    log = Told()
    async with world(log, [ORDERS], batch_grace=NEVER) as it:
        await write(it, 1)
        log.may_answer.clear()
        client = ask(it)
        await until(lambda: log.pages)
        client.waiting = 1
        log.may_answer.set()
        await until(lambda: client.written)
        assert ids(batches(client)) == [1]


# The newest rows


@pytest.mark.parametrize("last_rows", [1, 4, 5, 6, 1000])
async def test_the_newest_matching_rows_are_found_however_far_back_they_are(last_rows: int) -> None:
    log = Told()
    async with world(log, [ORDERS], batch_grace=NEVER) as it:
        await write(it, 3000)
        client = ask(it, f"{ALL} WHERE id % 500 = 0 AND id < 2600", last_rows=last_rows)
        await it.settle()
        expected = [500, 1000, 1500, 2000, 2500]
        assert ids(batches(client)) == expected[-last_rows:]
        # Twice as many rows each time, so what is near the end costs little.
        later = zip(log.looked_back, log.looked_back[1:], strict=False)
        assert all(after == 2 * before for before, after in later)
        assert max(log.looked_back) <= (1024 if last_rows == 1 else 4096)


@pytest.mark.parametrize("last_rows", [0, 1, 2, 3, 4])
async def test_without_a_condition_the_newest_rows_are_counted_not_searched(last_rows: int) -> None:
    log = Told()
    async with world(log, [ORDERS]) as it:
        await write(it, 3)
        # Of the rows as they are now: the first was the last to be written.
        await it.post(it.change(ORDERS, "update", {"id": 1, "v": 2}))
        client = ask(it, last_rows=last_rows)
        await it.settle()
        assert ids(batches(client)) == ([2, 3, 1][-last_rows:] if last_rows else [])
        assert log.looked_back == ([last_rows] if last_rows else [])


async def test_a_filter_that_raises_on_the_way_back_ends_its_subscribers_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with world(MemoryLog(), [ORDERS]) as it:
        await write(it, 3)

        def fail(self: Filter, values: dict[str, Any]) -> bool:
            raise RuntimeError("in spite of all")

        monkeypatch.setattr(Filter, "matches", fail)
        bad, other = ask(it, f"{ALL} WHERE id + 1 = 2", last_rows=1), ask(it, last_rows=1)
        await it.settle()
        assert [message["code"] for message in bad.heard()] == ["SUBSCRIPTION_FAILED"]
        assert (bad.ended_with, it.stats.plans_disabled) == (None, 1)
        assert ids(batches(other)) == [3]


# What goes wrong


async def test_retention_that_passes_a_snapshot_between_its_pages_ends_the_connection() -> None:
    log = MemoryLog(retention=Retention(max_age=None, max_bytes=None))
    async with world(log, [ORDERS], batch_grace=NEVER) as it:
        await write(it, 4)
        client = ask(it, batch_size=2)
        await until(lambda: client.written)
        client.heard()
        await it.post(it.change(ORDERS, "delete", {"id": 3}))
        log.retain(Retention(max_age=None, max_bytes=0))
        await log.trim()
        assert want_page(it, client)
        await until(lambda: client.ended_with)
        assert client.ended_with is not None
        assert client.ended_with.code == 1013
        assert client.written == b""
        it.requests.disconnect(client)


async def test_retention_that_passes_a_first_page_while_it_is_read_costs_a_second_read() -> None:
    log = Told()
    async with world(log, [ORDERS]) as it:
        await write(it, 2)
        log.page_faults = [Compacted(1)]
        client = ask(it)
        await it.settle()
        assert ids(batches(client)) == [1, 2]
        assert (client.ended_with, log.pages) == (None, 2)


async def test_a_log_that_cannot_be_looked_back_in_is_waited_for() -> None:
    log = Told()
    async with world(log, [ORDERS]) as it:
        await write(it, 2)
        log.newest_faults = [LogUnavailable("EMFILE")]
        client = ask(it, last_rows=1)
        await until(lambda: it.feeder.faults.reason)
        assert it.feeder.faults.reason == "EMFILE"
        await it.settle()
        assert it.feeder.faults.reason is None
        assert ids(batches(client)) == [2]


async def test_who_leaves_while_the_log_is_waited_for_leaves_nothing_behind() -> None:
    log = Told()
    async with world(log, [ORDERS]) as it:
        log.newest_faults = [LogUnavailable("EMFILE")]
        client = ask(it, last_rows=1)
        await until(lambda: it.feeder.faults.reason)
        it.requests.unsubscribe(client, "s")
        await until(lambda: not it.feeder._tasks)
        assert log.looked_back == [1]
        assert client.written == b""


async def test_an_unexpected_fault_on_the_way_back_ends_that_connection_only() -> None:
    log = Told()
    async with world(log, [ORDERS]) as it:
        await write(it, 2)
        log.newest_faults = [ValueError("nobody expected this")]
        failed, served = ask(it, last_rows=1), ask(it)
        await until(lambda: failed.ended_with)
        assert failed.ended_with is not None
        assert failed.ended_with.code == 1011
        it.requests.disconnect(failed)
        await it.settle()
        assert ids(batches(served)) == [1, 2]


async def test_a_page_that_cannot_be_sent_to_one_is_sent_to_the_others() -> None:
    log = Told()
    async with world(log, [ORDERS]) as it:
        await write(it, 2)
        log.may_answer.clear()
        broken, sound = ask(it), ask(it)

        def fail(frames: bytes) -> None:
            raise RuntimeError("broken")

        broken.send_frames = fail  # type: ignore[method-assign]
        log.may_answer.set()
        await until(lambda: broken.ended_with)
        assert broken.ended_with is not None
        assert broken.ended_with.code == 1011
        it.requests.disconnect(broken)
        await it.settle()
        assert ids(batches(sound)) == [1, 2]
        assert sound.ended_with is None


async def test_what_is_under_way_ends_with_the_feeder(caplog: pytest.LogCaptureFixture) -> None:
    log = Told()
    with caplog.at_level(logging.WARNING):
        async with world(log, [ORDERS]) as it:
            await write(it, 2)
            log.may_answer.clear()
            client = ask(it)
            await until(lambda: log.pages)
            tasks = [*it.feeder._tasks]
            assert tasks
    assert all(task.cancelled() for task in tasks)
    assert client.written == b""
    assert caplog.messages == []


def test_a_log_that_cannot_be_read_is_told_once_and_asked_ever_less_often(
    caplog: pytest.LogCaptureFixture,
) -> None:
    faults = ReadFaults()
    with caplog.at_level(logging.INFO, "kalam_notify.catchup"):
        waits = [faults.met(LogUnavailable("EIO")) for _ in range(9)]
        assert waits == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
        assert faults.reason == "EIO"
        faults.over()
        faults.over()
        assert faults.reason is None
        assert faults.met(LogUnavailable("EMFILE")) == 0.05
    assert caplog.messages == [
        "EIO; catching up waits for it",
        "the log can be read again",
        "EMFILE; catching up waits for it",
    ]


# Pages kept for whoever asks next


def key(limit: int) -> PageKey:
    query = bind(parse(ALL, Limits()), ORDERS, ANONYMOUS)
    return PageKey(PLANS.acquire(query), limit, 0, None)


PLANS = TablePlans("", Counts())


def page_of(size: int) -> EncodedPage:
    found = EncodedPage(1, 1, [bytes((size - 1024) // 2)], has_more=False)
    assert found.size == size
    return found


@pytest.mark.parametrize(("size", "kept"), [(2998, 3), (3000, 3), (3002, 2), (9000, 1)])
def test_first_pages_are_kept_up_to_a_bound_the_newest_longest(
    size: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "_KEPT_BYTES", 7000)
    held = KeptPages()
    held.put(key(1), page_of(2000))
    held.put(key(2), page_of(2000))
    held.put(key(3), page_of(size))
    assert [held.get(key(limit)) is not None for limit in (1, 2, 3)] == [
        kept >= 3,
        kept >= 2,
        True,
    ]


def test_a_page_read_anew_takes_the_place_of_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pages, "_KEPT_BYTES", 5000)
    held = KeptPages()
    held.put(key(1), page_of(2000))
    for _ in range(5):
        latest = page_of(2000)
        held.put(key(2), latest)
    assert held.get(key(2)) is latest
    assert held.get(key(1)) is not None
