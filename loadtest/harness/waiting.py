"""Waiting for what tells nobody when it has come about."""

import asyncio
from collections.abc import Awaitable, Callable

from loadtest.harness.faults import LoadTestFault


async def until(
    is_so: Callable[[], Awaitable[bool]], what: str, seconds: float, pause: float = 0.005
) -> None:
    """Ask again and again; LoadTestFault where it is not so in time."""
    try:
        async with asyncio.timeout(seconds):
            while not await is_so():  # noqa: ASYNC110
                await asyncio.sleep(pause)
    except TimeoutError:
        raise LoadTestFault(f"waited {seconds:.0f} s in vain until {what}") from None
