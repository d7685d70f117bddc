"""The link against real servers: the stream's API, and connections that end."""

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from cluster.nats_kit import Gate, NatsCluster, NatsServer
from cluster.streams import settled, surely

from kalam_notify.log.nats.connection import Connection
from kalam_notify.log.nats.faults import (
    NoAnswer,
    NoStream,
    Refused,
    TooLarge,
    WrongLast,
    WrongStream,
)
from kalam_notify.log.nats.link import Link, NatsPlace, Received
from kalam_notify.log.nats.stream import direct_message

MakeLink = Callable[..., Awaitable[Link]]


class Changes:
    """What a link has told of its connection, and a way to wait for more."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._moved = asyncio.Event()

    @property
    def callbacks(self) -> dict[str, Callable[[], None]]:
        return {"on_up": lambda: self._note("up"), "on_down": lambda: self._note("down")}

    def _note(self, word: str) -> None:
        self.seen.append(word)
        self._moved.set()

    async def until(self, *words: str) -> None:
        async with asyncio.timeout(60):
            while self.seen != list(words):
                self._moved.clear()
                await self._moved.wait()


# -- the stream --------------------------------------------------------------------------------


async def test_a_stream_is_made_once_and_found_after(make_link: MakeLink) -> None:
    first, second = await make_link(), await make_link()
    made, other = await asyncio.gather(first.ensure_stream(), second.ensure_stream())
    again = await first.ensure_stream()
    assert made.created == other.created == again.created
    assert (again.first_seq, again.last_seq, again.messages) == (0, 0, 0)
    assert again.config["subjects"] == [f"{first.stream}.log"]


async def test_an_absent_stream_is_told_where_none_is_to_be_made(make_link: MakeLink) -> None:
    link = await make_link(create=False)
    with pytest.raises(NoStream, match=link.stream):
        await link.ensure_stream()
    with pytest.raises(NoStream):
        await link.info()
    with pytest.raises(NoStream):
        await link.message(1)


async def test_a_stream_made_for_something_else_is_refused(
    make_link: MakeLink, nats_server: NatsServer, stream: str
) -> None:
    config = {"name": stream, "subjects": [f"{stream}.log"], "storage": "memory"}
    nats_server.api(f"STREAM.CREATE.{stream}", config)
    link = await make_link()
    with pytest.raises(WrongStream, match="storage is 'memory', not 'file'"):
        await link.ensure_stream()


async def test_another_number_of_replicas_is_a_warning(
    make_link: MakeLink, caplog: pytest.LogCaptureFixture
) -> None:
    await (await make_link()).ensure_stream()
    with caplog.at_level(logging.WARNING):
        await (await make_link(replicas=3)).ensure_stream()
    assert "has 1 replicas, log.nats.replicas says 3" in caplog.text


async def test_more_replicas_than_servers_are_refused(make_link: MakeLink) -> None:
    with pytest.raises(Refused, match="replicas"):
        await (await make_link(replicas=3)).ensure_stream()


async def test_messages_get_sequences_and_are_known_by_their_id(make_link: MakeLink) -> None:
    link = await make_link()
    await link.ensure_stream()
    assert await link.publish(b"one", "m-1") == (1, False)
    assert await link.publish(b"two", "m-2", headers={"More": "x"}) == (2, False)
    assert await link.publish(b"one", "m-1") == (1, True)
    info = await link.info()
    assert (info.first_seq, info.last_seq, info.messages) == (1, 2, 2)
    found = await link.message(2)
    assert found is not None
    assert (found.seq, found.data) == (2, b"two")
    assert found.headers is not None
    assert {"Kalam-Format": "1", "Kalam-Mid": "m-2", "More": "x"}.items() <= found.headers.items()
    assert await link.message(3) is None


async def test_a_condition_that_does_not_hold_tells_where_the_stream_ends(
    make_link: MakeLink,
) -> None:
    link = await make_link()
    await link.ensure_stream()
    assert (await link.publish(b"", "a", expected_last_seq=0)).seq == 1
    with pytest.raises(WrongLast) as told:
        await link.publish(b"", "b", expected_last_seq=0)
    assert told.value.last_seq == 1


async def test_both_ways_of_reading_tell_the_same(make_link: MakeLink) -> None:
    link = await make_link()
    await link.ensure_stream()
    for number in range(20):
        await link.publish(b"x" * number, f"m{number}", headers={"More": "ä: b"})
        seq = number + 1
        ask = f"$JS.API.DIRECT.GET.{link.stream}"
        got = await link.request(ask, b'{"seq":%d}' % seq)
        assert got.headers is not None
        assert await link.message(seq) == direct_message(got.headers, got.data)


async def test_a_message_of_exactly_max_payload_passes(make_link: MakeLink) -> None:
    link = await make_link()
    await link.ensure_stream()
    with pytest.raises(TooLarge) as told:
        await link.publish(b"x" * link.max_payload, "m")
    largest = link.max_payload - (told.value.size - link.max_payload)
    with pytest.raises(TooLarge):
        await link.publish(b"x" * (largest + 1), "m")
    assert (await link.publish(b"x" * largest, "m", timeout=30)).seq == 1
    found = await link.message(1, timeout=30)
    assert found is not None
    assert found.data == b"x" * largest
    # The server would have ended the connection for one more.
    assert link.generation == 1


async def test_nobody_there_is_told_at_once(make_link: MakeLink) -> None:
    link = await make_link()
    with pytest.raises(NoAnswer, match="nobody answers") as told:
        await link.publish(b"", "m")
    assert not told.value.was_sent


# -- messages between nodes --------------------------------------------------------------------


async def test_one_of_a_queue_is_asked_and_answers(make_link: MakeLink) -> None:
    links = [await make_link() for _ in range(3)]
    asked: list[int] = []
    subject = f"kalam.{links[0].stream}.x"

    def answerer(number: int) -> Callable[[Received], None]:
        def answer(message: Received) -> None:
            asked.append(number)
            tasks.append(asyncio.create_task(links[number].reply(message, b"to " + message.data)))

        return answer

    tasks: list[asyncio.Task[None]] = []
    heard = [await links[n].subscribe(subject, answerer(n), queue="q") for n in (0, 1)]
    await asyncio.gather(settled(links[0]), settled(links[1]))
    for number in range(20):
        answer = await links[2].request(subject, b"%d" % number, 10)
        assert answer.data == b"to %d" % number
    assert len(asked) == 20
    for subscription in heard:
        await subscription.stop()
    await asyncio.gather(settled(links[0]), settled(links[1]))
    with pytest.raises(NoAnswer, match="nobody"):
        await links[2].request(subject, b"", 10)


# -- connections that end ----------------------------------------------------------------------


async def test_a_link_waits_for_servers_that_are_not_there_yet(own_server: NatsServer) -> None:
    own_server.stop()
    changes = Changes()
    link = Link(NatsPlace((own_server.url,), "S"), **changes.callbacks)
    await link.start()
    try:
        assert not await link.wait_connected(0.3)
        assert link.away_since is not None
        assert link.connected_since is None
        with pytest.raises(NoAnswer, match="no connection") as told:
            await link.publish(b"", "m")
        assert not told.value.was_sent
        await asyncio.to_thread(own_server.restart)
        await changes.until("up")
        assert link.away_since is None
        assert (await link.ensure_stream()).messages == 0
    finally:
        await link.close()
    assert changes.seen == ["up", "down"]


async def test_who_listens_and_who_asks_go_on_after_a_restart(own_server: NatsServer) -> None:
    changes = Changes()
    link = Link(NatsPlace((own_server.url,), "S"), **changes.callbacks)
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    await link.start()
    try:
        await link.subscribe("kalam.S.a", lambda message: heard.put_nowait(message.data))
        await changes.until("up")
        await link.ensure_stream()
        assert (await link.publish(b"x", "m")).seq == 1
        own_server.kill()
        await changes.until("up", "down")
        await asyncio.to_thread(own_server.restart)
        await changes.until("up", "down", "up")
        assert link.generation == 2
        await link.send("kalam.S.a", b"again")
        assert await asyncio.wait_for(heard.get(), 30) == b"again"
        # The server knows the id from before.
        assert await link.publish(b"x", "m", timeout=30) == (1, True)
    finally:
        await link.close()


async def test_who_waits_is_told_when_the_connection_is_reset(
    make_link: MakeLink, gate: Gate
) -> None:
    changes = Changes()
    link = await make_link(gate.url, **changes.callbacks)
    await link.subscribe("kalam.silent", lambda message: None)
    asking = asyncio.create_task(link.request("kalam.silent", b"", 1000))
    await settled(link)
    await asyncio.to_thread(gate.sever)
    with pytest.raises(NoAnswer, match="was lost") as told:
        await asyncio.wait_for(asking, 30)
    assert told.value.was_sent
    await asyncio.to_thread(gate.restore)
    await changes.until("up", "down", "up")


@pytest.mark.parametrize("left", [0, 6 * 1024 * 1024])
async def test_a_server_that_hangs_is_left_for_another(
    nats_server: NatsServer, make_link: MakeLink, gate: Gate, left: int
) -> None:
    """Also while it owes us the taking of what is written."""
    changes = Changes()
    link = await make_link(gate.url, **changes.callbacks)
    await link.ensure_stream()
    await asyncio.to_thread(gate.cut)
    with pytest.raises(NoAnswer, match="within"):
        await link.publish(b"x" * left, "m", timeout=0.2)
    await changes.until("up", "down")
    await asyncio.to_thread(gate.restore)
    await changes.until("up", "down", "up")
    assert (await link.publish(b"x", "n", timeout=30)).seq == 1 + (await _count_before(link))


async def _count_before(link: Link) -> int:
    # What was given up may have got through when the gate opened.
    return (await link.info()).messages - 1


async def test_a_link_of_three_servers_finds_the_one_that_is_there(
    own_server: NatsServer, nats_server: NatsServer
) -> None:
    nowhere = "nats://127.0.0.1:1"
    changes = Changes()
    link = Link(NatsPlace((nowhere, own_server.url, nowhere), "S"), **changes.callbacks)
    await link.start()
    try:
        await changes.until("up")
        assert link.server == own_server.url
    finally:
        await link.close()


async def test_a_refusal_of_the_server_is_no_end(own_server: NatsServer) -> None:
    """The server says no and hangs up; a client that took that for the end would never be back."""
    changes = Changes()
    link = Link(NatsPlace((own_server.url,), "S"), **changes.callbacks)
    await link.start()
    try:
        await changes.until("up")
        await link.send("x" * 5000)
        await changes.until("up", "down", "up")
        assert (await link.ensure_stream()).messages == 0
    finally:
        await link.close()


async def test_a_server_that_is_about_to_end_is_left_before_it_does(
    own_server: NatsServer, gate: Gate
) -> None:
    gate.sever()
    changes = Changes()
    link = Link(NatsPlace((own_server.url, gate.url), "S"), **changes.callbacks)
    await link.start()
    try:
        await changes.until("up")
        assert link.server == own_server.url
        await asyncio.to_thread(gate.restore)
        assert own_server.process is not None
        own_server.process.send_signal(signal.SIGUSR2)
        await changes.until("up", "down", "up")
        assert link.server == gate.url
        assert own_server.is_running
    finally:
        await link.close()


async def test_a_link_closes_though_its_cancellation_is_lost_while_it_connects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost: list[str] = []
    is_connecting = asyncio.Event()

    async def open_(connection: Connection, *_: Any, **__: Any) -> None:
        is_connecting.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if lost:
                raise
            lost.append("as wait_for does")
        raise NoAnswer("not there")

    monkeypatch.setattr(Connection, "open", open_)
    link = Link(NatsPlace(("nats://127.0.0.1:1",), "S"))
    await link.start()
    await is_connecting.wait()
    async with asyncio.timeout(30):
        await link.close()
    assert lost


async def test_three_servers_lose_their_leader_and_nothing_else(nats_cluster: NatsCluster) -> None:
    link = Link(NatsPlace(tuple(nats_cluster.urls), "S"), replicas=3)
    await link.start()
    try:
        assert await link.wait_connected(30)
        await link.ensure_stream(60)
        assert (await link.publish(b"1", "m1", timeout=30)).seq == 1
        leader = await asyncio.to_thread(nats_cluster.leader_of, "S")
        leader.kill()
        assert (await surely(lambda: link.publish(b"2", "m2"))).seq == 2
        info = await surely(link.info)
        assert info.last_seq == 2
        assert info.leader != leader.name
    finally:
        await link.close()
