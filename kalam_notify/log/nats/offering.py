"""The file of this node, offered to others: see `copying` for what is said.

One snapshot is made at a time, and handed to everybody who asks while it is there; it is removed
when the last of them is done, or has not asked for a minute. It lies in a file whose name begins
with `.snapshot-`; what a killed process has left of that kind goes at the next start.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import msgspec

from kalam_notify.log.nats.copying import FORMAT, Ask, Offer, Welcome, measure
from kalam_notify.log.nats.faults import NoAnswer
from kalam_notify.log.nats.link import Link, Received, Subscription

CHUNK_BYTES = 512 * 1024

IDLE_SECONDS = 60.0
"""An asker that has been silent for so long has gone."""
SHARED_SECONDS = 600.0
"""A snapshot that is older is not handed to newcomers: they would have much to read after it."""
MAKING_SECONDS = 1.0
"""How often an asker is told that the snapshot is not ready yet."""

_HEADROOM = 4096
_QUEUE = "peers"
_PREFIX = ".snapshot-"

MakeSnapshot = Callable[[Path], Awaitable[Mapping[str, Any]]]

_logger = logging.getLogger(__name__)


class _Snapshot:
    """A copy of the file that is being made, or is there. `users` are those who ask for it."""

    def __init__(self, path: Path, make: MakeSnapshot) -> None:
        self.path = path
        self.since = time.monotonic()
        self.users = 0
        self.made = asyncio.create_task(self._make(make), name="snapshot")

    async def _make(self, make: MakeSnapshot) -> Offer:
        try:
            facts = dict(await make(self.path))
            size, sha256 = await asyncio.to_thread(measure, self.path)
        except Exception as fault:
            _logger.exception("no snapshot could be made for another node")
            return Offer("failed", reason=f"it could not be made: {fault}")
        return Offer("ready", size, sha256, facts=facts)

    def read(self, offset: int, size: int) -> bytes:
        """Some bytes of it, after it was made; fewer at its end. Not for the event loop."""
        with self.path.open("rb") as file:
            return os.pread(file.fileno(), size, offset)

    async def remove(self) -> None:
        self.made.cancel()
        await asyncio.to_thread(self.path.unlink, missing_ok=True)


class _Handing:
    """A snapshot on its way to one asker."""

    def __init__(self, snapshot: _Snapshot, on_end: Callable[["_Handing"], None]) -> None:
        self.id = secrets.token_hex(12)
        self.snapshot = snapshot
        self.subscription: Subscription | None = None
        self._on_end = on_end
        self._timer: asyncio.TimerHandle | None = None
        self.touch()

    def touch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._on_end, self)

    def forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class SnapshotServer:
    """Offers this node's file to others, from `start` to `stop`.

    `make_snapshot` puts a whole copy under the path it is given, which is in `directory` and where
    nothing is yet, and returns what goes with it, as JSON can say it.
    """

    def __init__(self, link: Link, make_snapshot: MakeSnapshot, directory: Path) -> None:
        self._link = link
        self._make = make_snapshot
        self._directory = directory
        self._subject = f"kalam.{link.stream}.snapshot"
        self._subscription: Subscription | None = None
        self._snapshot: _Snapshot | None = None
        self._handings: set[_Handing] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        # Bytes that others were sent.
        self.sent_bytes = 0

    async def start(self) -> None:
        """Serve; nothing where it does already."""
        if self._subscription is None:
            await asyncio.to_thread(_remove_old, self._directory)
            self._subscription = await self._link.subscribe(self._subject, self._welcome, _QUEUE)

    async def stop(self) -> None:
        """Serve no more, not even who is in the middle of it."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await subscription.stop()
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for handing in list(self._handings):
            await self._end(handing)

    def _welcome(self, message: Received) -> None:
        self._spawn(self._serve(message))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._is_over)

    def _is_over(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            _logger.error("another node's question about a snapshot failed: %s", fault)

    async def _serve(self, message: Received) -> None:
        snapshot = self._current()
        handing = _Handing(snapshot, lambda one: self._spawn(self._end(one)))
        snapshot.users += 1
        self._handings.add(handing)
        handing.subscription = await self._link.subscribe(
            f"{self._subject}.{handing.id}", lambda ask: self._spawn(self._answer(handing, ask))
        )
        await self._reply(message, msgspec.json.encode(Welcome(FORMAT, handing.id)))

    def _current(self) -> _Snapshot:
        """The snapshot there is, unless it is old or came to nothing; else one begun now."""
        now, there = time.monotonic(), self._snapshot
        if there is not None and there.users and now - there.since < SHARED_SECONDS:
            made = there.made
            if not made.done() or (not made.cancelled() and made.result().state == "ready"):
                return there
        path = self._directory / f"{_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
        self._snapshot = _Snapshot(path, self._make)
        return self._snapshot

    async def _answer(self, handing: _Handing, message: Received) -> None:
        handing.touch()
        ask = msgspec.json.decode(message.data, type=Ask)
        if ask.done:
            await self._reply(message, msgspec.json.encode(Offer("done")))
            await self._end(handing)
            return
        offer = await self._offer(handing)
        if ask.chunk is None or offer.state != "ready":
            await self._reply(message, msgspec.json.encode(offer))
            return
        place = ask.chunk * offer.chunk, offer.chunk
        data = await asyncio.to_thread(handing.snapshot.read, *place)
        self.sent_bytes += len(data)
        await self._reply(message, data)

    async def _offer(self, handing: _Handing) -> Offer:
        made = handing.snapshot.made
        await asyncio.wait({made}, timeout=MAKING_SECONDS)
        if not made.done():
            return Offer("making")
        if made.cancelled():
            return Offer("failed", reason="it is not offered any more")
        offer = made.result()
        if not offer.chunk:
            offer.chunk = min(CHUNK_BYTES, self._link.max_payload - _HEADROOM)
        return offer

    async def _reply(self, message: Received, data: bytes) -> None:
        with contextlib.suppress(NoAnswer):
            await self._link.reply(message, data)

    async def _end(self, handing: _Handing) -> None:
        if handing not in self._handings:
            return
        self._handings.discard(handing)
        handing.forget()
        if handing.subscription is not None:
            await handing.subscription.stop()
        snapshot = handing.snapshot
        snapshot.users -= 1
        if not snapshot.users:
            if self._snapshot is snapshot:
                self._snapshot = None
            await snapshot.remove()


def _remove_old(directory: Path) -> None:
    for path in directory.glob(f"{_PREFIX}*"):
        path.unlink(missing_ok=True)
