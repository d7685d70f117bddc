"""The keys that an issuer publishes under a URL, as they were last fetched.

    never had --fetched--> known --fetch fails--> known (the keys stay, and are tried again soon)
        `--fetch fails--> never had

The set is fetched again every LIFETIME seconds, so that a withdrawn key stops to hold, and at once
for a token whose key is not among those known, so that a new key holds from its first token on.
Whoever makes up key ids could turn that into a flood of requests to the issuer; so the fetches of
tokens have an allowance, BURST at once and then one every PAUSE seconds. While it is used up and
the last fetch succeeded, what is known is at most PAUSE seconds old, and an unknown key is none.
Callers at the same time share one fetch.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable

from kalam_notify.auth.fetch import FetchFailed, fetch_key_set
from kalam_notify.auth.keys import PublishedKey

logger = logging.getLogger(__name__)

LIFETIME = 30.0
"""Seconds that a key which its publisher has withdrawn may go on to verify tokens."""

PAUSE = 2.0
BURST = 5
FETCH_SECONDS = 6.0
"""How long a token waits for a fetch at most."""

TELL_SECONDS = 60.0
"""A fault that goes on is logged at once, and then this often."""


class KeySet:
    """One URL's keys. `clock` is monotonic; `fetch` blocks, and raises FetchFailed."""

    def __init__(
        self,
        url: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        fetch: Callable[[str], tuple[PublishedKey, ...]] = fetch_key_set,
    ) -> None:
        self.url = url
        self.keys: tuple[PublishedKey, ...] = ()
        # Whether it was ever fetched.
        self.is_known = False
        # Whether the last fetch failed: a key that is not known may still be published.
        self.is_doubtful = True
        # How often keys have been withdrawn: what such a key verified no longer holds.
        self.withdrawals = 0
        self._clock = clock
        self._fetch = fetch
        self._fetching: asyncio.Task[None] | None = None
        # Fetches that failed since the last line in the log, and when that was.
        self._untold = 0
        self._told_at = float("-inf")
        self._allowance = float(BURST)
        self._counted_at = clock()

    @property
    def is_fetching(self) -> bool:
        return self._fetching is not None and not self._fetching.done()

    def may_fetch(self) -> bool:
        """Whether `refresh` would tell more: a fetch is under way, or allowed."""
        return self.is_fetching or self._allowed() >= 1

    async def refresh(self) -> None:
        """Fetch, or share the fetch under way. One that fails is logged and changes no key."""
        if not self.is_fetching:
            self._allowance = self._allowed() - 1
            self._counted_at = self._clock()
            self._fetching = asyncio.create_task(self._take())
        assert self._fetching is not None
        # One caller's cancellation must not take the fetch away from the others.
        await asyncio.shield(self._fetching)

    async def keep_fresh(self) -> None:
        """Fetch now, and from now on for ever."""
        if self.is_fetching:
            # It may have begun before whatever happened that this is called for.
            await self.refresh()
        while True:
            await self.refresh()
            await asyncio.sleep(PAUSE if self.is_doubtful else LIFETIME)

    def _allowed(self) -> float:
        earned = (self._clock() - self._counted_at) / PAUSE if PAUSE else float("inf")
        return min(float(BURST), max(self._allowance, 0.0) + earned)

    def close(self) -> None:
        """Let go of a fetch under way, and with it of everybody who waits for it."""
        if self._fetching is not None:
            self._fetching.cancel()

    async def _take(self) -> None:
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                keys = await _aside(lambda: self._fetch(self.url))
        except (FetchFailed, TimeoutError) as failure:
            self._failed(failure)
            return
        if any(key not in keys for key in self.keys):
            self.withdrawals += 1
        if self.is_doubtful or keys != self.keys:
            logger.info("fetched %d keys for tokens", len(keys))
        self.keys, self.is_known, self.is_doubtful = keys, True, False
        self._told_at = float("-inf")

    def _failed(self, failure: FetchFailed | TimeoutError) -> None:
        self.is_doubtful = True
        self._untold += 1
        if self._clock() - self._told_at < TELL_SECONDS:
            return
        kept = "those fetched before stay" if self.is_known else "there are none yet"
        logger.warning(
            "the key set could not be fetched (%d times): %s; %s",
            self._untold,
            failure or "no answer in time",
            kept,
        )
        self._untold, self._told_at = 0, self._clock()


async def _aside(fetch: Callable[[], tuple[PublishedKey, ...]]) -> tuple[PublishedKey, ...]:
    """Run a fetch in a thread that nothing waits for when the server stops.

    Looking up a name may take longer than any timeout of ours.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[tuple[PublishedKey, ...]] = loop.create_future()

    def tell(result: tuple[PublishedKey, ...] | None, fault: Exception | None) -> None:
        if outcome.done():
            return
        if fault is not None:
            outcome.set_exception(fault)
        else:
            outcome.set_result(result or ())

    def run() -> None:
        result, fault = None, None
        try:
            result = fetch()
        except Exception as failure:
            fault = failure
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(tell, result, fault)

    threading.Thread(target=run, name="key set", daemon=True).start()
    return await outcome
