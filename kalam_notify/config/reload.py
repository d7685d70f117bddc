"""What a reload may change while the server runs, and what waits for a restart."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from kalam_notify.config.settings import Config

RELOADABLE = (
    "server.allowed_origins",
    "server.strict_origin",
    "server.trusted_proxies",
    "websocket",
    "auth",
    "log.retention",
    "log.nats.append_timeout",
    "log.nats.stale_after",
    "log.nats.close_clients_after",
    "log.nats.snapshot_serving",
    "tables",
    "ingest",
    "limits",
    "logging.level",
    "metrics",
)


class Differences(NamedTuple):
    """Key paths whose values differ, in the order of the configuration file."""

    applied: list[str]
    needs_restart: list[str]


def reload_differences(old: Config, new: Config) -> Differences:
    """Which keys a reload from `old` to `new` changes now, and which only after a restart."""
    before, after = dict(_leaves(old, "")), dict(_leaves(new, ""))
    differences = Differences([], [])
    for path in {**before, **after}:
        if before.get(path) != after.get(path):
            target = differences.applied if is_reloadable(path) else differences.needs_restart
            target.append(path)
    return differences


def is_reloadable(path: str) -> bool:
    return any(path == key or path.startswith(f"{key}.") for key in RELOADABLE)


def reloaded(running: Config, new: Config) -> Config:
    """`new`, but for the keys that wait for a restart: those stay as they are in `running`."""
    kept = running.server
    server = replace(
        kept,
        allowed_origins=new.server.allowed_origins,
        strict_origin=new.server.strict_origin,
        trusted_proxies=new.server.trusted_proxies,
    )
    nats = replace(
        running.log.nats,
        append_timeout=new.log.nats.append_timeout,
        stale_after=new.log.nats.stale_after,
        close_clients_after=new.log.nats.close_clients_after,
        snapshot_serving=new.log.nats.snapshot_serving,
    )
    return replace(
        new,
        server=server,
        sources=running.sources,
        log=replace(running.log, retention=new.log.retention, nats=nats),
        logging=replace(running.logging, level=new.logging.level),
    )


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every key path and its value; a table is one leaf."""
    for field in msgspec.structs.fields(node):
        place = f"{path}.{field.name}" if path else field.name
        value = getattr(node, field.name)
        if place == "tables.declared":
            yield from ((f"{place}.{name}", table) for name, table in value.items())
        elif isinstance(value, msgspec.Struct):
            yield from _leaves(value, place)
        else:
            yield place, value
