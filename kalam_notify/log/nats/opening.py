"""A node's log from its settings."""

from pathlib import Path
from typing import Any

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
    replicas: int = 3,
    create: bool = True,
    credentials: Path | None = None,
    ca: Path | None = None,
    cert: Path | None = None,
    key: Path | None = None,
    **timeouts: Any,
) -> NatsLog:
    """The log of a node whose file is in `data_dir`, not started yet.

    `timeouts` are those of NatsLog. Raises ValueError for a url that names no stream.
    """
    place = parse_place(url)
    kept = (retention or Retention()).max_age
    link = Link(
        place,
        replicas=replicas,
        create=create,
        # Twice as long as the log, for nodes that are away; it goes by the servers' clock.
        max_age=None if kept is None else max(2 * kept, _LEAST_AGE),
        credentials=credentials,
        ca=ca,
        cert=cert,
        key=key,
    )
    path = data_dir / f"node-{place.stream}.db"
    return NatsLog(path, link, retention=retention, window_bytes=window_bytes, **timeouts)
