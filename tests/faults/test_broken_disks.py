"""Disks that err, run full, turn read-only or hang: told by /readyz, over without a restart."""

import asyncio
import errno
import json
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path

import pytest
from helpers.server import Answer, Server, insert
from integration.workers_kit import Door, doors

from faults.broken_disk import (
    HANG,
    ON_OPEN,
    ON_READ,
    ON_SYNC,
    ON_WRITE,
    BrokenDisk,
    server_on_broken_disk,
)
from faults.kit import Follower, Producer, assert_exact, drawn_seed, new_followers

SECONDS = 60.0
FAULTS = {
    "EIO on write": ((ON_WRITE,), errno.EIO, "disk I/O error"),
    "EIO on fsync": ((ON_SYNC,), errno.EIO, "disk I/O error"),
    # Of a page that cannot be read SQLite says now this, now that.
    "EIO on everything": ((ON_READ, ON_WRITE, ON_SYNC), errno.EIO, "disk I/O error|malformed"),
    "no space": ((ON_WRITE,), errno.ENOSPC, "full"),
    "no quota": ((ON_WRITE,), errno.EDQUOT, "disk I/O error|full"),
    "read-only": ((ON_WRITE, ON_OPEN), errno.EROFS, "disk I/O error|read-?only"),
}


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not await asyncio.to_thread(holds):
            await asyncio.sleep(0.02)


def post_one(server: Server, key: str) -> Answer:
    return server.post_raw(json.dumps([insert("app.orders", {"id": key, "v": 4})]).encode())


def assert_refused(answer: Answer) -> None:
    assert answer.status == HTTPStatus.SERVICE_UNAVAILABLE
    assert answer.json["error"]["code"] == "OVERLOADED"
    assert int(answer.headers["retry-after"]) > 0


def complaints(server: Server) -> list[str]:
    return [line for line in server.errors.splitlines() if " ERROR " in line]


def is_ready(door: Door) -> bool:
    return door.get("/readyz").status == HTTPStatus.OK


class Story:
    """A server with a producer and followers, before, during and after what befalls its disk."""

    def __init__(self, server: Server, disk: BrokenDisk, rng: random.Random) -> None:
        self.server, self.disk = server, disk
        self.producer = Producer(server, rng)
        self.followers = new_followers(server, 3)
        self.following = [asyncio.create_task(one.follow()) for one in self.followers]

    def join(self) -> Follower:
        fresh = new_followers(self.server, 1)[0]
        self.followers.append(fresh)
        self.following.append(asyncio.create_task(fresh.follow()))
        return fresh

    async def end(self) -> None:
        """All that was acknowledged is there, after a kill as well."""
        await self.producer.post(10)
        await asyncio.to_thread(self.server.kill)
        await asyncio.to_thread(self.server.start)
        await self.producer.post(5)
        await self.producer.end()
        async with asyncio.timeout(300):
            await asyncio.gather(*self.following)
        assert_exact(self.followers, self.producer)
        assert "Traceback" not in self.server.errors


@contextmanager
def story(directory: Path, workers: int) -> Iterator[Story]:
    rng = random.Random(drawn_seed())
    with server_on_broken_disk(directory, workers) as (server, disk):
        yield Story(server, disk, rng)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_disk_that_errs_is_told_once_and_survived(
    tmp_path: Path, fault: str, workers: int
) -> None:
    kinds, number, reason = FAULTS[fault]
    with story(tmp_path, workers) as it, doors(it.server, workers) as asked:
        await it.producer.post(10)
        with it.disk.erring(*kinds, number=number):
            for key in range(5):
                assert_refused(await asyncio.to_thread(post_one, it.server, f"refused {key}"))
            await until(lambda: not all(map(is_ready, asked)))
            told = next(one for one in asked if not is_ready(one)).get("/readyz")
            assert re.search(reason, told.body.decode())
            assert it.disk.hits > 0
        # Nobody has to post for it to be found well again.
        await until(lambda: all(map(is_ready, asked)))
        refusals = [line for line in complaints(it.server) if "could not be stored" in line]
        assert 1 <= len(refusals) <= workers * len(reason.split("|"))
        await it.end()
        assert not any(str(key).startswith("refused") for key in it.followers[0].view.rows)


@pytest.mark.parametrize("workers", [1, 2])
async def test_an_fsync_that_hangs_is_told_and_ends_well(tmp_path: Path, workers: int) -> None:
    with story(tmp_path, workers) as it, doors(it.server, workers) as asked:
        await it.producer.post(10)
        with it.disk.erring(HANG, number=1):
            posting = asyncio.create_task(it.producer.post(1))
            await until(lambda: not all(map(is_ready, asked)))
            told = next(one for one in asked if not is_ready(one)).get("/readyz")
            assert "has not stored a change for" in told.body.decode()
            assert not posting.done()
        await posting
        await until(lambda: all(map(is_ready, asked)))
        await it.end()


async def test_who_reads_waits_for_a_disk_that_cannot_be_read(tmp_path: Path) -> None:
    with story(tmp_path, 1) as it:
        await it.producer.post(10)
        # Nothing of the file is remembered by a server that has just started.
        await asyncio.to_thread(it.server.kill)
        await asyncio.to_thread(it.server.start)
        with doors(it.server, 1) as asked, it.disk.erring(ON_READ):
            fresh = it.join()
            await until(lambda: not is_ready(asked[0]))
            assert "could not be read" in asked[0].get("/readyz").body.decode()
            assert not fresh.view.ready
        async with asyncio.timeout(SECONDS):
            while not fresh.view.ready:
                await asyncio.sleep(0.02)
        with doors(it.server, 1) as asked:
            await until(lambda: is_ready(asked[0]))
        await it.end()


async def test_a_start_on_a_disk_that_errs_is_refused_with_path_and_cure(tmp_path: Path) -> None:
    with server_on_broken_disk(tmp_path, 1) as (server, disk):
        await asyncio.to_thread(server.post, insert("app.orders", {"id": 1}))
        assert await asyncio.to_thread(server.stop) == 0
        before = len(server.errors)
        with disk.erring(ON_READ), pytest.raises(AssertionError, match="ended"):
            await asyncio.to_thread(server.start)
        told = server.errors[before:].strip().splitlines()[-1]
        assert str(tmp_path / "data" / "kalam.db") in told
        assert "dmesg" in told
        await asyncio.to_thread(server.start)
