"""A key set by itself, on a fake clock, with fetches that answer what the test says."""

import asyncio
import contextlib
import logging

import pytest

from kalam_notify.auth.fetch import FetchFailed
from kalam_notify.auth.key_set import BURST, PAUSE, TELL_SECONDS, KeySet
from kalam_notify.auth.keys import PublishedKey

ONE, TWO = PublishedKey("one", "ES256", "1"), PublishedKey("two", "ES256", "2")


class Publisher:
    """What is fetched (None: the fetch fails), how often, and a clock that is moved by hand."""

    def __init__(self) -> None:
        self.keys: tuple[PublishedKey, ...] | None = (ONE,)
        self.fetches = 0
        self.now = 100.0
        self.key_set = KeySet("https://a.b/c", clock=lambda: self.now, fetch=self.fetch)

    def fetch(self, url: str) -> tuple[PublishedKey, ...]:
        self.fetches += 1
        if self.keys is None:
            raise FetchFailed("away")
        return self.keys

    async def spend(self) -> int:
        """Refresh for as long as that is allowed; how often it was."""
        before = self.fetches
        while self.key_set.may_fetch():
            await self.key_set.refresh()
        return self.fetches - before


@pytest.fixture
def publisher() -> Publisher:
    return Publisher()


async def test_a_set_is_known_from_its_first_fetch_on(publisher: Publisher) -> None:
    key_set = publisher.key_set
    assert (key_set.is_known, key_set.is_doubtful, key_set.keys) == (False, True, ())
    await key_set.refresh()
    assert (key_set.is_known, key_set.is_doubtful, key_set.keys) == (True, False, (ONE,))


async def test_a_fetch_that_fails_leaves_the_keys_and_a_doubt(publisher: Publisher) -> None:
    key_set = publisher.key_set
    await key_set.refresh()
    publisher.keys = None
    await key_set.refresh()
    assert (key_set.is_known, key_set.is_doubtful, key_set.keys) == (True, True, (ONE,))
    assert key_set.withdrawals == 0


async def test_withdrawals_are_counted_and_new_keys_are_not(publisher: Publisher) -> None:
    key_set = publisher.key_set
    for keys, withdrawals in (((ONE,), 0), ((ONE, TWO), 0), ((TWO,), 1), ((TWO,), 1), ((), 2)):
        publisher.keys = keys
        await key_set.refresh()
        assert key_set.withdrawals == withdrawals


async def test_fetches_have_an_allowance_that_is_earned_by_time(publisher: Publisher) -> None:
    assert await publisher.spend() == BURST
    publisher.now += PAUSE - 0.01
    assert await publisher.spend() == 0
    publisher.now += 0.02
    assert await publisher.spend() == 1
    publisher.now += 1000 * PAUSE
    assert await publisher.spend() == BURST


async def test_callers_at_the_same_time_share_one_fetch(publisher: Publisher) -> None:
    await asyncio.gather(*(publisher.key_set.refresh() for _ in range(50)))
    assert publisher.fetches == 1


async def test_a_fault_that_goes_on_is_logged_at_once_and_then_once_a_minute(
    publisher: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    publisher.keys = None
    for _ in range(10):
        await publisher.key_set.refresh()
    assert len(caplog.messages) == 1
    publisher.now += TELL_SECONDS
    await publisher.key_set.refresh()
    assert "10 times" in caplog.messages[-1]
    assert len(caplog.messages) == 2


async def test_to_keep_fresh_fetches_anew_though_a_fetch_is_under_way(publisher: Publisher) -> None:
    under_way = asyncio.create_task(publisher.key_set.refresh())
    await asyncio.sleep(0)
    keeper = asyncio.create_task(publisher.key_set.keep_fresh())
    await under_way
    while publisher.fetches < 2:
        await asyncio.sleep(0.001)
    keeper.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await keeper
