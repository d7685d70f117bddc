"""A node's file, from one node to another, over a real server."""

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from cluster.nats_kit import NatsServer
from cluster.streams import settled

from kalam_notify.log.nats import offering
from kalam_notify.log.nats.copying import fetch_snapshot
from kalam_notify.log.nats.faults import CopyFailed, NoPeer
from kalam_notify.log.nats.link import Link, NatsPlace, Received
from kalam_notify.log.nats.offering import CHUNK_BYTES, SnapshotServer

MakeLink = Callable[..., Awaitable[Link]]
FACTS = {"applied": 7, "epoch": 2}


def write_new(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


class Source:
    """What makes snapshots: of these bytes, as soon as `may_go`."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.made: list[Path] = []
        self.may_go = asyncio.Event()
        self.may_go.set()

    async def make(self, path: Path) -> Mapping[str, Any]:
        self.made.append(path)
        write_new(path, self.data)
        await self.may_go.wait()
        return FACTS


Serve = Callable[[Source], Awaitable[SnapshotServer]]


@pytest.fixture
def offered(tmp_path: Path) -> Path:
    path = tmp_path / "offered"
    path.mkdir()
    return path


@pytest.fixture
async def serve(make_link: MakeLink, offered: Path) -> Any:
    servers: list[SnapshotServer] = []

    async def start(source: Source) -> SnapshotServer:
        link = await make_link()
        server = SnapshotServer(link, source.make, offered)
        servers.append(server)
        await server.start()
        await settled(link)
        return server

    yield start
    for server in servers:
        await server.stop()


def is_empty(directory: Path) -> bool:
    return not names(directory)


async def emptied(directory: Path) -> None:
    async with asyncio.timeout(30):
        while not is_empty(directory):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 5 * CHUNK_BYTES + 17]
)
async def test_the_copy_equals_what_is_offered(
    serve: Serve, make_link: MakeLink, tmp_path: Path, offered: Path, size: int
) -> None:
    source = Source(random.Random(size).randbytes(size))
    server = await serve(source)
    steps: list[tuple[int, int]] = []
    into = tmp_path / "here" / "kalam.db"
    into.parent.mkdir()
    link = await make_link()
    facts = await fetch_snapshot(link, into, progress=lambda *step: steps.append(step))
    assert facts == FACTS
    assert into.read_bytes() == source.data
    assert list(into.parent.iterdir()) == [into]
    assert server.sent_bytes == size
    assert steps[-1:] == ([(size, size)] if size else [])
    await emptied(offered)


async def test_nobody_offers_is_told_at_once(make_link: MakeLink, tmp_path: Path) -> None:
    with pytest.raises(NoPeer, match="nobody answers"):
        await fetch_snapshot(await make_link(), tmp_path / "x")
    assert is_empty(tmp_path)


async def test_who_has_stopped_offers_nothing(
    serve: Serve, make_link: MakeLink, tmp_path: Path
) -> None:
    server = await serve(Source(b"x"))
    await server.stop()
    with pytest.raises(NoPeer):
        await fetch_snapshot(await make_link(), tmp_path / "x")
    await server.start()
    await settled(server._link)
    assert await fetch_snapshot(await make_link(), tmp_path / "x") == FACTS


async def test_several_who_ask_at_once_wait_for_a_snapshot_and_share_it(
    serve: Serve,
    make_link: MakeLink,
    tmp_path: Path,
    offered: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(offering, "MAKING_SECONDS", 0.01)
    source = Source(os.urandom(3 * CHUNK_BYTES))
    source.may_go.clear()
    server = await serve(source)
    links = [await make_link() for _ in range(3)]
    asking = [
        asyncio.create_task(fetch_snapshot(link, tmp_path / f"{number}"))
        for number, link in enumerate(links)
    ]
    async with asyncio.timeout(30):
        while len(server._handings) < len(links):
            await asyncio.sleep(0.01)
    source.may_go.set()
    await asyncio.gather(*asking)
    assert len(source.made) == 1
    assert all((tmp_path / f"{number}").read_bytes() == source.data for number in range(3))
    await emptied(offered)
    # The next one is new.
    await fetch_snapshot(links[0], tmp_path / "later")
    assert len(source.made) == 2


async def test_a_snapshot_that_cannot_be_made_is_told(
    serve: Serve, make_link: MakeLink, tmp_path: Path, offered: Path
) -> None:
    source = Source(b"x")

    async def fail(path: Path) -> Mapping[str, Any]:
        write_new(path, b"half")
        raise OSError("disk full over there")

    source.make = fail  # type: ignore[method-assign]
    await serve(source)
    with pytest.raises(CopyFailed, match="disk full over there"):
        await fetch_snapshot(await make_link(), tmp_path / "x")
    await emptied(offered)
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "x.part").exists()


async def test_a_corrupted_chunk_is_noticed_and_nothing_is_left(
    serve: Serve, make_link: MakeLink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(os.urandom(4 * CHUNK_BYTES))
    await serve(source)
    read = offering._Snapshot.read

    def misread(snapshot: Any, offset: int, size: int) -> bytes:
        data = read(snapshot, offset, size)
        return bytes([data[0] ^ 1]) + data[1:] if offset == CHUNK_BYTES else data

    monkeypatch.setattr(offering._Snapshot, "read", misread)
    (tmp_path / "x").write_bytes(b"what was there before")
    with pytest.raises(CopyFailed, match="SHA-256"):
        await fetch_snapshot(await make_link(), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"what was there before"
    assert not (tmp_path / "x.part").exists()


async def test_a_chunk_that_is_cut_short_is_noticed(
    serve: Serve, make_link: MakeLink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await serve(Source(os.urandom(4 * CHUNK_BYTES)))
    monkeypatch.setattr(offering._Snapshot, "read", lambda *_: b"short")
    with pytest.raises(CopyFailed, match="gave 5 bytes at"):
        await fetch_snapshot(await make_link(), tmp_path / "x")


async def test_a_peer_that_dies_in_the_middle_is_given_up(
    make_link: MakeLink, tmp_path: Path, offered: Path
) -> None:
    dying = await make_link()
    server = SnapshotServer(dying, Source(os.urandom(40 * CHUNK_BYTES)).make, offered)
    await server.start()
    await settled(dying)
    tasks: list[asyncio.Task[None]] = []

    def die(done: int, size: int) -> None:
        if done > size // 2 and not tasks:
            # As a process does that is killed: its connection is gone, and its file stays.
            tasks.append(asyncio.create_task(dying.close()))

    with pytest.raises(CopyFailed, match="has gone"):
        await fetch_snapshot(await make_link(), tmp_path / "x", progress=die, patience=1)
    assert names(tmp_path) == ["offered"]
    await server.stop()
    await asyncio.gather(*tasks)


async def test_what_a_killed_process_has_left_goes_at_the_next_start(
    serve: Serve, offered: Path
) -> None:
    (offered / ".snapshot-1-dead").write_bytes(b"x")
    (offered / "kalam.db").write_bytes(b"mine")
    await serve(Source(b""))
    assert names(offered) == ["kalam.db"]


async def test_an_asker_that_falls_silent_is_forgotten(
    serve: Serve, make_link: MakeLink, offered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offering, "IDLE_SECONDS", 0.2)
    source = Source(b"x")
    await serve(source)
    link = await make_link()
    await link.request(f"kalam.{link.stream}.snapshot", b'{"format":1}', 30)
    assert len(source.made) == 1
    await emptied(offered)


async def test_a_peer_of_another_format_is_told(make_link: MakeLink, tmp_path: Path) -> None:
    newer, link = await make_link(), await make_link()
    tasks = []

    def welcome(message: Received) -> None:
        tasks.append(asyncio.create_task(newer.reply(message, b'{"format":2,"id":"x"}')))

    await newer.subscribe(f"kalam.{link.stream}.snapshot", welcome)
    await settled(newer)
    with pytest.raises(CopyFailed, match="upgrade this node"):
        await fetch_snapshot(link, tmp_path / "x")


async def test_a_server_that_restarts_in_the_middle_costs_a_moment(
    own_server: NatsServer, tmp_path: Path, offered: Path
) -> None:
    place = NatsPlace((own_server.url,), "S")
    peer, link = Link(place), Link(place)
    source = Source(os.urandom(60 * CHUNK_BYTES))
    server = SnapshotServer(peer, source.make, offered)
    await peer.start()
    await link.start()
    restarts: list[asyncio.Future[Any]] = []

    def restart(done: int, size: int) -> None:
        if done > size // 2 and not restarts:
            own_server.kill()
            restarts.append(asyncio.ensure_future(asyncio.to_thread(own_server.restart)))

    try:
        assert await peer.wait_connected(30)
        assert await link.wait_connected(30)
        await server.start()
        await settled(peer)
        await fetch_snapshot(link, tmp_path / "x", progress=restart, patience=60)
        await asyncio.gather(*restarts)
        await server.stop()
    finally:
        await peer.close()
        await link.close()
    assert restarts
    assert (tmp_path / "x").read_bytes() == source.data


async def test_a_large_file_comes_whole(serve: Serve, make_link: MakeLink, tmp_path: Path) -> None:
    source = Source(random.Random(1).randbytes(200_000_000))
    await serve(source)
    link = await make_link()
    began, spent = time.monotonic(), time.process_time()
    await fetch_snapshot(link, tmp_path / "x")
    took, spent = time.monotonic() - began, time.process_time() - spent
    print(f"{len(source.data) / took / 1e6:.0f} MB/s, {spent * 5:.1f} s CPU per GB, both ends")
    assert (tmp_path / "x").read_bytes() == source.data
