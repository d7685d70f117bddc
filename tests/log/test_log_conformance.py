"""What every log promises: appending, reading by position, following, idempotency."""

import asyncio
from pathlib import Path

import pytest
from log_kit import (
    EVENTS,
    FOREVER,
    NOTES,
    ORDERS,
    PLENTY,
    TABLES,
    VISITS,
    Clock,
    LogKind,
    event,
    everything,
    gone,
    new_log,
    put,
    row,
    seqs,
)

from kalam_notify.errors import LogUnavailable, StorageFault
from kalam_notify.log import Appended, EventLog, Retention
from kalam_notify.log.nats.nats_log import NatsLog
from kalam_notify.model import Change, PostedChange, Row, TableDef, TableId


async def test_a_batch_gets_consecutive_seqs_from_one_on(log: EventLog) -> None:
    assert await log.append([put(1), put(2)]) == Appended(2, 0, 1, 2)
    assert await log.append([put(3)]) == Appended(1, 0, 3, 3)
    assert (log.first_seq, log.last_seq) == (1, 3)


async def test_an_empty_log_has_named_edges(log: EventLog) -> None:
    assert (log.first_seq, log.last_seq, log.horizon()) == (1, 0, 0)
    assert log.recent(0) == ()
    span = await log.read(0, limit=1, max_bytes=1)
    assert (list(span.changes), span.upto) == ([], 0)


async def test_an_empty_batch_is_accepted_and_takes_no_seq(log: EventLog) -> None:
    assert await log.append([]) == Appended(0, 0, None, None)
    assert log.last_seq == 0


async def test_the_stored_row_decides_what_a_keyed_change_is(log: EventLog) -> None:
    await log.append([put(1, v="a", kind="update"), put(1, v="b"), gone(1), gone(1), put(1, v="c")])
    first, second = row(id=1, v="a"), row(id=1, v="b")
    assert await everything(log) == [
        Change(1, ORDERS.id, "", "insert", first, None),
        Change(2, ORDERS.id, "", "update", second, first, 1),
        Change(3, ORDERS.id, "", "delete", None, second, 2),
        Change(4, ORDERS.id, "", "delete", None, None),
        Change(5, ORDERS.id, "", "insert", row(id=1, v="c"), None),
    ]


async def test_the_old_image_comes_from_an_earlier_batch_too(log: EventLog) -> None:
    await log.append([put(1, v="a")])
    await log.append([put(2), put(1, v="b")])
    assert (await everything(log))[-1] == Change(
        3, ORDERS.id, "", "update", row(id=1, v="b"), row(id=1, v="a"), 1
    )


async def test_without_a_key_kind_and_old_image_stand_as_posted(log: EventLog) -> None:
    old = row(v=1)
    await log.append(
        [event(v=1), event(v=2, kind="update", old=old), event(kind="delete", old=old)]
    )
    assert await everything(log) == [
        Change(1, EVENTS.id, "", "insert", row(v=1), None),
        Change(2, EVENTS.id, "", "update", row(v=2), old),
        Change(3, EVENTS.id, "", "delete", None, old),
    ]


async def test_keys_of_unlike_types_tables_and_owners_are_apart(log: EventLog) -> None:
    await log.append(
        [put(1), put("1"), put(1, table=NOTES, owner="al"), put(1, table=NOTES, owner="AL")]
    )
    assert {change.kind for change in await everything(log)} == {"insert"}


@pytest.mark.parametrize(
    "json",
    [
        b'{"id":1,"text":"gr\xc3\xbc\xc3\x9fe \xf0\x9f\x8e\x89 \\u0000 \\n\\t \x7f"}',
        b'{"id":1,"big":18446744073709551615,"small":-9223372036854775808}',
        b'{"id":1,"float":1.0,"exp":1E+2,"tiny":5e-324,"list":[1,{"a":null}]}',
        b'{"id":1,"text":"' + b"x" * 300_000 + b'"}',
        b"{}",
    ],
    ids=["text", "integers", "numbers", "long", "empty"],
)
async def test_row_json_comes_back_byte_for_byte(log: EventLog, json: bytes) -> None:
    posted = PostedChange(ORDERS.id, "", "insert", Row(json), None, key="[1]")
    await log.append([posted, posted])
    read = await everything(log)
    assert [change.row.json for change in read if change.row] == [json, json]
    assert [change.old.json for change in read if change.old] == [json]


async def test_an_id_seen_before_is_a_duplicate_whatever_its_content(log: EventLog) -> None:
    await log.append([put(1, id="a"), put(2, id="b")])
    assert await log.append([put(9, id="b"), put(3, id="c"), put(4)]) == Appended(2, 1, 3, 4)
    assert await log.append([put(3, id="c")]) == Appended(0, 1, None, None)
    assert len(await everything(log)) == 4


async def test_an_id_counts_once_within_a_batch(log: EventLog) -> None:
    answer = await log.append([put(1, id="a", v=1), put(1, id="a", v=2), put(2, id="b")])
    assert answer == Appended(2, 1, 1, 2)
    assert (await everything(log))[0].row == row(id=1, v=1)


async def test_ids_of_concurrent_batches_are_told_apart_once(log: EventLog) -> None:
    answers = await asyncio.gather(*(log.append([put(n, id="same")]) for n in range(8)))
    assert sorted(answer.accepted for answer in answers) == [0] * 7 + [1]


@pytest.mark.parametrize("id", ["with\nline", "with\ttab", "x\x00y", "x\x00z", "ä" * 256, "'", "B"])
async def test_any_text_is_an_id(log: EventLog, id: str) -> None:
    assert (await log.append([put(1, id=id)], id)).accepted == 1
    assert (await log.append([put(1, id=id)])).duplicates == 1
    assert (await log.append([put(1)], id)).duplicates == 1
    assert (await log.append([put(1, id=id + " "), put(2, id=id.swapcase() + "?")])).accepted == 2


async def test_a_batch_key_seen_before_makes_the_whole_batch_duplicate(log: EventLog) -> None:
    assert await log.append([put(1), put(2)], "key") == Appended(2, 0, 1, 2)
    assert await log.append([put(7), put(8), put(9)], "key") == Appended(0, 3, None, None)
    assert await log.append([put(3)], "other") == Appended(1, 0, 3, 3)


async def test_batch_keys_and_ids_are_spaces_apart(log: EventLog) -> None:
    await log.append([put(1, id="x")])
    assert (await log.append([put(2, id="y")], "x")).accepted == 1
    assert (await log.append([put(3, id="x")], "y")).duplicates == 1
    assert (await log.append([put(3)], "z")).accepted == 1


async def test_ids_within_a_batch_with_a_key_count_by_themselves(log: EventLog) -> None:
    await log.append([put(1, id="a")])
    assert await log.append([put(1, id="a"), put(2, id="b")], "key") == Appended(1, 1, 2, 2)
    assert await log.append([put(1, id="a"), put(2, id="b")], "key") == Appended(0, 2, None, None)


async def test_a_key_is_seen_also_when_all_its_changes_were_known(log: EventLog) -> None:
    await log.append([put(1, id="a")])
    for key in ("key", "other"):
        assert (await log.append([put(1, id="a")], key)).duplicates == 1
        assert await log.append([put(2)], key) == Appended(0, 1, None, None)


async def test_concurrent_batches_stay_whole_and_in_order(log: EventLog) -> None:
    async def producer(name: str) -> list[Appended]:
        return [await log.append([event(by=name, n=n) for n in range(5)]) for _ in range(10)]

    answers = [one for each in await asyncio.gather(*map(producer, "abcdef")) for one in each]
    spans = sorted((one.first_seq, one.last_seq) for one in answers)
    assert spans == [(n + 1, n + 5) for n in range(0, 300, 5)]
    by_batch = [change.row.values["n"] for change in await everything(log) if change.row]
    assert by_batch == [0, 1, 2, 3, 4] * 60


async def test_appends_of_one_producer_keep_their_order(log: EventLog) -> None:
    answers = await asyncio.gather(*(log.append([event(n=n)]) for n in range(50)))
    assert [answer.first_seq for answer in answers] == list(range(1, 51))
    assert [change.row.values["n"] for change in await everything(log) if change.row] == [
        *range(50)
    ]


async def test_recent_tells_what_read_tells(log: EventLog) -> None:
    for n in range(10):
        await log.append([put(n), event(n=n)])
    for after in (0, 1, 7, 19, 20, 21):
        assert list(log.recent(after) or ()) == await everything(log, after)


async def test_a_limited_read_says_how_far_it_came(log: EventLog) -> None:
    await log.append([put(n) for n in range(10)])
    span = await log.read(2, limit=3, max_bytes=PLENTY)
    assert (seqs(span.changes), span.upto) == ([3, 4, 5], 5)


async def test_a_read_is_bounded_by_bytes_but_gives_one(log: EventLog) -> None:
    await log.append([put(n, pad="x" * 1000) for n in range(10)])
    assert seqs((await log.read(0, limit=100, max_bytes=1)).changes) == [1]
    assert len((await log.read(0, limit=100, max_bytes=3000)).changes) == 3


async def test_a_read_of_one_table_passes_over_the_others(log: EventLog) -> None:
    await log.append([put(1), event(), put(2), event(), event()])
    span = await log.read(0, limit=10, max_bytes=PLENTY, table=ORDERS.id)
    assert (seqs(span.changes), span.upto) == ([1, 3], 5)
    span = await log.read(0, limit=2, max_bytes=PLENTY, table=EVENTS.id, owner="")
    assert (seqs(span.changes), span.upto) == ([2, 4], 4)
    span = await log.read(3, limit=2, max_bytes=PLENTY, table=NOTES.id)
    assert (seqs(span.changes), span.upto) == ([], 5)


async def test_a_read_of_one_owner_never_shows_another(log: EventLog) -> None:
    owners = ["al", "bo", "al", "cy", "bo", "al"]
    await log.append([put(1, table=NOTES, owner=owner) for owner in owners])
    found = {
        owner: seqs(
            (await log.read(0, limit=9, max_bytes=PLENTY, table=NOTES.id, owner=owner)).changes
        )
        for owner in ("al", "bo", "cy", "a", "AL")
    }
    assert found == {"al": [1, 3, 6], "bo": [2, 5], "cy": [4], "a": [], "AL": []}
    whole = await log.read(0, limit=4, max_bytes=PLENTY, table=NOTES.id)
    assert (seqs(whole.changes), whole.upto) == ([1, 2, 3, 4], 4)


async def test_a_read_beyond_the_end_is_empty(log: EventLog) -> None:
    await log.append([put(1)])
    span = await log.read(9, limit=1, max_bytes=1)
    assert (list(span.changes), span.upto) == ([], 9)


async def test_many_and_large_changes_are_read_completely(log: EventLog) -> None:
    batch = [event(n=n, pad="x" * (n % 7) * 300) for n in range(1000)]
    await log.append(batch)
    span = await log.read(0, limit=PLENTY, max_bytes=PLENTY)
    assert [change.row for change in span.changes] == [change.row for change in batch]


async def test_waiters_resume_when_the_log_grows(log: EventLog) -> None:
    await log.append([put(1)])
    await log.wait_beyond(0)
    waiting = [asyncio.create_task(log.wait_beyond(1)) for _ in range(3)]
    further = asyncio.create_task(log.wait_beyond(3))
    await asyncio.sleep(0)
    await log.append([put(2)])
    await asyncio.gather(*waiting)
    assert not further.done()
    await log.append([put(3), put(4)])
    await further


async def test_a_cancelled_waiter_is_forgotten(log: EventLog) -> None:
    waiting = asyncio.create_task(log.wait_beyond(0))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await log.append([put(1)])
    assert log.last_seq == 1


async def test_the_log_shows_a_batch_by_the_time_it_is_acknowledged(log: EventLog) -> None:
    for n in range(20):
        answer = await log.append([put(n)])
        assert log.last_seq == answer.last_seq


async def test_a_cancelled_append_does_no_harm(log: EventLog) -> None:
    task = asyncio.create_task(log.append([put(1)]))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    answer = await log.append([put(2)])
    assert answer.last_seq == log.last_seq == len(await everything(log))
    assert not log.waiting


async def test_a_table_never_declared_is_refused(log: EventLog) -> None:
    unknown = TableDef(TableId("app.unknown"), "shared")
    with pytest.raises(ValueError, match=r"app\.unknown"):
        await log.append([put(1), event(table=unknown)])
    assert log.last_seq == 0


async def test_an_unprintable_owner_is_refused(log: EventLog) -> None:
    with pytest.raises(ValueError, match="printable"):
        await log.append([put(1, table=NOTES, owner="al\tbo")])


@pytest.mark.parametrize(
    "changed",
    [
        TableDef(ORDERS.id, "shared", primary_key=("other",)),
        TableDef(ORDERS.id, "shared"),
        TableDef(ORDERS.id, "user", primary_key=("id",)),
    ],
    ids=["key", "keyless", "kind"],
)
async def test_a_table_with_data_keeps_its_shape(log: EventLog, changed: TableDef) -> None:
    await log.append([put(1)])
    with pytest.raises(StorageFault, match=r"app\.orders"):
        log.declare([changed])
    assert (await log.append([put(2)])).accepted == 1


async def test_a_table_without_data_may_change_its_shape(log: EventLog) -> None:
    await log.append([put(1)])
    log.declare([TableDef(EVENTS.id, "user", primary_key=("n",)), ORDERS])
    await log.append([put(1, table=TableDef(EVENTS.id, "user"), owner="al")])
    assert [change.owner for change in await everything(log)] == ["", "al"]


async def test_every_stored_batch_is_told_to_the_hook(log: EventLog) -> None:
    told: list[tuple[float, Appended]] = []
    log.on_append = lambda seconds, stored: told.append((seconds, stored))
    await log.append([put(1, id="a"), put(2)])
    await log.append([put(1, id="a")])
    assert [(stored.accepted, stored.last_seq) for _, stored in told] == [(2, 2), (0, None)]
    assert all(seconds >= 0 for seconds, _ in told)


async def test_statistics_admit_how_full_everything_is(log: EventLog) -> None:
    await log.append([put(1, pad="x" * 100), event()])
    size = sum(change.size for change in await everything(log))
    found = log.statistics()
    assert found["log_bytes"] == size <= found["window_bytes"]
    assert (found["appends"], found["changes"], found["last_seq"]) == (1, 2, 2)
    assert (found["waiting_batches"], found["waiting_bytes"]) == (0, 0)


async def test_statistics_tell_when_the_oldest_change_was_stored(
    log: EventLog, clock: Clock
) -> None:
    assert log.statistics()["oldest_at"] == 0
    began = clock.now
    await log.append([put(1)])
    clock.advance(60)
    await log.append([put(2)])
    await log.trim()  # who has written does not look at the file's beginning each time
    if isinstance(log, NatsLog):
        # What a stream stores bears the time of its servers, whatever the node's clock is.
        assert log.statistics()["oldest_at"] > began + 60
        return
    assert log.statistics()["oldest_at"] == began
    log.retain(Retention(max_age=30, max_bytes=None))
    await log.trim()
    assert log.statistics()["oldest_at"] == began + 60
    clock.advance(60)
    await log.trim()
    assert log.statistics()["oldest_at"] == 0


async def test_a_closed_log_takes_and_gives_nothing(log: EventLog) -> None:
    await log.append([put(1)])
    await log.close()
    await log.close()
    with pytest.raises(LogUnavailable):
        await log.append([put(1)])
    with pytest.raises(LogUnavailable):
        await log.read(0, limit=1, max_bytes=1)


async def test_closing_finishes_the_appends_in_hand(
    log_kind: LogKind, tmp_path: Path, clock: Clock
) -> None:
    log = new_log(log_kind, tmp_path, clock, FOREVER)
    log.declare(TABLES)
    await log.start()
    appends = [asyncio.create_task(log.append([put(n)])) for n in range(20)]
    await asyncio.sleep(0)
    await log.close()
    assert [answer.accepted for answer in await asyncio.gather(*appends)] == [1] * 20


async def test_tables_of_users_without_a_key_are_read_by_owner(log: EventLog) -> None:
    await log.append([event(table=VISITS, owner="al"), event(table=VISITS, owner="bo")])
    span = await log.read(0, limit=9, max_bytes=PLENTY, table=VISITS.id, owner="bo")
    assert seqs(span.changes) == [2]
