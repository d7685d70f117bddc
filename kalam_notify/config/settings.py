"""The configuration as frozen structs that mirror the YAML file, key for key.

The defaults here are the defaults; config.example.yaml tells what each key is for. Durations are
seconds, sizes bytes. Every field carries the reader that reads its value (see readers.py), so
that a key is declared in one place only.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec

from kalam_notify.config import readers as r
from kalam_notify.config.addresses import listen_address, network, origin, web_address
from kalam_notify.config.credentials import role_names, secret_text
from kalam_notify.config.hooks import IngestSettings
from kalam_notify.config.nats_settings import (
    NatsSettings,
    read_nats_url,
    secrets_of,
    without_secrets,
)
from kalam_notify.config.source_settings import SourceSettings
from kalam_notify.model import TableDef, TableId

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

Duration = Annotated[float, r.duration()]
Size = Annotated[int, r.size()]
Count = Annotated[int, r.integer(1)]
# 0 stands for no limit.
Limit = Annotated[int, r.integer(0)]
Flag = Annotated[bool, r.boolean]
OptionalText = Annotated[str | None, r.nullable(r.plain_text)]

LEAST_OF_ONE_ADDRESS = 100
"""Connections that one address may have wherever the operator has not said."""

ALGORITHMS = (
    *("HS256", "HS384", "HS512"),
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512"),
    "EdDSA",
)


class TlsSettings(msgspec.Struct, frozen=True):
    cert: Annotated[Path | None, r.nullable(r.file_path)] = None
    key: Annotated[Path | None, r.nullable(r.file_path)] = None


class ServerSettings(msgspec.Struct, frozen=True):
    # HOST:PORT as written; `parse_address` takes it apart.
    listen: Annotated[str, listen_address] = "127.0.0.1:2900"
    internal_listen: Annotated[str | None, r.nullable(listen_address)] = None
    # `auto` has become the number of cores by now.
    workers: Annotated[int, r.workers] = 1
    # None: wherever it is given.
    io_uring: Annotated[bool | None, r.auto_or_flag] = None
    data_dir: Annotated[Path, r.file_path] = Path("kalam-data")
    drain_seconds: Annotated[float, r.duration(allow_zero=True)] = 10.0
    # Lower case, `scheme://host[:port]` or `*`; empty: every origin.
    allowed_origins: Annotated[tuple[str, ...], r.list_of(origin)] = ()
    strict_origin: Flag = False
    # IP addresses and networks.
    trusted_proxies: Annotated[tuple[str, ...], r.list_of(network)] = ()
    tls: TlsSettings = TlsSettings()


class WebSocketSettings(msgspec.Struct, frozen=True):
    max_connections: Count = 25_000
    max_subscriptions_per_connection: Count = 100
    messages_per_second: Count = 50
    message_burst: Count = 200
    max_message_bytes: Size = MIB
    send_buffer_bytes: Size = 256 * KIB
    batch_size: Count = 1000
    max_batch_size: Count = 10_000
    batch_grace: Duration = 1.0
    auth_timeout: Duration = 3.0
    handshake_timeout: Duration = 10.0
    ping_interval: Duration = 15.0
    idle_timeout: Duration = 45.0
    slow_reader_timeout: Duration = 120.0
    max_sql_bytes: Size = 16 * KIB
    max_sql_terms: Count = 512


OneOrMore: TypeAlias = str | tuple[str, ...] | None


def _each(given: OneOrMore) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else given or ()


class JwtSettings(msgspec.Struct, frozen=True):
    # One, or several of which any verifies; the first signs.
    secret: Annotated[OneOrMore, r.nullable(r.one_or_more(secret_text)).hidden()] = None
    # PEM text, or the path of a PEM file; one or several.
    public_key: Annotated[OneOrMore, r.nullable(r.one_or_more(r.plain_text)).hidden()] = None
    jwks_url: Annotated[str | None, r.nullable(web_address)] = None
    algorithms: Annotated[tuple[str, ...], r.list_of(r.choice(*ALGORITHMS))] = ("HS256",)
    issuer: OptionalText = None
    audience: OptionalText = None
    leeway: Annotated[float, r.duration(allow_zero=True)] = 60.0
    # The claim that names the role, or its path into nested ones.
    role_claim: Annotated[str, r.plain_text] = "role"
    # Roles by the names that a foreign issuer has for them.
    roles: Annotated[Mapping[str, str], role_names] = msgspec.field(default_factory=dict)

    @property
    def secrets(self) -> tuple[str, ...]:
        return _each(self.secret)

    @property
    def public_keys(self) -> tuple[str, ...]:
        return _each(self.public_key)

    @property
    def is_configured(self) -> bool:
        """Whether there is any key that a token could be verified with."""
        return any((self.secret, self.public_key, self.jwks_url))

    def __repr__(self) -> str:
        """Without the key material: a configuration may end up in a log line."""
        return f"JwtSettings(algorithms={self.algorithms!r}, …)"


_DIGESTS_OF_NOTHING = {hashlib.sha256(text).hexdigest() for text in (b"", b"\n", b"\r\n", b" ")}


def _read_sha256(value: object) -> str:
    digest = value.lower() if isinstance(value, str) else ""
    if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        raise r.BadValue("give the key's SHA-256 as 64 hexadecimal digits, in quotes")
    if digest in _DIGESTS_OF_NOTHING:
        raise r.BadValue("this is the SHA-256 of no key at all: the variable was empty")
    return digest


def _read_name(value: object) -> str:
    name = r.text.read(value)
    if len(name) > 128 or not name.isprintable():
        raise r.BadValue("give a name of 1 to 128 printable characters")
    return name


class ApiKey(msgspec.Struct, frozen=True):
    """One producer's key: only the SHA-256 of the key is kept."""

    name: Annotated[str, r.Reader(_read_name)]
    sha256: Annotated[str, r.Reader(_read_sha256).hidden()]
    role: Annotated[str, r.choice("service", "dba", "system")]


class AuthSettings(msgspec.Struct, frozen=True):
    jwt: JwtSettings = JwtSettings()
    anonymous: Flag = False
    api_keys: tuple[ApiKey, ...] = ()


class RetentionSettings(msgspec.Struct, frozen=True):
    max_age: Duration = 24 * 3600.0
    max_bytes: Size = GIB


LOG_URL_CURE = (
    "give sqlite: (a file in data_dir), sqlite:/path/file.db, memory:, or for several nodes "
    "nats://host:4222/STREAM"
)


def _read_log_url(value: object) -> str:
    url = r.text.read(value)
    try:
        if url.startswith(("nats:", "tls:")):
            return read_nats_url(url)
        if url != "memory:" and not url.startswith("sqlite:"):
            raise r.BadValue(LOG_URL_CURE)
    except r.BadValue as refusal:
        # The fault shows what is to blame, and that may hold a password.
        refusal.item = without_secrets(url)
        raise
    return url


class LogSettings(msgspec.Struct, frozen=True):
    # May hold a password: `secrets` tells.
    url: Annotated[str, r.Reader(_read_log_url)] = "sqlite:"
    durability: Annotated[Literal["commit", "os"], r.choice("commit", "os")] = "commit"
    # Bytes of the newest changes that are held in memory.
    window_bytes: Size = 32 * MIB
    retention: RetentionSettings = RetentionSettings()
    # Where url names a stream.
    nats: NatsSettings = NatsSettings()

    @property
    def secrets(self) -> tuple[str, ...]:
        """Passwords in the URL."""
        return secrets_of(self.url)

    def __repr__(self) -> str:
        """Without what the URL may hide: a configuration may end up in a log line."""
        return f"LogSettings(url={without_secrets(self.url)!r}, durability={self.durability!r}, …)"


class TablesSettings(msgspec.Struct, frozen=True):
    auto_create: Flag = False
    declared: Mapping[TableId, TableDef] = msgspec.field(default_factory=dict)


class LimitSettings(msgspec.Struct, frozen=True):
    max_body_bytes: Size = 8 * MIB
    max_batch_changes: Count = 10_000
    max_row_bytes: Size = 512 * KIB
    max_depth: Annotated[int, r.integer(1, 512)] = 64
    ingest_queue_bytes: Size = 64 * MIB
    # None: `auto`, see Config.connections_per_address.
    connections_per_address: Annotated[int | None, r.auto_or_limit] = None
    subscriptions_per_user: Limit = 0
    # Declared and created ones together.
    max_tables: Limit = 10_000


class LoggingSettings(msgspec.Struct, frozen=True):
    level: Annotated[str, r.choice("debug", "info", "warning", "error", "critical")] = "info"
    format: Annotated[Literal["text", "json"], r.choice("text", "json")] = "text"


class MetricsSettings(msgspec.Struct, frozen=True):
    open: Flag = False


class Config(msgspec.Struct, frozen=True):
    """A whole configuration; `Config()` is the defaults."""

    server: ServerSettings = ServerSettings()
    websocket: WebSocketSettings = WebSocketSettings()
    auth: AuthSettings = AuthSettings()
    log: LogSettings = LogSettings()
    tables: TablesSettings = msgspec.field(default_factory=TablesSettings)
    ingest: IngestSettings = msgspec.field(default_factory=IngestSettings)
    limits: LimitSettings = LimitSettings()
    sources: Mapping[str, SourceSettings] = msgspec.field(default_factory=dict)
    logging: LoggingSettings = LoggingSettings()
    metrics: MetricsSettings = MetricsSettings()

    def connections_per_address(self, *, is_local: bool) -> int:
        """How many connections one address may have, 0 for no limit.

        Where nothing is said that is a tenth of all, so that one address cannot take every place
        and an office behind one address gets in. This machine has no limit then, nor has anybody
        where proxies are declared, for they know better who comes from where.
        """
        limit = self.limits.connections_per_address
        if limit is not None:
            return limit
        if is_local or self.server.trusted_proxies:
            return 0
        return max(self.websocket.max_connections // 10, LEAST_OF_ONE_ADDRESS)
