"""Nodes of a cluster in the tests' own process."""

import asyncio
from pathlib import Path
from typing import Any

from kalam_notify.log import Retention
from kalam_notify.log.nats.link import Link, NatsPlace
from kalam_notify.log.nats.nats_log import NatsLog

FOREVER = Retention(max_age=None, max_bytes=None)


def new_node(url: str, stream: str, directory: Path, **options: Any) -> NatsLog:
    """A log that is not started, whose seqs begin with 1 unless `begin` says otherwise."""
    directory.mkdir(parents=True, exist_ok=True)
    options = {"retention": FOREVER, "trim_seconds": 3600, "begin": 0, **options}
    return NatsLog(directory / "node.db", Link(NatsPlace((url,), stream)), **options)


async def level(log: NatsLog) -> None:
    """Until the node has caught up with the stream."""
    async with asyncio.timeout(30):
        while log.why_not_ready() is not None:
            await asyncio.sleep(0.005)
