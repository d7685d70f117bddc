"""`log.url: nats://…` and `log.nats`: a log that several nodes share on NATS JetStream."""

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote

import msgspec

from kalam_notify.config import readers as r
from kalam_notify.config.readers import BadValue

SCHEMES = ("nats", "tls")

URL_CURE = (
    "give nats://host:4222/STREAM (tls:// to insist on TLS), several hosts separated by commas; "
    "user:password@ or token@ may stand before each host"
)
STREAM_CURE = "end it with the stream's name: / and 1 to 63 letters, digits, - and _"

_STREAM = re.compile(r"[A-Za-z0-9_-]{1,63}")
_HOST = r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?\]"
# Whoever has one of / ? # [ ] @ , or a colon in a user's name writes it as %2F and the like.
_SERVER = re.compile(rf"(?:([^/?#\[\]@,:]+)(?::([^/?#\[\]@,]*))?@)?({_HOST})(?::(\d{{1,5}}))?")


def is_nats(url: str) -> bool:
    """Whether a log's url means a stream on NATS."""
    return url.partition(":")[0] in SCHEMES


def read_nats_url(value: object) -> str:
    """A url of a stream, as it was written; raises BadValue with what to write instead."""
    url = r.plain_text.read(value)
    scheme, separator, rest = url.partition("://")
    if scheme not in SCHEMES or not separator:
        raise BadValue(URL_CURE)
    hosts, slash, stream = rest.rpartition("/")
    if not slash or _STREAM.fullmatch(stream) is None:
        raise BadValue(STREAM_CURE)
    for host in hosts.split(","):
        match = _SERVER.fullmatch(host)
        if match is None:
            raise BadValue(URL_CURE)
        if match[4] is not None and not 0 < int(match[4]) < 65536:
            raise BadValue("give each host a port from 1 to 65535")
    return url


def without_secrets(url: str) -> str:
    """What a fault may show of a url: of one that may hold a password, its scheme."""
    if "@" not in url and "//" not in url:
        return url
    scheme = url.partition(":")[0]
    return f"{scheme}:…" if scheme in SCHEMES else "…"


def secrets_of(url: str) -> tuple[str, ...]:
    """Passwords and tokens of a valid url, as they are written and as they are meant."""
    if not is_nats(url):
        return ()
    found: list[str] = []
    for host in url.partition("://")[2].rpartition("/")[0].split(","):
        match = _SERVER.fullmatch(host)
        # A name without a password is a token.
        secret = (match[2] or match[1]) if match is not None else None
        if secret:
            found += {secret: None, unquote(secret): None}
    return tuple(found)


class NatsTlsSettings(msgspec.Struct, frozen=True):
    # PEM files. ca: whom to trust instead of the system's; cert and key: who we are.
    ca: Annotated[Path | None, r.nullable(r.file_path)] = None
    cert: Annotated[Path | None, r.nullable(r.file_path)] = None
    key: Annotated[Path | None, r.nullable(r.file_path)] = None


class NatsSettings(msgspec.Struct, frozen=True):
    """What a log on NATS is made with, and how long it waits for it."""

    # Copies of the stream, each on a server of its own; looked at when the stream is created.
    replicas: Annotated[int, r.integer(1, 5)] = 3
    # Whether a stream that is not there is created.
    create: Annotated[bool, r.boolean] = True
    # A .creds file: a user's JWT and the seed of its key.
    credentials: Annotated[Path | None, r.nullable(r.file_path)] = None
    tls: NatsTlsSettings = NatsTlsSettings()
    # How long a post waits until its outcome is told as unknown.
    append_timeout: Annotated[float, r.duration()] = 15.0
    # How long this node may hear nothing of the stream before it is not ready, ...
    stale_after: Annotated[float, r.duration()] = 15.0
    # ... and before it sends its clients elsewhere.
    close_clients_after: Annotated[float, r.duration()] = 60.0
    # Whether a node that has nothing yet may copy this one's file.
    snapshot_serving: Annotated[bool, r.boolean] = True
