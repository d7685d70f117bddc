"""A node's file, copied from another node over NATS, for one that has missed too much.

    asker                                        peer (any one that serves, by a queue group)
    kalam.NAME.snapshot     {format}         ->  {format, id}             at once
    kalam.NAME.snapshot.ID  {}               ->  {state: making}          every second
                                             ->  {state: ready, size, sha256, chunk, facts}
    kalam.NAME.snapshot.ID  {chunk: 0}       ->  bytes                    four questions in flight
    kalam.NAME.snapshot.ID  {done: true}     ->  {state: done}

Every question may be asked again, and is, when its answer does not come; so a server that restarts
in the middle costs a second. A peer that is gone is noticed by its subject, which nobody answers on
any more. What has come is kept only if it is, by its SHA-256, what was offered.

This is the asker, and what both say; the peer is in `offering`.
"""

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from kalam_notify.log.nats.faults import CopyFailed, NoAnswer, NoPeer
from kalam_notify.log.nats.link import Link, Received

FORMAT = 1
IN_FLIGHT = 4

WELCOME_SECONDS = 5.0
ANSWER_SECONDS = 5.0
PATIENCE_SECONDS = 20.0
"""A peer that gives nothing for so long has gone."""
_PAUSE_SECONDS = 0.2

Progress = Callable[[int, int], None]


class Hello(msgspec.Struct):
    """Whoever asks understands this format."""

    format: int = FORMAT


class Welcome(msgspec.Struct):
    """What is asked for goes by this id."""

    format: int
    id: str


class Ask(msgspec.Struct, omit_defaults=True):
    """`chunk` counts from 0; None asks for the offer."""

    chunk: int | None = None
    done: bool = False


class Offer(msgspec.Struct, omit_defaults=True):
    """`size` and `chunk` are in bytes; `reason` is why the state is failed."""

    state: Literal["making", "ready", "failed", "done"]
    size: int = 0
    sha256: str = ""
    chunk: int = 0
    facts: dict[str, Any] = {}
    reason: str = ""


def measure(path: Path) -> tuple[int, str]:
    """Bytes and SHA-256 of a file. Not for the event loop."""
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()


async def fetch_snapshot(
    link: Link,
    into: Path,
    *,
    progress: Progress = lambda done, size: None,
    patience: float = PATIENCE_SECONDS,
) -> Mapping[str, Any]:
    """Put another node's file under `into`, durably, and return what was told with it.

    `progress` is told the bytes that have come, of how many. A peer that gives nothing for
    `patience` seconds is given up. Raises NoPeer, CopyFailed; nothing is left then.
    """
    hello = msgspec.json.encode(Hello())
    try:
        answer = await link.request(f"kalam.{link.stream}.snapshot", hello, WELCOME_SECONDS)
    except NoAnswer as fault:
        raise NoPeer(f"no node offers its file: {fault}") from fault
    peer = _Peer(link, _decoded(answer, Welcome), patience)
    part = into.with_name(f"{into.name}.part")
    try:
        offer = await peer.offer()
        await _Copy(peer, offer, part, progress).run()
        await asyncio.to_thread(_keep, part, into)
    except OSError as fault:
        raise CopyFailed(f"{part} cannot be written: {fault}") from fault
    finally:
        await asyncio.to_thread(part.unlink, missing_ok=True)
        with contextlib.suppress(NoAnswer):
            await peer.leave()
    return offer.facts


class _Peer:
    """The other node, as it is asked: until it has been silent for too long."""

    def __init__(self, link: Link, welcome: Welcome, patience: float) -> None:
        if welcome.format != FORMAT:
            raise CopyFailed(
                f"a node offers its file in format {welcome.format}: upgrade this node"
            )
        self._link = link
        self._subject = f"kalam.{link.stream}.snapshot.{welcome.id}"
        self._patience = patience
        self._heard_at = time.monotonic()

    async def offer(self) -> Offer:
        """What it has, as soon as it has it."""
        while True:
            offer: Offer = _decoded(await self.ask(Ask()), Offer)
            if offer.state == "ready" and offer.chunk > 0:
                return offer
            if offer.state != "making":
                raise CopyFailed(f"the other node has no file to give: {offer.reason}")

    async def ask(self, ask: Ask) -> Received:
        while True:
            try:
                answer = await self._link.request(
                    self._subject, msgspec.json.encode(ask), min(ANSWER_SECONDS, self._patience)
                )
            except NoAnswer as fault:
                if time.monotonic() - self._heard_at > self._patience:
                    raise CopyFailed(f"the other node has gone: {fault}") from fault
                await asyncio.sleep(_PAUSE_SECONDS)
                await self._link.wait_connected(_PAUSE_SECONDS)
            else:
                self._heard_at = time.monotonic()
                return answer

    async def leave(self) -> None:
        """Have it remove what it made."""
        await self._link.send(self._subject, msgspec.json.encode(Ask(done=True)))


class _Copy:
    """A file on its way, in chunks that come in any order."""

    def __init__(self, peer: _Peer, offer: Offer, part: Path, progress: Progress) -> None:
        self._peer, self._offer = peer, offer
        self._part = part
        self._progress = progress
        self._done = 0

    async def run(self) -> None:
        offer = self._offer
        chunks = iter(range(-(-offer.size // offer.chunk)))
        descriptor = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(IN_FLIGHT):
                    group.create_task(self._some(chunks, descriptor))
        except ExceptionGroup as faults:
            raise faults.exceptions[0] from None
        finally:
            os.close(descriptor)
        size, sha256 = await asyncio.to_thread(measure, self._part)
        if (size, sha256) != (offer.size, offer.sha256):
            raise CopyFailed("what came is not what was offered: its SHA-256 differs")

    async def _some(self, chunks: Iterator[int], descriptor: int) -> None:
        offer = self._offer
        for number in chunks:
            offset = number * offer.chunk
            data = (await self._peer.ask(Ask(chunk=number))).data
            if len(data) != min(offer.chunk, offer.size - offset):
                raise CopyFailed(f"the other node gave {len(data)} bytes at {offset}")
            await asyncio.to_thread(_write, descriptor, data, offset)
            self._done += len(data)
            self._progress(self._done, offer.size)


def _write(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _keep(part: Path, into: Path) -> None:
    """Give the file its name, so that it survives a power cut under it."""
    for path in (part, into.parent):
        if path is not part:
            part.rename(into)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _decoded(answer: Received, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(answer.data, type=kind)
    except msgspec.DecodeError as fault:
        raise CopyFailed(f"an answer of the other node cannot be read: {fault}") from fault
