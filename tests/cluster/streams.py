"""What tests do with a stream: fill it, and read it with a tail."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from kalam_notify.log.nats.faults import NoAnswer, NoStream
from kalam_notify.log.nats.link import Link
from kalam_notify.log.nats.stream import StreamMessage
from kalam_notify.log.nats.tail import Tail

T = TypeVar("T")
SECONDS = 60.0


async def surely(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask until there is an answer."""
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                return await ask()
            except NoAnswer:
                await asyncio.sleep(0.05)


async def settled(link: Link) -> None:
    """Return when the server has taken in all that was sent before."""
    with contextlib.suppress(NoStream):
        await link.info()


async def fill(link: Link, count: int, data: bytes = b"x", first: int = 1) -> None:
    """Publish messages, many at a time, each until it is acknowledged; `m1` is the first one."""
    numbers = iter(range(first, first + count))

    async def some() -> None:
        for number in numbers:
            mid = f"m{number}"
            await surely(lambda mid=mid: link.publish(data, mid, timeout=2))  # type: ignore[misc]

    await asyncio.gather(*(some() for _ in range(64)))


class Reader:
    """Keeps what a tail gives it."""

    def __init__(self) -> None:
        self.messages: list[StreamMessage] = []
        self._moved = asyncio.Event()

    @property
    def upto(self) -> int:
        return self.messages[-1].seq if self.messages else 0

    def take(self, messages: Sequence[StreamMessage]) -> None:
        self.messages += messages
        self._moved.set()

    async def until(self, seq: int) -> None:
        async with asyncio.timeout(SECONDS):
            while self.upto < seq:
                self._moved.clear()
                await self._moved.wait()

    def assert_complete(self, first: int, last: int) -> None:
        """Nothing is missing, doubled or out of order."""
        assert [one.seq for one in self.messages] == list(range(first, last + 1))


@asynccontextmanager
async def tailing(tail: Tail) -> AsyncIterator["asyncio.Task[None]"]:
    """A tail that runs; what it raises is the task's."""
    task = asyncio.create_task(tail.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def follow(link: Link, reader: Reader, last: int) -> int:
    """Tail on every connection there is, until `last` has come; how many tails that took."""
    tails = 0
    while reader.upto < last:
        await link.wait_connected(SECONDS)
        tails += 1
        async with tailing(Tail(link, reader.upto, reader.take)) as task:
            coming = asyncio.create_task(reader.until(last))
            await asyncio.wait({task, coming}, return_when=asyncio.FIRST_COMPLETED)
            coming.cancel()
            if task.done() and not isinstance(task.exception(), NoAnswer):
                task.result()
    return tails
