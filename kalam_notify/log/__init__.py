"""The log that changes are appended to and read back from.

`open_log` makes the log that a configuration names; `base.EventLog` is what every log offers.
"""

import time
from pathlib import Path

from kalam_notify.config import NatsSettings
from kalam_notify.config.nats_place import SCHEMES, node_file_name, parse_place
from kalam_notify.log.base import EventLog, OnAppend, reaches
from kalam_notify.log.following import ring_all
from kalam_notify.log.memory import MemoryLog
from kalam_notify.log.sqlite import SqliteLog
from kalam_notify.log.stored import WINDOW_BYTES
from kalam_notify.model.changes import Appended
from kalam_notify.store.base import Matches, Page, PageRequest, Span
from kalam_notify.store.retention import Retention
from kalam_notify.store.schema import Durability
from kalam_notify.store.sourced import read_source_names

__all__ = [
    "Appended",
    "Durability",
    "EventLog",
    "Matches",
    "MemoryLog",
    "OnAppend",
    "Page",
    "PageRequest",
    "Retention",
    "Span",
    "SqliteLog",
    "open_log",
    "reaches",
    "stored_sources",
    "wake_followers",
]

FILE_NAME = "kalam.db"


def open_log(
    url: str,
    data_dir: Path,
    durability: Durability = "commit",
    retention: Retention | None = None,
    window_bytes: int = WINDOW_BYTES,
    nats: NatsSettings | None = None,
) -> EventLog:
    """The log named by `log.url`, not started yet.

    `sqlite:` lives in `data_dir`, `sqlite:/path/file.db` where it says, `memory:` nowhere, and
    `nats://host:4222/STREAM` in a stream, with a file of this node in `data_dir`; `nats` are its
    settings. What has to be in memory of a file is bounded by `window_bytes`. Raises
    ValueError for any other url.
    """
    scheme, colon, place = url.partition(":")
    match scheme, colon, place:
        case "sqlite", ":", _:
            path = _file(place, data_dir)
            return SqliteLog(
                path,
                durability=durability,
                retention=retention,
                window_bytes=window_bytes,
                begin=_begin(),
            )
        case "nats" | "tls", ":", _:
            # nats-py is not needed for any other log.
            from kalam_notify.log.nats.opening import open_node

            return open_node(
                url, data_dir, retention=retention, window_bytes=window_bytes, settings=nats
            )
        case "memory", ":", "":
            return MemoryLog(retention=retention, begin=_begin())
        case _:
            raise ValueError(f"{url!r} is no log; use sqlite:, nats://… or memory:")


def _begin() -> int:
    """Where a log that is new begins: beyond any seq of one that was here before."""
    return min(time.time_ns() // 1000, 2**52)


def stored_sources(url: str, data_dir: Path) -> set[str]:
    """The names of sources that this log has followed, without opening it."""
    scheme, _, place = url.partition(":")
    if scheme in SCHEMES:
        return read_source_names(data_dir / node_file_name(parse_place(url).stream))
    return read_source_names(_file(place, data_dir)) if scheme == "sqlite" else set()


def wake_followers(url: str, data_dir: Path) -> None:
    """Have every process that follows this log look at it: one that wrote to it has died."""
    scheme, _, place = url.partition(":")
    if scheme == "sqlite":
        ring_all(_file(place, data_dir).parent)
    elif scheme in ("nats", "tls"):
        ring_all(data_dir)


def _file(place: str, data_dir: Path) -> Path:
    return Path(place) if place else data_dir / FILE_NAME
