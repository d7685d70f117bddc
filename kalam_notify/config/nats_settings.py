"""`log.url: nats://…` and `log.nats`: a log that several nodes share on NATS JetStream."""

from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import msgspec

from kalam_notify.config import readers as r
from kalam_notify.config.nats_place import SCHEMES, parse_place, sign_in
from kalam_notify.config.readers import BadValue


def is_nats(url: str) -> bool:
    """Whether a log's url means a stream on NATS."""
    return url.partition(":")[0] in SCHEMES


def read_nats_url(value: object) -> str:
    """A url of a stream, as it was written; raises BadValue with what to write instead."""
    url = r.plain_text.read(value)
    try:
        parse_place(url)
    except ValueError as fault:
        raise BadValue(str(fault)) from None
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
    secrets: dict[str, None] = {}
    for server in parse_place(url).servers:
        _, password, token = sign_in(server)
        for secret in filter(None, (password, token)):
            secrets |= {secret: None, quote(secret, safe=""): None}
        # As it is written, whichever way that is.
        written = server.partition("://")[2].rpartition("@")[0]
        if written:
            secrets[written.rpartition(":")[2]] = None
    return tuple(filter(None, secrets))


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
