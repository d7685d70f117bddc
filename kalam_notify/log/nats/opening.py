"""A node's log from its settings."""

from pathlib import Path

from kalam_notify.config import NatsSettings
from kalam_notify.config.nats_place import node_file_name
from kalam_notify.log.nats.link import Link, parse_place
from kalam_notify.log.nats.nats_log import NatsLog
from kalam_notify.log.stored import WINDOW_BYTES
from kalam_notify.store.retention import Retention

_LEAST_AGE = 3600.0


def open_node(
    url: str,
    data_dir: Path,
    *,
    retention: Retention | None = None,
    window_bytes: int = WINDOW_BYTES,
    settings: NatsSettings | None = None,
) -> NatsLog:
    """The log of a node whose file is in `data_dir`, not started yet.

    Raises ValueError for a url that names no stream.
    """
    settings = settings or NatsSettings()
    link = open_link(url, settings, (retention or Retention()).max_age)
    path = node_path(data_dir, link.stream)
    return NatsLog(path, link, retention=retention, window_bytes=window_bytes, settings=settings)


def node_path(data_dir: Path, stream: str) -> Path:
    """Where a node keeps what it makes of a stream."""
    return data_dir / node_file_name(stream)


def open_link(url: str, settings: NatsSettings, kept: float | None) -> Link:
    """The way to the stream of a url, not started yet; `kept`: seconds that the log goes back.

    Raises ValueError for a url that names no stream.
    """
    place = parse_place(url)
    return Link(
        place,
        replicas=settings.replicas,
        create=settings.create,
        # Twice as long as the log, for nodes that are away; it goes by the servers' clock.
        max_age=None if kept is None else max(2 * kept, _LEAST_AGE),
        credentials=settings.credentials,
        ca=settings.tls.ca,
        cert=settings.tls.cert,
        key=settings.tls.key,
    )
