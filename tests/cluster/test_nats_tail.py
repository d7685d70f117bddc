"""The tail against real servers: all of it, once, in order."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from cluster.nats_kit import NatsCluster, NatsServer
from cluster.streams import Reader, fill, follow, tailing

from kalam_notify.log.nats.faults import NoAnswer, NoStream, Trimmed
from kalam_notify.log.nats.link import Link, NatsPlace, StreamMessage
from kalam_notify.log.nats.tail import Tail

MakeLink = Callable[..., Awaitable[Link]]


@pytest.fixture
async def link(make_link: MakeLink) -> Link:
    link = await make_link()
    await link.ensure_stream()
    return link


async def test_a_backlog_comes_whole(link: Link) -> None:
    await fill(link, 20_000)
    reader = Reader()
    async with tailing(Tail(link, 0, reader.take)):
        await reader.until(20_000)
    reader.assert_complete(1, 20_000)
    some = [await link.message(seq) for seq in (1, 7_777, 20_000)]
    assert some == [reader.messages[seq - 1] for seq in (1, 7_777, 20_000)]


async def test_it_begins_behind_what_is_known(link: Link) -> None:
    await fill(link, 300)
    reader = Reader()
    async with tailing(Tail(link, 290, reader.take)):
        await reader.until(300)
    reader.assert_complete(291, 300)


async def test_what_is_published_comes_while_it_is_published(
    link: Link, make_link: MakeLink
) -> None:
    other, reader = await make_link(), Reader()
    async with tailing(Tail(link, 0, reader.take)):
        await fill(other, 5_000, b"x" * 500)
        await reader.until(5_000)
        for number in range(5_001, 5_101):
            await other.publish(b"alone", f"m{number}", timeout=30)
            await reader.until(number)
    reader.assert_complete(1, 5_100)


async def test_large_messages_come_in_answers_of_their_own(link: Link) -> None:
    large = link.max_payload - 1000
    for number in range(3):
        await link.publish(b"%d" % number * large, f"m{number}", timeout=30)
    reader = Reader()
    async with tailing(Tail(link, 0, reader.take)):
        await reader.until(3)
    assert [one.data for one in reader.messages] == [b"%d" % n * large for n in range(3)]


async def test_nothing_is_asked_while_there_is_no_room(link: Link) -> None:
    await fill(link, 2_000, b"x" * 10_000)
    held: list[StreamMessage] = []
    has_come = asyncio.Event()

    def take(messages: Sequence[StreamMessage]) -> None:
        assert not held, "there was no room for more"
        held.extend(messages)
        has_come.set()

    tail = Tail(link, 0, take, lambda: not held)
    seen = 0
    async with tailing(tail), asyncio.timeout(60):
        while seen < 2_000:
            await has_come.wait()
            has_come.clear()
            assert [one.seq for one in held] == list(range(seen + 1, seen + len(held) + 1))
            seen += len(held)
            held.clear()
            tail.wake()


@pytest.mark.parametrize("headers_only", [False, True])
async def test_messages_come_with_the_bell_where_the_stream_sends_them(
    link: Link, nats_server: NatsServer, headers_only: bool
) -> None:
    if headers_only:
        config = {**(await link.info()).config}
        config["republish"]["headers_only"] = True
        nats_server.api(f"STREAM.UPDATE.{link.stream}", config)
    asked = 0
    send = link.send

    async def counting(subject: str, *more: Any) -> None:
        nonlocal asked
        asked += "DIRECT.GET" in subject
        await send(subject, *more)

    link.send = counting  # type: ignore[method-assign]
    reader = Reader()
    async with tailing(Tail(link, 0, reader.take)):
        await link.publish(b"first", "m0")
        await reader.until(1)
        before = asked
        for n in range(2, 12):
            await link.publish(b"%d" % n, f"m{n}")
            await reader.until(n)
    reader.assert_complete(1, 11)
    assert [one.data for one in reader.messages[1:]] == [b"%d" % n for n in range(2, 12)]
    assert {one.headers["Nats-Msg-Id"] for one in reader.messages if one.headers} >= {"m2", "m11"}
    assert reader.messages[5] == await link.message(6)
    # A machine that is busy may ask now and then, for fear that a bell was lost.
    assert (asked - before >= 10) is headers_only


async def test_a_message_that_nobody_rang_for_comes_too(link: Link) -> None:
    """The bell goes to a tail that is deaf to it."""
    reader = Reader()
    tail = Tail(link, 0, reader.take)
    tail._ring = lambda message: None  # type: ignore[method-assign]
    async with tailing(tail):
        await link.publish(b"x", "m1")
        await reader.until(1)
        tail.hear(2)
        await link.publish(b"x", "m2")
        await reader.until(2)
    reader.assert_complete(1, 2)


async def test_a_stream_that_was_trimmed_is_told(make_link: MakeLink) -> None:
    link = await make_link(max_age=1)
    await link.ensure_stream()
    await fill(link, 10)
    while (await link.info()).messages:
        await asyncio.sleep(0.05)
    last = await link.publish(b"x", "last")
    reader = Reader()
    with pytest.raises(Trimmed) as told:
        await asyncio.wait_for(Tail(link, 3, reader.take).run(), 30)
    assert told.value.first_seq == last.seq == 11
    async with tailing(Tail(link, 10, reader.take)):
        await reader.until(11)
    reader.assert_complete(11, 11)


async def test_a_stream_that_was_trimmed_to_its_end_is_told(make_link: MakeLink) -> None:
    link = await make_link(max_age=1)
    await link.ensure_stream()
    await fill(link, 10)
    while (await link.info()).messages:
        await asyncio.sleep(0.05)
    tail = Tail(link, 3, Reader().take)
    tail.hear(10)
    with pytest.raises(Trimmed):
        await asyncio.wait_for(tail.run(), 30)


async def test_a_stream_that_is_gone_is_told(link: Link, nats_server: NatsServer) -> None:
    await fill(link, 10)
    reader = Reader()
    async with tailing(Tail(link, 0, reader.take)) as task:
        await reader.until(10)
        nats_server.delete_stream(link.stream)
        with pytest.raises(NoStream):
            await asyncio.wait_for(task, 30)


async def test_what_the_taker_raises_ends_the_tail(link: Link) -> None:
    def refuse(messages: Sequence[StreamMessage]) -> None:
        raise RuntimeError("no more")

    await fill(link, 1)
    with pytest.raises(RuntimeError, match="no more"):
        await asyncio.wait_for(Tail(link, 0, refuse).run(), 30)


async def test_a_tail_ends_with_its_connection(own_server: NatsServer) -> None:
    link = Link(NatsPlace((own_server.url,), "S"))
    await link.start()
    try:
        assert await link.wait_connected(30)
        await link.ensure_stream()
        async with tailing(Tail(link, 0, Reader().take)) as task:
            own_server.stop()
            with pytest.raises(NoAnswer):
                await asyncio.wait_for(task, 30)
    finally:
        await link.close()


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_a_server_restarts_while_messages_flow(own_server: NatsServer, end: str) -> None:
    place = NatsPlace((own_server.url,), "S")
    link, other, reader = Link(place), Link(place), Reader()
    await link.start()
    await other.start()
    try:
        assert await link.wait_connected(30)
        await link.ensure_stream()
        assert await other.wait_connected(30)
        filling = asyncio.create_task(fill(other, 8_000, b"x" * 200))
        following = asyncio.create_task(follow(link, reader, 8_000))
        for upto in (1_000, 4_000):
            await reader.until(upto)
            await asyncio.to_thread(getattr(own_server, end))
            await asyncio.to_thread(own_server.restart)
        await filling
        async with asyncio.timeout(60):
            assert await following >= 3
    finally:
        await link.close()
        await other.close()
    reader.assert_complete(1, 8_000)
    mids = [one.headers["Kalam-Mid"] for one in reader.messages if one.headers]
    assert sorted(mids) == sorted(f"m{number}" for number in range(1, 8_001))


async def test_a_replica_that_lags_and_a_leader_that_dies_cost_no_message(
    nats_cluster: NatsCluster,
) -> None:
    place = NatsPlace(tuple(nats_cluster.urls), "S")
    link, other, reader = Link(place, replicas=3), Link(place), Reader()
    await link.start()
    await other.start()
    try:
        assert await link.wait_connected(30)
        await link.ensure_stream(60)
        assert await other.wait_connected(30)
        following = asyncio.create_task(follow(link, reader, 6_000))
        leader = await asyncio.to_thread(nats_cluster.leader_of, "S")
        lagging = next(one for one in nats_cluster.servers if one is not leader)
        lagging.freeze()
        await fill(other, 3_000, b"x" * 1_000)
        lagging.thaw()
        filling = asyncio.create_task(fill(other, 3_000, b"x" * 1_000, first=3_001))
        await reader.until(3_100)
        leader = await asyncio.to_thread(nats_cluster.leader_of, "S")
        leader.kill()
        await filling
        async with asyncio.timeout(60):
            await following
    finally:
        await link.close()
        await other.close()
    reader.assert_complete(1, 6_000)
