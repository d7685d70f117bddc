"""What changes while the server runs, and what serve insists on."""

from pathlib import Path

import pytest

from kalam_notify.config import (
    PLACEHOLDER_SECRET,
    AuthSettings,
    Config,
    JwtSettings,
    dev_config,
    reload_differences,
    reloaded,
    require_authentication,
    warnings,
)
from kalam_notify.errors import ConfigurationFault

OLD = """
server: {listen: "127.0.0.1:1", drain_seconds: 1}
tables: {declared: {a.gone: {type: shared}, a.kept: {type: shared}, a.opened: {type: shared}}}
"""
NEW = """
server: {listen: "127.0.0.1:2", drain_seconds: 2, strict_origin: true}
websocket: {batch_size: 5}
auth: {anonymous: true, jwt: {secret: new}}
log: {durability: os, retention: {max_age: 1h}}
logging: {level: debug, format: json}
tables:
  declared:
    a.kept: {type: shared}
    a.opened: {type: shared, access: public}
    a.new: {type: user}
"""


def test_differences_are_told_by_key_path(load) -> None:
    differences = reload_differences(load(OLD), load(NEW))
    assert differences.needs_restart == [
        "server.listen",
        "server.drain_seconds",
        "log.durability",
        "logging.format",
    ]
    assert set(differences.applied) == {
        "server.strict_origin",
        "websocket.batch_size",
        "auth.jwt.secret",
        "auth.anonymous",
        "log.retention.max_age",
        "logging.level",
        "tables.declared.a.gone",
        "tables.declared.a.opened",
        "tables.declared.a.new",
    }


def test_equal_configurations_differ_nowhere(load) -> None:
    assert reload_differences(load(NEW), load(NEW)) == ([], [])


def test_a_reloaded_configuration_keeps_what_waits_for_a_restart(load) -> None:
    old, new = load(OLD), load(NEW)
    merged = reloaded(old, new)
    told = reload_differences(old, new)
    assert reload_differences(old, merged) == (told.applied, [])
    assert reload_differences(merged, new).needs_restart == told.needs_restart


def test_dev_opens_everything_with_a_key_of_its_own() -> None:
    one, other = dev_config(Config(), data_dir=Path("/d")), dev_config(Config())
    assert one.auth.jwt.secret != other.auth.jwt.secret
    assert len(one.auth.jwt.secret or "") >= 32
    assert one.auth.anonymous
    assert one.tables.auto_create
    assert one.metrics.open
    assert (one.server.data_dir, other.server.data_dir) == (Path("/d"), Path("kalam-data"))
    assert dev_config(Config(), secret="again").auth.jwt.secret == "again"


def test_serve_needs_a_way_to_authenticate() -> None:
    with pytest.raises(ConfigurationFault, match="no way to authenticate"):
        require_authentication(Config(), "serve")
    require_authentication(Config(auth=AuthSettings(anonymous=True)), "serve")
    require_authentication(Config(auth=AuthSettings(jwt=JwtSettings(secret="s"))), "serve")
    require_authentication(Config(auth=AuthSettings(jwt=JwtSettings(jwks_url="u"))), "serve")


def test_serve_refuses_the_placeholder_secret_even_with_anonymous_clients() -> None:
    auth = AuthSettings(jwt=JwtSettings(secret=PLACEHOLDER_SECRET), anonymous=True)
    with pytest.raises(ConfigurationFault, match="placeholder") as caught:
        require_authentication(Config(auth=auth), "FILE")
    assert PLACEHOLDER_SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("auth: {jwt: {secret: short}}", "auth.jwt.secret: is shorter than 32 bytes"),
        ("auth: {jwt: {secret: '\"quoted\"'}}", "auth.jwt.secret: has quotes at its ends"),
        ("", "auth: nobody could connect"),
        ("log: {url: 'memory:'}", "log.url: memory: keeps nothing"),
        ("limits: {ingest_queue_bytes: 1KiB}", "limits.max_body_bytes: is more than"),
        (
            "auth: {jwt: {jwks_url: 'http://a.b/c', algorithms: [RS256]}}",
            "auth.jwt.jwks_url: is fetched without TLS",
        ),
        (
            "auth: {jwt: {secret: s, jwks_url: 'https://a.b/c'}}",
            "auth.jwt.algorithms: names no algorithm",
        ),
        (
            "tables: {declared: {a.b: {type: user, access: public}}}",
            "tables.declared.a.b.access: has no meaning",
        ),
    ],
)
def test_what_deserves_a_word_is_warned_of(load, text, told) -> None:
    assert [line for line in warnings(load(text)) if line.startswith(told)]


def test_a_sound_configuration_has_no_warnings(load) -> None:
    assert warnings(load(f"auth: {{jwt: {{secret: {'x' * 32}}}}}")) == []
