"""What starts, or would start, but deserves a word: warnings, and what `serve` insists on."""

from collections.abc import Iterator
from importlib.util import find_spec

from kalam_notify.config.credentials import PLACEHOLDER_SECRET
from kalam_notify.config.nats_settings import NatsSettings, is_nats
from kalam_notify.config.settings import Config, JwtSettings, LogSettings
from kalam_notify.errors import ConfigurationFault, Fault

SHORTEST_SECRET_BYTES = 32

SECONDS_OF_A_NEW_LEADER = 10
"""A leader that died was followed by another within 4.6 to 8.5 s wherever it was measured."""


def warnings(config: Config) -> list[str]:
    """What an operator should know about a valid configuration, one line each."""
    return list(_warnings(config))


def _warnings(config: Config) -> Iterator[str]:
    yield from _authentication(config)
    if config.limits.max_body_bytes > config.limits.ingest_queue_bytes:
        yield (
            "limits.max_body_bytes: is more than limits.ingest_queue_bytes: "
            "a body that large would never be let in"
        )
    if config.log.url == "memory:":
        yield "log.url: memory: keeps nothing: a restart forgets every change and row"
    yield from _nats(config.log)
    for name, table in config.tables.declared.items():
        if not table.is_shared and table.access != "private":
            yield f"tables.declared.{name}.access: has no meaning for a user table"


def _nats(log: LogSettings) -> Iterator[str]:
    if not is_nats(log.url):
        if log.nats != NatsSettings():
            yield "log.nats: has no meaning unless log.url is nats://…: nothing of it is used"
        return
    for fault in lacking_package(log.url):
        yield f"{fault[0]}: {fault[1]}: {fault[2]}"
    nats = log.nats
    if nats.replicas % 2 == 0:
        yield (
            f"log.nats.replicas: {nats.replicas} copies survive the loss of no more servers than "
            f"{nats.replicas - 1} do: give an odd number"
        )
    for name in ("append_timeout", "stale_after"):
        if getattr(nats, name) < SECONDS_OF_A_NEW_LEADER:
            yield (
                f"log.nats.{name}: is shorter than the stream may take to find a new leader "
                f"({SECONDS_OF_A_NEW_LEADER} s)"
            )


def lacking_package(url: str) -> Iterator[tuple[str, str, str]]:
    """What a log on NATS needs and is not installed: key, value and cure."""
    if is_nats(url) and find_spec("nats") is None:
        cure = "pip install 'kalam-notify[nats]'"
        yield "log.url", "a log on NATS needs a package that is not installed", cure


def _authentication(config: Config) -> Iterator[str]:
    jwt = config.auth.jwt
    yield from _secrets(jwt)
    asymmetric = any(not name.startswith("HS") for name in jwt.algorithms)
    if (jwt.public_key or jwt.jwks_url) and not asymmetric:
        yield "auth.jwt.algorithms: names no algorithm that public_key or jwks_url are for"
    if jwt.jwks_url is not None and jwt.jwks_url.startswith("http:"):
        yield "auth.jwt.jwks_url: is fetched without TLS: whoever sits between can sign tokens"
    if not jwt.is_configured and not config.auth.anonymous:
        yield "auth: nobody could connect: serve wants auth.jwt or auth.anonymous (or --dev)"


def _secrets(jwt: JwtSettings) -> Iterator[str]:
    if PLACEHOLDER_SECRET in jwt.secrets:
        yield (
            "auth.jwt.secret: is the placeholder of the example file: "
            "replace it, serve will not start with it"
        )
    elif any(len(secret.encode()) < SHORTEST_SECRET_BYTES for secret in jwt.secrets):
        yield f"auth.jwt.secret: is shorter than {SHORTEST_SECRET_BYTES} bytes: it can be guessed"
    if any(map(_is_quoted, jwt.secrets)):
        yield "auth.jwt.secret: has quotes at its ends, which are part of it: are they meant?"


def require_authentication(config: Config, source: str) -> None:
    """Raise ConfigurationFault unless `serve` may start with this way to authenticate.

    `source` is what the faults blame: the configuration file, or the command.
    """
    if faults := [Fault(source, *finding) for finding in lacking_authentication(config)]:
        raise ConfigurationFault(faults)


def _is_quoted(secret: str) -> bool:
    return len(secret) > 1 and secret[0] == secret[-1] and secret[0] in "'\""


def lacking(config: Config) -> Iterator[tuple[str, str, str]]:
    """Why `serve` may not start with this configuration: key, value and cure of each."""
    yield from lacking_authentication(config)
    yield from lacking_package(config.log.url)


def lacking_authentication(config: Config) -> Iterator[tuple[str, str, str]]:
    """Why `serve` may not start with this way to authenticate: key, value and cure of each."""
    jwt = config.auth.jwt
    if not jwt.is_configured and not config.auth.anonymous:
        cure = "set auth.jwt.secret, public_key or jwks_url, or auth.anonymous, or start with --dev"
        yield "auth", "no way to authenticate", cure
    if PLACEHOLDER_SECRET in jwt.secrets:
        cure = "replace it by a secret of your own, e.g. from: openssl rand -hex 32"
        yield "auth.jwt.secret", "the placeholder of the example file", cure
