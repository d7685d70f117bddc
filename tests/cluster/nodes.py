"""Nodes of a cluster in the tests' own process."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from log.log_kit import TABLES

from kalam_notify.errors import LogUnavailable
from kalam_notify.log import Retention
from kalam_notify.log.nats.link import Link, NatsPlace
from kalam_notify.log.nats.nats_log import NatsLog
from kalam_notify.store.rows import TEXT, WITH_TEXT

FOREVER = Retention(max_age=None, max_bytes=None)


def new_node(url: str, stream: str, directory: Path, **options: Any) -> NatsLog:
    """A log that is not started, whose seqs begin with 1 unless `begin` says otherwise."""
    directory.mkdir(parents=True, exist_ok=True)
    options = {"retention": FOREVER, "trim_seconds": 3600, "begin": 0, **options}
    link = Link(NatsPlace((url,), stream), **options.pop("link", {}))
    return NatsLog(directory / "node.db", link, **options)


async def started(url: str, stream: str, directory: Path, **options: Any) -> NatsLog:
    """A node with the kit's tables that has caught up with the stream."""
    node = new_node(url, stream, directory, **options)
    node.declare(TABLES)
    await node.start()
    await level(node)
    return node


async def level(log: NatsLog) -> None:
    """Until the node has caught up with the stream."""
    async with asyncio.timeout(30):
        while log.why_not_ready() is not None:
            await asyncio.sleep(0.005)


async def stopped_for(log: NatsLog, words: str) -> str:
    """Until the node is not ready for a reason with these words; the reason."""
    async with asyncio.timeout(30):
        while words not in (reason := log.why_not_ready() or ""):
            await asyncio.sleep(0.005)
    return reason


async def latest(node: NatsLog) -> int:
    """Where the node's log ends, as soon as it is ready to tell."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await node.latest()
            except LogUnavailable:
                await asyncio.sleep(0.005)


async def all_equal(*nodes: NatsLog) -> None:
    """Until the nodes have applied the same; then their files have to be equal."""
    head = max([await latest(node) for node in nodes])
    for node in nodes:
        async with asyncio.timeout(30):
            while await latest(node) < head:
                await asyncio.sleep(0.005)
    files = [contents(node) for node in nodes]
    assert all(file == files[0] for file in files)


def contents(node: NatsLog) -> dict[str, list[Any]]:
    """What has to be equal on every node, whatever its numbers of tables."""
    queries = {
        "log": "SELECT seq, at, name, owner, log.kind, size, old_seq, log.id, row, old"
        " FROM log JOIN tables ON tables.id = tbl ORDER BY seq",
        "rows": f"SELECT name, r.owner, r.key, r.seq, {TEXT} FROM rows AS r {WITH_TEXT}"
        " JOIN tables ON tables.id = r.tbl ORDER BY name, r.owner, r.key",
        "batch keys": "SELECT * FROM batch_keys ORDER BY key",
        "tables": "SELECT name, kind, primary_key, horizon FROM tables ORDER BY name",
        "state": "SELECT last_seq, bytes, horizon, floor, base FROM state",
        "stream": "SELECT created, digest, epoch FROM stream",
        "messages": "SELECT * FROM messages ORDER BY stream_seq",
        "marks": "SELECT * FROM source_marks ORDER BY source",
        "positions": "SELECT * FROM source_positions ORDER BY source",
        "definitions": "SELECT * FROM source_tables ORDER BY source, name",
    }
    with closing(sqlite3.connect(node._path)) as connection:
        return {name: connection.execute(query).fetchall() for name, query in queries.items()}
