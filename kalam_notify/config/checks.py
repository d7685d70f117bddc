"""What no single key can tell: keys that contradict one another, files that are not there.

Each check yields findings about the keys it looked at, the one to blame first. A finding about a
key that is already faulty is not told: its value there is only the default.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from kalam_notify.config.addresses import parse_address
from kalam_notify.config.keys import PublicKey, fits, load_public_keys, prepare_secret
from kalam_notify.config.nats_settings import NatsSettings
from kalam_notify.config.readers import BadValue
from kalam_notify.config.settings import Config, JwtSettings, WebSocketSettings
from kalam_notify.config.source_settings import chosen_by
from kalam_notify.config.tree import HIDDEN, show
from kalam_notify.errors import Fault, SqlRefused


class Finding(NamedTuple):
    keys: tuple[str, ...]
    value: str
    cure: str


def check(
    config: Config, sources: Mapping[str, str], faults: list[Fault], *, renewing: bool = False
) -> None:
    """Add the faults of a configuration whose keys are each valid by themselves."""
    faulty = {fault.key for fault in faults}
    for finding in _findings(config, renewing):
        if faulty.isdisjoint(finding.keys):
            source = next((sources[key] for key in finding.keys if key in sources), "defaults")
            faults.append(Fault(source, finding.keys[0], finding.value, finding.cure))


def _findings(config: Config, renewing: bool) -> Iterator[Finding]:
    yield from _tls(config)
    if not renewing:
        yield from _certificate(config)
    yield from _addresses(config)
    yield from _pace(config)
    yield from _log(config)
    yield from _jwt(config.auth.jwt)
    yield from _api_keys(config)
    yield from _policies(config)
    yield from _sources(config)


def _sources(config: Config) -> Iterator[Finding]:
    for table in config.tables.declared.values():
        source = None if table.is_shared else chosen_by(config.sources, table.id)
        if source is not None:
            cure = f"the rows of source {source} have no user: declare it as shared, with a policy"
            yield Finding((f"tables.declared.{table.id}.type",), "'user'", cure)
    slots = [one.slot or f"kalam_{name}" for name, one in config.sources.items()]
    for name, slot in zip(config.sources, slots, strict=True):
        # In two clusters the same name would do: but who could tell them apart?
        if slots.count(slot) > 1:
            cure = "two sources have this slot: give each its own"
            yield Finding((f"sources.{name}.slot",), show(slot), cure)


def _tls(config: Config) -> Iterator[Finding]:
    cert, key = config.server.tls.cert, config.server.tls.key
    keys = ("server.tls.cert", "server.tls.key")
    if cert is None and key is not None:
        yield Finding(keys, "null", "cert and key go together: give both or neither")
    if key is None and cert is not None:
        yield Finding(keys[::-1], "null", "cert and key go together: give both or neither")
    for name, path in zip(keys, (cert, key), strict=True):
        if path is not None and not _is_readable(path):
            yield Finding((name,), repr(str(path)), "give the path of a PEM file that can be read")


def _certificate(config: Config) -> Iterator[Finding]:
    cert, key = config.server.tls.cert, config.server.tls.key
    if cert is None or key is None or not (_is_readable(cert) and _is_readable(key)):
        return
    # Here and not on top: loading OpenSSL costs every verb, and few have a certificate to look at.
    import ssl

    try:
        # A password is given so that OpenSSL does not ask for one on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
    except (ssl.SSLError, OSError, ValueError) as fault:
        cure = "give a certificate and the key that it was made for, PEM files without a password"
        value = f"{str(cert)!r} and {str(key)!r}"
        keys = ("server.tls.cert", "server.tls.key")
        yield Finding(keys, value, f"{cure} ({fault})")


def _is_readable(path: Path) -> bool:
    try:
        with path.open("rb"):
            return True
    except (OSError, ValueError):
        return False


def _addresses(config: Config) -> Iterator[Finding]:
    listen, internal = config.server.listen, config.server.internal_listen
    if internal is not None and internal == listen:
        address = parse_address(listen)
        if address is not None and address.port != 0:
            keys = ("server.internal_listen", "server.listen")
            yield Finding(keys, show(internal), "give an address other than server.listen")


def _pace(config: Config) -> Iterator[Finding]:
    pace = config.websocket
    # The default gives way to a smaller maximum; only a value of the operator's own is a fault.
    own = pace.batch_size != WebSocketSettings().batch_size
    if own and pace.batch_size > pace.max_batch_size:
        keys = ("websocket.batch_size", "websocket.max_batch_size")
        cure = f"give at most max_batch_size ({pace.max_batch_size}), or raise that"
        yield Finding(keys, show(pace.batch_size), cure)
    if pace.idle_timeout <= pace.ping_interval:
        keys = ("websocket.idle_timeout", "websocket.ping_interval")
        cure = f"give more than ping_interval ({pace.ping_interval:g} s), or lower that"
        yield Finding(keys, show(pace.idle_timeout), cure)


def _log(config: Config) -> Iterator[Finding]:
    if config.log.url == "memory:" and config.server.workers > 1:
        cure = "a log in memory serves one process: set server.workers to 1, or log.url to sqlite:"
        yield Finding(("log.url", "server.workers"), show(config.log.url), cure)
    yield from _nats(config.log.nats)


def _nats(nats: NatsSettings) -> Iterator[Finding]:
    at = "log.nats."
    if nats.close_clients_after < nats.stale_after:
        keys = (at + "close_clients_after", at + "stale_after")
        cure = f"give at least log.nats.stale_after ({nats.stale_after:g} s), or lower that"
        yield Finding(keys, show(nats.close_clients_after), cure)
    if (nats.tls.cert is None) != (nats.tls.key is None):
        keys = (at + "tls.cert", at + "tls.key")
        missing = keys if nats.tls.cert is None else keys[::-1]
        yield Finding(missing, "null", "cert and key go together: give both or neither")
    files = {
        "credentials": (nats.credentials, "a .creds file of NATS"),
        "tls.ca": (nats.tls.ca, "a PEM file"),
        "tls.cert": (nats.tls.cert, "a PEM file"),
        "tls.key": (nats.tls.key, "a PEM file"),
    }
    for name, (path, what) in files.items():
        if path is not None and not _is_readable(path):
            cure = f"give the path of {what} that can be read"
            yield Finding((at + name,), repr(str(path)), cure)


def _jwt(jwt: JwtSettings) -> Iterator[Finding]:
    at = "auth.jwt."
    if not jwt.algorithms:
        yield Finding((at + "algorithms",), "[]", "give at least one algorithm, such as HS256")
    if jwt.public_keys and jwt.jwks_url is not None:
        keys = (at + "jwks_url", at + "public_key")
        yield Finding(keys, show(jwt.jwks_url), "give public_key or jwks_url, not both")
    if jwt.is_configured:
        for algorithm in jwt.algorithms:
            yield from _key_of_algorithm(jwt, algorithm)
    for secret in jwt.secrets:
        try:
            prepare_secret(secret)
        except BadValue as refusal:
            yield Finding((at + "secret",), HIDDEN, str(refusal))
    if jwt.public_keys:
        yield from _public_keys(jwt)


def _key_of_algorithm(jwt: JwtSettings, algorithm: str) -> Iterator[Finding]:
    keys = ("auth.jwt.algorithms", "auth.jwt.secret", "auth.jwt.public_key", "auth.jwt.jwks_url")
    if algorithm.startswith("HS"):
        if not jwt.secrets:
            cure = "HS algorithms need auth.jwt.secret: give it, or name the key's own algorithms"
            yield Finding(keys, algorithm, f"{cure} (RS256, ES256, ...)")
    elif not jwt.public_keys and jwt.jwks_url is None:
        yield Finding(keys, algorithm, "needs auth.jwt.public_key or auth.jwt.jwks_url")


def _public_keys(jwt: JwtSettings) -> Iterator[Finding]:
    place = "auth.jwt.public_key"
    loaded: list[PublicKey] = []
    is_whole = True
    for text in jwt.public_keys:
        try:
            loaded += load_public_keys(text)
        except BadValue as refusal:
            is_whole = False
            yield Finding((place,), HIDDEN, str(refusal))
    for algorithm in jwt.algorithms if is_whole else ():
        if not algorithm.startswith("HS") and not any(fits(key, algorithm) for key in loaded):
            cure = "this algorithm does not fit the key in auth.jwt.public_key"
            yield Finding(("auth.jwt.algorithms", place), algorithm, cure)


def _api_keys(config: Config) -> Iterator[Finding]:
    names: set[str] = set()
    digests: set[str] = set()
    for index, key in enumerate(config.auth.api_keys):
        place = f"auth.api_keys[{index}]"
        if key.name in names:
            cure = "two keys have this name: give each its own"
            yield Finding((f"{place}.name", "auth.api_keys"), show(key.name), cure)
        if key.sha256 in digests:
            cure = "this key is there already: give each producer its own"
            yield Finding((f"{place}.sha256", "auth.api_keys"), HIDDEN, cure)
        names.add(key.name)
        digests.add(key.sha256)


def _policies(config: Config) -> Iterator[Finding]:
    tables = [
        (table, table.policy)
        for table in config.tables.declared.values()
        if table.is_shared and table.policy is not None
    ]
    if not tables:
        return
    # Here and not on top: the sql room stands beside this one, and most runs have no policy.
    from kalam_notify.filters import check_policy
    from kalam_notify.sql import Limits, parse_policy

    limits = Limits(config.websocket.max_sql_bytes, config.websocket.max_sql_terms)
    for table, policy in tables:
        try:
            check_policy(parse_policy(policy, limits), table)
        except SqlRefused as refusal:
            place = f"tables.declared.{table.id}"
            cure = " ".join(refusal.message.split())
            keys = (f"{place}.policy", place, f"{place}.columns")
            yield Finding(keys, show(policy), cure)
