"""Nodes that share a stream, in one process, on a real server."""

import asyncio
import contextlib
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cluster.nats_kit import Gate, NatsCluster, NatsServer
from cluster.nodes import all_equal, contents, level, new_node, started, stopped_for
from log.log_kit import EVENTS, ORDERS, TABLES, event, everything, gone, put, seqs
from msgspec import structs

from kalam_notify.cli import main
from kalam_notify.config import NatsSettings
from kalam_notify.errors import ChangeRefused, Compacted, LogUnavailable, OutcomeUnknown
from kalam_notify.log import PageRequest, Retention, reaches
from kalam_notify.log.base import Step
from kalam_notify.log.nats.link import Link, NatsPlace
from kalam_notify.log.nats.nats_log import NatsLog
from kalam_notify.metrics.registry import Metrics
from kalam_notify.model.changes import Appended

Start = Callable[..., Awaitable[NatsLog]]


@pytest.fixture
async def node(nats_server: NatsServer, stream: str, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts nodes by name on the common server; a name is a data directory."""
    nodes: list[NatsLog] = []

    async def start(name: str, url: str = nats_server.url, **options: Any) -> NatsLog:
        nodes.append(await started(url, stream, tmp_path / name, **options))
        return nodes[-1]

    yield start
    for one in nodes:
        await one.close()


async def test_what_is_posted_anywhere_is_told_everywhere_in_one_order(node: Start) -> None:
    a, b = await node("a"), await node("b")
    answers = await asyncio.gather(
        *(one.append([put(n % 7, n=n), event(n=n)]) for n in range(40) for one in (a, b))
    )
    assert sorted(answer.first_seq for answer in answers) == list(range(1, 161, 2))
    await all_equal(a, b)
    assert seqs(await everything(a)) == seqs(await everything(b)) == list(range(1, 161))


async def test_a_batch_posted_to_two_nodes_at_once_is_accepted_once(node: Start) -> None:
    a, b = await node("a"), await node("b")
    for n in range(50):
        one, other = await asyncio.gather(
            a.append([put(n), put(n, again=1)], f"key {n}"),
            b.append([put(n), put(n, again=1)], f"key {n}"),
        )
        assert {one.accepted, other.accepted} == {0, 2}
        assert {one.duplicates, other.duplicates} == {0, 2}
    await all_equal(a, b)


async def test_a_node_that_was_away_catches_up(node: Start) -> None:
    a, b = await node("a"), await node("b")
    await b.append([put(1)])
    await b.close()
    for n in range(20):
        await a.append([put(k, n=n) for k in range(100)])
    back = await node("b")
    assert back.last_seq == 2001
    await all_equal(a, back)


async def test_what_a_node_acknowledges_others_know_of_before_they_tell_where_the_log_ends(
    node: Start,
) -> None:
    a, b = await node("a"), await node("b")
    for n in range(50):
        appended = await a.append([put(n)])
        assert await b.latest() >= (appended.last_seq or 0)


async def test_retention_of_one_node_is_that_of_all(node: Start) -> None:
    a, b = await node("a", retention=Retention(None, 2000)), await node("b")
    await a.append([put(n, id=f"id {n}") for n in range(40)])
    removed = await a.trim()
    assert removed > 10
    await b.latest()
    assert a.first_seq == b.first_seq == removed + 1
    assert a.horizon(ORDERS.id) == b.horizon(ORDERS.id) == removed
    # Their ids have gone with them, everywhere.
    assert (await b.append([put(0, id="id 0"), put(39, id="id 39")])).duplicates == 1
    await all_equal(a, b)


async def test_a_node_that_comes_too_late_copies_the_file_of_another(
    node: Start, nats_server: NatsServer, stream: str
) -> None:
    a = await node("a")
    for n in range(10):
        await a.append([put(n), event(n=n)])
    old = await node("old")
    await old.close()
    for n in range(10):
        await a.append([gone(n)])
    answer = nats_server.api(f"STREAM.UPDATE.{stream}", _limited(nats_server, stream))
    assert answer["state"]["first_seq"] > 12
    fresh, back = await node("fresh"), await node("old")
    await all_equal(a, fresh, back)
    assert fresh.statistics()["snapshot_bytes_received"] > 0
    assert back.statistics()["snapshot_bytes_received"] > 0
    # It is a node like any other.
    assert (await fresh.append([put(1)])).first_seq == 31
    await all_equal(a, fresh, back)


def _limited(server: NatsServer, stream: str) -> dict[str, Any]:
    config: dict[str, Any] = server.api(f"STREAM.INFO.{stream}")["config"]
    return {**config, "max_msgs": 2}


async def test_without_another_node_one_that_comes_too_late_says_so(
    node: Start, nats_server: NatsServer, stream: str, tmp_path: Path
) -> None:
    a = await node("a")
    for n in range(10):
        await a.append([put(n)])
    nats_server.api(f"STREAM.UPDATE.{stream}", _limited(nats_server, stream))
    await a.close()
    late = new_node(nats_server.url, stream, tmp_path / "late")
    await late.start()
    reason = await stopped_for(late, "begins at message")
    assert "no node offers its file" in reason
    with pytest.raises(LogUnavailable):
        await late.latest()
    await late.close()


async def test_a_stream_that_lost_its_end_is_replayed_and_everybody_begins_anew(
    own_server: NatsServer, tmp_path: Path
) -> None:
    nodes = [await started(own_server.url, "FORK", tmp_path / name) for name in "ab"]
    a, b = nodes
    await a.append([put(1), put(2)])
    await all_equal(a, b)
    own_server.stop()
    shutil.copytree(own_server.directory, tmp_path / "backup")
    own_server.restart()
    await asyncio.gather(*map(level, nodes))
    lost = await b.append([put(1, lost=True), put(3)])
    await all_equal(a, b)
    own_server.stop()
    shutil.rmtree(own_server.directory)
    shutil.copytree(tmp_path / "backup", own_server.directory)
    own_server.restart()
    head = max(await asyncio.gather(*(_beyond(one, lost.last_seq or 0) for one in nodes)))
    await all_equal(a, b)
    assert {row[2] for row in contents(a)["rows"]} == {"[1]", "[2]"}
    assert (await a.append([put(4)])).first_seq or head < 0
    for one in nodes:
        for position in (1, 2, lost.first_seq, lost.last_seq):
            assert not reaches(one, position or 0, await one.latest(), ORDERS.id)
            # Nor does whoever is in the middle of reading.
            with pytest.raises(Compacted):
                await one.read(position or 0, limit=9, max_bytes=10**6, table=ORDERS.id)
            with pytest.raises(Compacted):
                await one.page(PageRequest(ORDERS, "", None, 0, position, 9, 10**6))
        await one.close()


async def _beyond(node: NatsLog, seq: int) -> int:
    """Until the node is ready, and its log goes on behind all that it has told."""
    async with asyncio.timeout(60):
        while True:
            # It may find out while it is asked.
            with contextlib.suppress(LogUnavailable):
                if node.why_not_ready() is None and (head := await node.latest()) > seq:
                    return head
            await asyncio.sleep(0.01)


async def test_a_stream_made_anew_stops_every_node_until_somebody_decides(
    node: Start, nats_server: NatsServer, stream: str
) -> None:
    a = await node("a")
    await a.append([put(1)])
    nats_server.delete_stream(stream)
    other = await node("new", begin=None)
    # What holds the old one notices when it connects again.
    await a.close()
    back = new_node(nats_server.url, stream, a._path.parent)
    back.declare(TABLES)
    await back.start()
    await level(back)  # by the file of the one that has begun with the new stream
    await all_equal(other, back)
    await back.close()


async def test_a_server_that_is_killed_costs_no_acknowledged_change(
    own_server: NatsServer, tmp_path: Path
) -> None:
    a = await started(own_server.url, "KILLED", tmp_path / "a")
    b = await started(own_server.url, "KILLED", tmp_path / "b")
    accepted: set[int] = set()

    async def produce(node: NatsLog, name: str) -> None:
        for n in range(60):
            while True:
                try:
                    await node.append([event(name=name, n=n)], f"{name} {n}")
                except LogUnavailable:
                    continue
                break
            accepted.add(n)

    producing = asyncio.gather(produce(a, "a"), produce(b, "b"))
    for least in (10, 30):
        while len(accepted) < least:
            await asyncio.sleep(0.005)
        own_server.kill()
        own_server.restart()
    await producing
    await all_equal(a, b)
    told = [change.row.values for change in await everything(a) if change.row]
    assert sorted((row["name"], row["n"]) for row in told) == [
        (name, n) for name in "ab" for n in range(60)
    ]
    await a.close()
    await b.close()


async def test_a_node_that_is_cut_off_says_so_and_comes_back(node: Start, gate: Gate) -> None:
    cut = await node(
        "cut",
        gate.url,
        settings=NatsSettings(append_timeout=0.5, stale_after=3.0, close_clients_after=3.5),
    )
    other = await node("other")
    await cut.append([put(1)])
    gate.cut()
    with pytest.raises(LogUnavailable):
        await cut.append([put(2)], "key")
    await stopped_for(cut, "has not been reached")
    # What it knows can still be read.
    assert seqs(await everything(cut)) == [1]
    async with asyncio.timeout(30):
        while cut.why_leave() is None:
            await asyncio.sleep(0.01)
    await other.append([put(3)])
    gate.restore()
    await level(cut)
    assert cut.why_leave() is None
    cut.adjust(NatsSettings())
    await cut.append([put(2)], "key")
    await all_equal(cut, other)
    assert (
        len([row for row in contents(cut)["log"] if row[8] and b'"id":2' in row[8].encode()]) == 1
    )


async def test_what_was_sent_without_an_answer_is_unknown_and_counts_once(
    node: Start, gate: Gate
) -> None:
    cut = await node("cut", gate.url, settings=NatsSettings(append_timeout=1.0))
    await cut.append([put(1)])
    gate.cut()
    with pytest.raises(OutcomeUnknown, match="Idempotency-Key"):
        await cut.append([put(2)], "key")
    gate.restore()
    cut.adjust(NatsSettings())
    await level(cut)
    again = await cut.append([put(2)], "key")
    assert again.accepted + again.duplicates == 1
    assert [row[2] for row in contents(cut)["rows"]] == ["[1]", "[2]"]


async def test_two_workers_of_a_node_share_its_file_and_one_follows_the_other(
    node: Start, tmp_path: Path
) -> None:
    first, second = await node("a"), await node("a")
    assert [one._leader.leads for one in (first, second)] == [True, False]
    for n in range(20):
        one, other = await asyncio.gather(first.append([put(n)]), second.append([put(-n - 1)]))
        assert one.accepted == other.accepted == 1
    await all_equal(first, second)
    await first.close()
    assert (await second.append([put(100)])).accepted == 1
    assert second._leader.leads
    assert seqs(await everything(second)) == list(range(1, 42))


async def test_workers_follow_the_file_that_takes_the_place_of_another(
    node: Start, nats_server: NatsServer, stream: str
) -> None:
    a, first, second = await node("a"), await node("b"), await node("b")
    await a.append([put(n) for n in range(10)])
    await all_equal(a, first, second)
    inode = first._path.stat().st_ino
    first._leader._disagreement = "made up"
    first._leader.look_again()
    async with asyncio.timeout(30):
        while first._path.stat().st_ino == inode:
            await asyncio.sleep(0.01)
    await asyncio.gather(level(first), level(second))
    assert (await second.append([put(100)])).accepted == 1
    await all_equal(a, first, second)
    position = (await a.append([put(101)])).last_seq or 0
    assert await second.latest() == position
    await second.wait_beyond(position - 1)
    changes = second.recent(position - 1)
    assert changes is not None
    assert seqs(changes) == [position]


async def test_a_node_whose_digest_is_another_takes_the_file_of_the_one_that_told_it(
    node: Start,
) -> None:
    a, b = await node("a", retention=Retention(None, 1000)), await node("b")
    await a.append([put(n) for n in range(40)])
    await all_equal(a, b)

    def spoil(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE messages SET digest = digest + 1")
        connection.execute(
            'UPDATE log SET row = \'{"id":39,"spoilt":1}\' WHERE seq = (SELECT max(seq) FROM log)'
        )

    await b._leader._in_applier(spoil)
    epoch = a.statistics()["epoch"]
    await a.trim()
    async with asyncio.timeout(30):
        while not b.statistics()["snapshot_bytes_received"]:
            await asyncio.sleep(0.01)
    await level(b)
    assert b.statistics()["digest_mismatches"] == 1
    await all_equal(a, b)
    # What b told may have been wrong: its clients begin anew.
    assert b.statistics()["epoch"] == epoch + 1


async def test_a_stream_that_is_removed_while_a_node_is_connected_is_missed(
    node: Start, nats_server: NatsServer, stream: str
) -> None:
    a = await node("a")
    await a.append([put(1)])
    nats_server.delete_stream(stream)
    await stopped_for(a, "but this node has applied it up to message")
    # Whoever has nothing begins a new one, which the other is not taken in by.
    other = await node("new", begin=None)
    await level(a)
    await all_equal(a, other)
    assert contents(a)["rows"] == []


@pytest.mark.long
async def test_a_node_whose_servers_have_no_leader_says_so_though_it_is_connected(
    nats_cluster: NatsCluster, tmp_path: Path
) -> None:
    one, *others = nats_cluster.servers
    a = await started(
        one.url,
        "ALONE",
        tmp_path,
        link={"replicas": 3},
        settings=NatsSettings(stale_after=3.0, close_clients_after=3.5),
    )
    await a.append([put(1)])
    for server in others:
        server.kill()
    await stopped_for(a, "has not been reached")
    assert a.statistics()["connected"] == 1
    async with asyncio.timeout(30):
        while a.why_leave() is None:
            await asyncio.sleep(0.01)
    assert seqs(await everything(a)) == [1]
    for server in others:
        server.restart()
    await level(a)
    assert (await a.append([put(2)])).accepted == 1
    await a.close()


async def test_a_message_of_a_later_release_stops_the_node_and_says_why(
    node: Start, nats_server: NatsServer, stream: str
) -> None:
    a = await node("a")
    await a.append([put(1)])
    link = Link(NatsPlace((nats_server.url,), stream))
    await link.start()
    await link.wait_connected(30)
    await link.publish(b"whatever", "later-1", headers={"Kalam-Format": "2"})
    assert "upgrade this node" in await stopped_for(a, "format 2")
    with pytest.raises(LogUnavailable, match="upgrade"):
        await a.append([put(2)])
    await link.close()
    # That the stream is still the same does not make it able to.
    await a._leader._fence()
    assert "upgrade this node" in (a.why_not_ready() or "")


async def test_messages_of_others_are_passed_over(
    node: Start, nats_server: NatsServer, stream: str
) -> None:
    a = await node("a")
    nats_server.request(f"{stream}.log", b"not one of ours")
    assert (await a.append([put(1)])) == Appended(1, 0, 1, 1)


async def test_a_table_in_another_shape_is_refused_by_rule(node: Start) -> None:
    a, b = await node("a"), await node("b")
    await a.append([put(1)])
    await b.latest()
    other = structs.replace(ORDERS, primary_key=("total",))
    b._declared[ORDERS.id] = other
    with pytest.raises(ChangeRefused, match="primary key"):
        await b.append([structs.replace(put(2), key="[2]"), event()])
    assert (await b.append([event()])).accepted == 1
    shapes = {row[0]: row[2] for row in contents(a)["tables"]}
    assert shapes[ORDERS.id] == '["id"]'
    await all_equal(a, b)
    assert EVENTS.id in {row[2] for row in contents(b)["log"]}


async def test_a_batch_beyond_the_servers_max_payload_is_too_large(node: Start) -> None:
    a = await node("a")
    with pytest.raises(ChangeRefused) as refused:
        await a.append([put(n, pad="x" * 500_000) for n in range(20)])
    assert (refused.value.status, refused.value.code) == (413, "TOO_LARGE")
    assert "max_payload" in refused.value.message
    assert (await a.append([put(1)])).first_seq == 1


async def test_a_new_log_begins_at_the_time(node: Start) -> None:
    a = await node("a", begin=None)
    assert ((await a.append([put(1)])).first_seq or 0) > 1_700_000_000_000_000
    assert reaches(a, 0, await a.latest(), ORDERS.id)
    assert not reaches(a, 5, await a.latest(), ORDERS.id)


async def test_a_node_tells_how_long_its_steps_take_and_whether_it_is_ready(
    node: Start, nats_server: NatsServer, stream: str
) -> None:
    a, b = await node("a"), await node("b")
    metrics, steps = Metrics(), list[tuple[Step, float]]()
    metrics.expect(a.steps)
    a.on_step = metrics.stepped
    b.on_step = lambda *step: steps.append(step)
    await a.append([put(1)])
    await all_equal(a, b)
    text = metrics.render().decode()
    assert "kalam_notify_log_publish_seconds_count 1.0" in text
    assert "kalam_notify_log_apply_seconds_count 1.0" in text
    # Who has published nothing has applied all the same.
    assert {step for step, _ in steps} == {"apply"}
    assert all(seconds > 0 for _, seconds in steps)


async def test_the_doctor_knows_a_nodes_file(
    node: Start, stream: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = await node("a")
    await a.append([put(1)])
    await a.close()
    a._path.rename(a._path.with_name(f"node-{stream}.db"))
    assert main(["doctor", str(tmp_path / "a")]) == 0
    told = capsys.readouterr().out
    assert "1 changes and 1 rows" in told
    assert f"it has applied the stream {stream}, created at" in told
    assert "up to message 2, in epoch 1" in told
    with contextlib.closing(sqlite3.connect(tmp_path / "a" / f"node-{stream}.db")) as connection:
        connection.execute("PRAGMA user_version = 99")
    assert main(["doctor", str(tmp_path / "a")]) == 1
    assert f"node-{stream}.db has format 99" in capsys.readouterr().out
