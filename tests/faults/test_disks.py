"""A disk that takes nothing more, and then does again."""

import asyncio
import json
import random
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from helpers.server import Server, insert

from faults.kit import Producer, assert_exact, drawn_seed, new_followers

StartServer = Callable[..., Server]
# Files may not grow beyond: a row of half a megabyte fits nowhere, a line of the log does.
FULL_BYTES = 64 * 1024
BIG = "x" * 400_000


@contextmanager
def full_disk(server: Server) -> Iterator[None]:
    """No write of the server beyond FULL_BYTES into a file succeeds, as on a disk without room."""
    assert server.process is not None
    pid, limit = server.process.pid, resource.RLIMIT_FSIZE
    soft, hard = resource.prlimit(pid, limit)
    resource.prlimit(pid, limit, (FULL_BYTES, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, limit, (soft, hard))


async def test_a_full_disk_loses_nothing_and_tells_nothing_that_was_not_stored(
    start_server: StartServer,
) -> None:
    rng = random.Random(drawn_seed())
    server = await asyncio.to_thread(start_server)
    producer, followers = Producer(server, rng), new_followers(server, 3)
    following = [asyncio.create_task(one.follow()) for one in followers]
    await producer.post(10)
    with full_disk(server):
        for number in range(3):
            big = insert("app.orders", {"id": f"big{number}", "v": 4, "pad": BIG})
            answer = await asyncio.to_thread(server.post_raw, json.dumps(big).encode())
            assert (answer.status, answer.json["error"]["code"]) == (503, "OVERLOADED")
            assert int(answer.headers["retry-after"]) > 0
        # Who reads goes on: the rows are there.
        fresh = new_followers(server, 1)[0]
        reading = asyncio.create_task(fresh.follow())
        async with asyncio.timeout(60):
            while not fresh.view.ready:
                await asyncio.sleep(0.02)
        assert not any(str(key).startswith("big") for key in fresh.view.rows)
    await producer.post(10)
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    await producer.post(10)
    await producer.end()
    async with asyncio.timeout(300):
        await asyncio.gather(*following, reading)
    assert_exact([*followers, fresh], producer)
