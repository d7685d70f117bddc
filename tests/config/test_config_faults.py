"""Every fault at once: where it was, what it was, what to do, and never a secret."""

from pathlib import Path

import pytest

from kalam_notify.config import load_config
from kalam_notify.config.units import parse_duration, parse_size
from kalam_notify.errors import ConfigurationFault

FAULTS = [
    ("server: {listenn: x}", "server.listenn", "did you mean server.listen?"),
    ("listen: x", "listen", "did you mean server.listen?"),
    ("colour: x", "colour", "known keys here: server, websocket,"),
    ("server: {listen: 2900}", "server.listen", "HOST:PORT"),
    ("server: {listen: localhost}", "server.listen", "HOST:PORT"),
    ("server: {listen: '127.0.0.1:65536'}", "server.listen", "HOST:PORT"),
    ("server: {listen: '[::1:2900'}", "server.listen", "HOST:PORT"),
    ("server: {listen: '::1:2900'}", "server.listen", "HOST:PORT"),
    ("server: {listen: '999.0.0.1:1'}", "server.listen", "HOST:PORT"),
    ("server: {workers: 0}", "server.workers", "whole number from 1"),
    ("server: {workers: true}", "server.workers", "auto"),
    ("server: {workers: 1.5}", "server.workers", "whole number"),
    ("server: {workers: }", "server.workers", "whole number"),
    ("server: {drain_seconds: -1}", "server.drain_seconds", "500ms"),
    ("server: {drain_seconds: .nan}", "server.drain_seconds", "500ms"),
    ("server: {drain_seconds: .inf}", "server.drain_seconds", "500ms"),
    ("server: {allowed_origins: [example.com]}", "server.allowed_origins", "scheme://host"),
    ("server: {allowed_origins: ['https://a.b/x']}", "server.allowed_origins", "scheme://host"),
    ("server: {trusted_proxies: [10.0.0.1/8]}", "server.trusted_proxies", "give 10.0.0.0/8"),
    ("server: {trusted_proxies: [proxy]}", "server.trusted_proxies", "IP addresses"),
    ("server: {tls: {cert: /nowhere}}", "server.tls.cert", "can be read"),
    ("server: {tls: {key: /nowhere}}", "server.tls.cert", "both or neither"),
    ("server: {internal_listen: '127.0.0.1:2900'}", "server.internal_listen", "other than"),
    ("websocket: {batch_size: 10001}", "websocket.batch_size", "at most max_batch_size (10000)"),
    ("websocket: {idle_timeout: 15s}", "websocket.idle_timeout", "more than ping_interval (15 s)"),
    ("websocket: {ping_interval: 0}", "websocket.ping_interval", "above 0"),
    ("websocket: {max_sql_bytes: 1.5}", "websocket.max_sql_bytes", "256KiB"),
    ("websocket: {max_sql_bytes: 1KB}", "websocket.max_sql_bytes", "256KiB"),
    ("log: {url: 'postgres:'}", "log.url", "sqlite:"),
    ("log: {url: 'memory:'}\nserver: {workers: 2}", "log.url", "serves one process"),
    ("log: {durability: fsync}", "log.durability", "commit, os"),
    ("logging: {level: loud}", "logging.level", "debug, info"),
    ("metrics: {open: perhaps}", "metrics.open", "true or false"),
    ("limits: {max_depth: 0}", "limits.max_depth", "from 1 to 512"),
    ("limits: {connections_per_address: -1}", "limits.connections_per_address", "0 or more"),
    ("auth: {jwt: {algorithms: [none]}}", "auth.jwt.algorithms", "HS256"),
    ("auth: {jwt: {secret: s, algorithms: []}}", "auth.jwt.algorithms", "at least one"),
    ("auth: {jwt: {secret: s, algorithms: [RS256]}}", "auth.jwt.algorithms", "jwks_url"),
    ("auth: {jwt: {jwks_url: 'https://a.b/c'}}", "auth.jwt.algorithms", "auth.jwt.secret"),
    ("auth: {jwt: {jwks_url: 'file:///etc/keys'}}", "auth.jwt.jwks_url", "https://"),
    ("auth: {api_keys: {name: a}}", "auth.api_keys", "list of {name, sha256, role}"),
    ("auth: {api_keys: [feeder]}", "auth.api_keys[0]", "mapping"),
    ("tables: {declared: {orders: {type: shared}}}", "tables.declared.orders", "namespace.name"),
    ("tables: {declared: {a.b: {}}}", "tables.declared.a.b.type", "shared, user"),
    ("tables: {declared: {a.b: {type: x}}}", "tables.declared.a.b.type", "shared, user"),
    ("tables: {declared: {a.b: 5}}", "tables.declared.a.b", "mapping"),
    ("tables: {declared: [a.b]}", "tables.declared", "mapping"),
    (
        "tables: {declared: {a.b: {type: shared}, A.b: {type: shared}}}",
        "tables.declared.A.b",
        "differ in case only",
    ),
    (
        "tables: {declared: {a.b: {type: shared, access: all}}}",
        "tables.declared.a.b.access",
        "public, restricted, private, dba",
    ),
    (
        "tables: {declared: {a.b: {type: shared, primary_key: id, indexes: status}}}",
        "tables.declared.a.b.indexes",
        "list of columns",
    ),
    (
        "tables: {declared: {a.b: {type: shared, indexes: [status]}}}",
        "tables.declared.a.b.indexes",
        "primary key",
    ),
    (
        "tables: {declared: {a.b: {type: shared, primary_key: id, columns: {id: Int},"
        " indexes: [[id, stauts]]}}}",
        "tables.declared.a.b.indexes",
        "no such column",
    ),
    (
        "tables: {declared: {a.b: {type: shared, primary_key: [id], columns: {x: Int}}}}",
        "tables.declared.a.b.primary_key",
        "not among the columns",
    ),
    (
        "tables: {declared: {a.b: {type: shared, primary_key: [id, id]}}}",
        "tables.declared.a.b.primary_key",
        "named twice",
    ),
    (
        "tables: {declared: {a.b: {type: shared, primary_key: _seq}}}",
        "tables.declared.a.b.primary_key",
        "not beginning with _",
    ),
    (
        "tables: {declared: {a.b: {type: shared, columns: {id: 5}}}}",
        "tables.declared.a.b.columns",
        "type of column 'id'",
    ),
    (
        "tables: {declared: {a.b: {type: user, policy: 'a = 1'}}}",
        "tables.declared.a.b.policy",
        "shared tables",
    ),
    (
        "tables: {declared: {a.b: {type: shared, retention: {max_age: 0}}}}",
        "tables.declared.a.b.retention.max_age",
        "above 0",
    ),
]


@pytest.mark.parametrize(("text", "key", "cure"), FAULTS)
def test_a_bad_key_or_value_is_named_with_its_cure(faults, text, key, cure) -> None:
    mine = [line for line in faults(text) if line.startswith(f"FILE: {key}: ")]
    assert len(mine) == 1, faults(text)
    assert cure in mine[0]


def test_all_faults_are_told_at_once_and_each_once(faults) -> None:
    lines = faults(
        "server: {workers: none, listne: x}\nlog: {durability: 5}\n",
        {"KALAM_NOTIFY_LIMITS__MAX_DEPTH": "deep"},
    )
    assert [line.split(": ")[:2] for line in lines] == [
        ["FILE", "server.listne"],
        ["FILE", "server.workers"],
        ["FILE", "log.durability"],
        ["KALAM_NOTIFY_LIMITS__MAX_DEPTH", "limits.max_depth"],
    ]


def test_a_faulty_key_is_not_blamed_for_contradictions_of_its_default(faults) -> None:
    lines = faults("websocket: {max_batch_size: many, batch_size: 20000}")
    assert [line.split(": ")[1] for line in lines] == ["websocket.max_batch_size"]


@pytest.mark.parametrize(
    "text",
    [
        "auth: {jwt: {secret: [hunter2]}}",
        "auth: {jwt: {secrte: hunter2}}",
        "auth: {jwt: {public_key: hunter2, algorithms: [RS256]}}",
        "auth: {jwt: {secret: 'ssh-rsa hunter2'}}",
        "auth: {jwt: hunter2}",
        "auth: hunter2",
        "secret: hunter2",
        "auth: {api_keys: hunter2}",
        "auth: {api_keys: [hunter2]}",
        "auth: {api_keys: [{name: a, role: service, sha256: hunter2}]}",
        "auth: {jwt: {secret: hunter2\n  ]}}",
    ],
)
def test_no_fault_prints_a_secret(faults, text) -> None:
    assert "hunter2" not in "\n".join(faults(text))


def test_a_fault_stays_on_one_line_whatever_the_file_holds(faults) -> None:
    lines = faults('"a\\nb": 1\nserver: {listen: "x\\ny"}\ntables: {declared: {"\\n": {}}}')
    assert all(line.isprintable() for line in lines)


def test_a_structure_that_repeats_itself_without_end_is_told_shortly(faults) -> None:
    text = "a: &a [x,x,x,x,x,x,x,x,x]\n"
    for above, name in zip("abcdefgh", "bcdefghi", strict=True):
        text += f"{name}: &{name} [{','.join([f'*{above}'] * 9)}]\n"
    text += "server: {listen: *i, allowed_origins: &loop [*loop]}\n"
    assert all(len(line) < 300 for line in faults(text))


def test_two_api_keys_with_one_name_or_one_digest_are_refused(faults) -> None:
    key = "{name: a, role: service, sha256: '" + "0" * 64 + "'}"
    lines = faults(f"auth: {{api_keys: [{key}, {key}]}}")
    assert [line.split(": ")[1] for line in lines] == [
        "auth.api_keys[1].name",
        "auth.api_keys[1].sha256",
    ]


def test_a_policy_that_does_not_parse_is_refused_with_its_place(faults) -> None:
    (line,) = faults(
        "tables: {declared: {a.b: {type: shared, policy: \"tenant = CLAIM('t') AND\"}}}"
    )
    assert line.startswith("FILE: tables.declared.a.b.policy: ")


def test_a_policy_on_a_column_that_is_not_declared_is_refused(faults) -> None:
    (line,) = faults(
        "tables: {declared: {a.b: {type: shared, columns: {tenant: Text}, policy: 'tenent = 5'}}}"
    )
    assert line.startswith("FILE: tables.declared.a.b.policy: 'tenent = 5': ")
    assert "tenant" in line


def test_a_policy_that_parses_is_kept_as_written(load) -> None:
    text = "tables: {declared: {a.b: {type: shared, policy: \"tenant = CLAIM('t')\"}}}"
    assert load(text).tables.declared["a.b"].policy == "tenant = CLAIM('t')"


@pytest.mark.parametrize("listen", ["[::1]:2900", "localhost:0", "0.0.0.0:65535", "my-host_1.x:1"])
def test_listen_addresses_that_hold(load, listen) -> None:
    assert load(f'server: {{listen: "{listen}"}}').server.listen == listen


def test_port_0_may_be_used_twice(load) -> None:
    load('server: {listen: "127.0.0.1:0", internal_listen: "127.0.0.1:0"}')


def test_workers_auto_is_at_least_one(load) -> None:
    assert load("server: {workers: auto}").server.workers >= 1


def test_a_declared_table_mirrors_its_declaration(load) -> None:
    table = load(
        "tables: {declared: {App.Orders: {type: shared, access: public, primary_key: [b, a],"
        " columns: {a: BigInt, b: Text}, retention: {max_age: 90m}}}}"
    ).tables.declared["app.orders"]
    assert (table.id, table.kind, table.access) == ("app.orders", "shared", "public")
    assert table.primary_key == ("b", "a")
    assert list(table.columns.items()) == [("a", "BigInt"), ("b", "Text")]
    assert (table.policy, table.max_age) == (None, 5400.0)


def test_a_table_declared_by_its_type_alone_is_private_and_append_only(load) -> None:
    table = load("tables: {declared: {a.b: {type: shared}}}").tables.declared["a.b"]
    assert (table.access, table.primary_key, table.columns) == ("private", (), None)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(5, 5.0), (0.25, 0.25), ("10", 10.0), ("500ms", 0.5), ("1.5 h", 5400.0), ("7D", 604800.0)]
    + [(text, None) for text in ("", "5 weeks", "-1s", "1s 5", "٣s", True, None, [], 10**400)],
)
def test_durations(text, seconds) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [(5, 5), ("10", 10), ("1KiB", 1024), ("1.5mib", 1572864), ("2 GiB", 2147483648), ("7B", 7)]
    + [(text, None) for text in ("", "1MB", "1.5B", "-1KiB", 1.5, True, None, "9999999TiB")],
)
def test_sizes(text, size) -> None:
    assert parse_size(text) == size


def test_the_repr_of_a_configuration_holds_no_secret(load) -> None:
    config = load("auth: {jwt: {secret: hunter2}}")
    assert "hunter2" not in repr(config)


def test_faults_of_a_missing_file_and_of_the_environment_come_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationFault) as caught:
        load_config(tmp_path / "absent.yaml", {"KALAM_NOTIFY_SERVER__WORKERS": "0"})
    assert len(caught.value.faults) == 2
