"""Whether the log's file is damaged, as far as is known: found by a check, or met on the way.

A small file is checked whole before anything is served from it. A large one would keep the server
from its clients for minutes, so it is checked by slices beside it, in a thread of its own that
yields to everybody. Damage that a reader or the writer meets on its way has it checked anew: SQLite
also speaks of damage where a disk errs for a while. While the file is damaged no change is taken,
since it could be lost with it; who reads is served as far as the file can be read. Where a later
check finds the file sound again, all goes on.
"""

import asyncio
import logging
import time
from pathlib import Path

from kalam_notify.errors import LogUnavailable
from kalam_notify.store import soundness
from kalam_notify.store.reader import ReaderPool

_logger = logging.getLogger(__name__)

SMALL_BYTES = 64 * 1024 * 1024
"""A file of this size is checked in a fraction of a second."""

AGAIN_SECONDS = 5.0
"""Between two checks of a file that is damaged or cannot be read, and at least ..."""

AGAIN_TIMES = 10
"""... so many times as long as the last one took."""


class Soundness:
    """What is known of one file. `met` may be called in any thread, all else on the loop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Connections and threads of its own: those of readers are for who waits for an answer.
        self._pool = ReaderPool(path)
        self._wanted = asyncio.Event()
        self._checking: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        # Path, fault and cure; None: the file is sound for all that is known.
        self.reason: str | None = None

    async def start(self) -> str | None:
        """Check a small file now and a large one from now on; what is wrong with a small one.

        Raises LogUnavailable where it cannot be read.
        """
        self._loop = asyncio.get_running_loop()
        if self._path.stat().st_size <= SMALL_BYTES:
            found = await self._pool.scan(soundness.check)
            self._pool.forget()
            if found is not None:
                return soundness.damage_text(self._path, found)
        else:
            self._wanted.set()
        self._checking = asyncio.create_task(self._check_when_wanted(), name="log soundness")
        return None

    async def close(self) -> None:
        """End the check that is under way."""
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.gather(self._checking, return_exceptions=True)
        await self._pool.close()

    def met(self, fault: BaseException | None) -> None:
        """Something went wrong with the file: if that looks like damage, it is checked."""
        if self._loop is not None and soundness.is_damage(fault):
            self._loop.call_soon_threadsafe(self._wanted.set)

    def begin_anew(self) -> None:
        """There is another file in the place of the one before: check it, beside everything else.

        Nothing is known of it; whoever put it there has looked at what is small.
        """
        self._pool.forget()
        self.reason = None
        self._wanted.set()

    def _tell(self, what: str) -> None:
        if self.reason is None:
            self.reason = soundness.damage_text(self._path, what)
            _logger.error("%s; until then no change is taken", self.reason)

    async def _check_when_wanted(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            began = time.monotonic()
            is_sound = await self._check()
            await asyncio.sleep(max(AGAIN_SECONDS, AGAIN_TIMES * (time.monotonic() - began)))
            if not is_sound:
                self._wanted.set()

    async def _check(self) -> bool:
        try:
            return await self._check_slices()
        except LogUnavailable as fault:
            if soundness.is_damage(fault.__cause__):
                self._tell(str(fault.__cause__))
            else:
                _logger.warning("%s could not be checked: %s", self._path, fault)
            return False
        finally:
            # The next check is to read the file, not what is remembered of it.
            self._pool.forget()

    async def _check_slices(self) -> bool:
        for table in await self._pool.scan(soundness.slices):
            found = await self._pool.scan(soundness.check_politely, table)
            if found is not None:
                self._tell(f"{table}: {found}")
                return False
        if self.reason is not None:
            self.reason = None
            _logger.warning("%s has been checked, and is sound", self._path)
        return True
