"""Connections that break in the middle of a frame, arrive in pieces, or late."""

import asyncio
import random
from collections.abc import Callable

from helpers.server import Server

from faults.kit import ROUNDS, Producer, assert_exact, drawn_seed, new_followers
from faults.proxy import proxy

StartServer = Callable[..., Server]


async def test_views_are_exact_through_cuts_in_the_middle_of_frames(
    start_server: StartServer,
) -> None:
    rng = random.Random(drawn_seed())
    server = await asyncio.to_thread(start_server)
    async with proxy(server.url, rng) as between:
        producer, followers = Producer(server, rng), new_followers(server, 6, between.url)
        following = [asyncio.create_task(one.follow()) for one in followers]
        for _ in range(ROUNDS):
            await producer.post(60)
        await producer.end()
        # What is left to say may be longer than any connection lives.
        between.cuts = False
        async with asyncio.timeout(300):
            await asyncio.gather(*following)
    assert_exact(followers, producer)
    assert between.cut_count > 0
    assert sum(one.returns for one in followers) > 0
    assert "Traceback" not in server.errors
