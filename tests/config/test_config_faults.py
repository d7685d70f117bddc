"""Every fault at once: where it was, what it was, what to do, and never a secret."""

import datetime
import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kalam_notify.config import PLACEHOLDER_SECRET, Override, load_config
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
    (
        "auth: {api_keys: [{name: a, role: service, sha256: "
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855}]}",
        "auth.api_keys[0].sha256",
        "no key at all",
    ),
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
        "auth: {jwt: {secret: [hunter2, {a: hunter2}]}}",
        "auth: {jwt: {secret: ' hunter2'}}",
        "auth: {jwt: {secret: !hunter2 x}}",
        "auth: {jwt: {secret: *hunter2}}",
        "auth: {jwt: {secret: !!hunter2 x}}",
        "auth: {jwt: {secret: %hunter2}}",
        'auth: {jwt: {secret: "hunter2\\q"}}',
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
    assert [(name, str(kind)) for name, kind in table.columns.items()] == [
        ("a", "BigInt"),
        ("b", "Text"),
    ]
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


SPOILED = ["{}\n", " {}", "{} ", "\t{}", "{}\r\n", "\ufeff{}", "{}\u200b", "{}\u00a0", "{}\u2028"]


@pytest.mark.parametrize("spoiled", SPOILED)
def test_a_secret_with_white_space_at_its_ends_is_refused(faults, spoiled) -> None:
    environ = {"KALAM_NOTIFY_AUTH__JWT__SECRET": spoiled.format("hunter2" * 5)}
    (line,) = faults("", environ)
    assert "KALAM_NOTIFY_AUTH__JWT__SECRET: auth.jwt.secret: (hidden): begins or ends" in line


@pytest.mark.parametrize(
    "unfilled",
    [
        "${JWT_SECRET}",
        "${JWT_SECRET:-}",
        "{{ jwt_secret }}",
        "{{.Values.secret}}",
        "prefix-${SECRET}-suffix",
        "$(cat /run/secrets/jwt)",
        "$JWT_SECRET",
        "%JWT_SECRET%",
        "<%= secret %>",
        "<your secret>",
        "@SECRET@",
        "__JWT_SECRET__",
        "#{secret}#"[:-1],
        "[[secret]]",
    ],
)
def test_a_secret_that_nothing_has_filled_in_is_refused(faults, unfilled) -> None:
    for environ in (
        {"KALAM_NOTIFY_AUTH__JWT__SECRET": unfilled},
        {"KALAM_NOTIFY_AUTH__JWT__SECRET": json.dumps(["x" * 40, unfilled])},
    ):
        (line,) = faults("", environ)
        assert "auth.jwt.secret: (hidden): looks like a variable" in line
    for key in ("server.data_dir", "auth.jwt.issuer", "server.tls.cert", "auth.jwt.public_key"):
        lines = faults("", None, [Override("--flag", key, unfilled)])
        assert any(f"{key}: " in line and "looks like a variable" in line for line in lines)


@pytest.mark.parametrize(
    "stand_in",
    [
        "secret",
        "changeme",
        "change-me",
        "CHANGE_ME_IN_PRODUCTION",
        "your-secret-here",
        "your-256-bit-secret",
        "my super secret key",
        "placeholder",
        "replace-this-with-a-real-secret",
        "REPLACE_ME",
        "insert your secret here",
        "password",
        "xxxxxxxx",
        "TODO",
    ],
)
def test_a_secret_that_is_a_placeholder_is_refused(faults, stand_in) -> None:
    (line,) = faults(f"auth: {{jwt: {{secret: '{stand_in}'}}}}")
    assert "auth.jwt.secret: (hidden): is a placeholder" in line


@pytest.mark.parametrize(
    "sound",
    [
        "0123456789abcdef" * 4,
        "a-secret-that-only-the-tests-know-0123456789",
        "correct horse battery staple",
        "p$ss{word}<with>%signs%[and]more",
        "s",
        "changed-my-mind-4711",
    ],
)
def test_other_secrets_are_taken_as_they_are(load, sound) -> None:
    assert load("", {"KALAM_NOTIFY_AUTH__JWT__SECRET": sound}).auth.jwt.secrets == (sound,)


def test_several_secrets_are_a_list_and_a_comma_is_part_of_one(load, faults) -> None:
    assert load("auth: {jwt: {secret: [a1, 'b,2']}}").auth.jwt.secrets == ("a1", "b,2")
    environ = {"KALAM_NOTIFY_AUTH__JWT__SECRET": '["a1", "b,2"]'}
    assert load("", environ).auth.jwt.secrets == ("a1", "b,2")
    environ = {"KALAM_NOTIFY_AUTH__JWT__SECRET": "[a1,b"}
    assert load("", environ).auth.jwt.secrets == ("[a1,b",)
    assert load("auth: {jwt: {secret: null}}").auth.jwt.secrets == ()
    for wrong in ("[]", "[a1, a1]", "[1]", "[a1, null]", "{a: b}", "['']"):
        assert any(
            "auth.jwt.secret" in line for line in faults(f"auth: {{jwt: {{secret: {wrong}}}}}")
        )


def test_roles_are_a_mapping_of_foreign_names_to_known_ones(load, faults) -> None:
    jwt = load("auth: {jwt: {role_claim: a.b, roles: {authenticated: user, 'a.b': dba}}}").auth.jwt
    assert (jwt.role_claim, jwt.roles) == ("a.b", {"authenticated": "user", "a.b": "dba"})
    environ = {"KALAM_NOTIFY_AUTH__JWT__ROLES": '{"Boss": "dba"}'}
    assert load("", environ).auth.jwt.roles == {"Boss": "dba"}
    for wrong in (
        "x",
        "[a]",
        "{a: root}",
        "{a: anonymous}",
        "{a: 1}",
        "{a: {b: user}}",
        "{no: user}",
    ):
        (line,) = faults(f"auth: {{jwt: {{roles: {wrong}}}}}")
        assert "auth.jwt.roles" in line
    assert len(faults("auth: {jwt: {roles: {a: root, b: user, c: king}}}")) == 2
    (line,) = faults("auth: {jwt: {roles: {a: root}}}")
    assert line.endswith(
        "auth.jwt.roles: 'root': give 'a' one of the roles user, service, dba, system"
    )


@pytest.mark.parametrize("value", ["1:30", "0:10", "1:30:00", "1:30.5", "-1:30", "190:20:30"])
@pytest.mark.parametrize(
    "key", ["server.drain_seconds", "websocket.max_message_bytes", "websocket.batch_size"]
)
def test_a_number_is_never_read_to_the_base_of_sixty(faults, key, value) -> None:
    section, name = key.split(".")
    (line,) = faults(f"{section}: {{{name}: {value}}}")
    assert line.startswith(f"FILE: {key}: '{value}': give a ")


@pytest.mark.parametrize(
    ("written", "meant"), [("010", 10), ("0100", 100), ("100", 100), ("0x10", 16), ("1_000", 1000)]
)
def test_a_number_is_what_people_read(load, written, meant) -> None:
    assert load(f"websocket: {{batch_size: {written}}}").websocket.batch_size == meant


def test_numbers_are_still_numbers(load) -> None:
    pace = load("websocket: {batch_grace: 0.5, auth_timeout: 3, ping_interval: 1.5e1}").websocket
    assert (pace.batch_grace, pace.auth_timeout, pace.ping_interval) == (0.5, 3.0, 15.0)


@pytest.mark.parametrize(
    "text",
    [
        "auth: {jwt: {secret: yes}}",
        "auth: {jwt: {algorithms: [on]}}",
        "log: {durability: off}",
        "server: {data_dir: no}",
        "server: {listen: on}",
        "tables: {declared: {a.b: {type: shared, primary_key: [id, no]}}}",
        "auth: {jwt: {roles: {no: user}}}",
        "auth: {jwt: {roles: {norway: no}}}",
    ],
)
def test_the_truth_that_yaml_makes_of_a_word_is_told(faults, text) -> None:
    (line,) = faults(text)
    assert "yes, no, on and off" in line
    assert "in quotes" in line


def test_every_fault_of_a_file_is_told_in_one_go(faults) -> None:
    lines = faults(
        """
server: {listen: nowhere, drain_seconds: 1:30, allowed_origins: [a, b, "https://c.d"]}
auth: {jwt: {secret: " spoiled", algorithms: [none, HS256, wrong]}}
logging: {level: loud}
logging: {level: quiet}
tables:
  declared:
    a.one: {type: shared, colour: red, primary_key: [id], columns: {x: Text}, policy: "nonsense ("}
    a.two: {type: user, access: everybody, policy: "true"}
    three: {type: shared}
    a.four:
      type: shared
      primary_key: [id, nowhere]
      indexes: [[b, lost]]
      columns: {id: Foo, b: Bar, _c: Text}
"""
    )
    told = [line.split(": ")[1] for line in lines]
    assert sorted(told) == sorted(
        [
            "logging",
            "server.listen",
            "server.drain_seconds",
            "server.allowed_origins",
            "server.allowed_origins",
            "auth.jwt.secret",
            "auth.jwt.algorithms",
            "auth.jwt.algorithms",
            "logging.level",
            "tables.declared.a.one.colour",
            "tables.declared.a.one.primary_key",
            "tables.declared.a.one.policy",
            "tables.declared.a.two.access",
            "tables.declared.a.two.policy",
            "tables.declared.three",
            *["tables.declared.a.four.columns"] * 3,
            "tables.declared.a.four.primary_key",
            "tables.declared.a.four.indexes",
        ]
    )


def test_what_serve_insists_on_is_told_with_the_other_faults(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    for auth, told in (
        (f"auth: {{jwt: {{secret: {PLACEHOLDER_SECRET}}}}}", "auth.jwt.secret"),
        ("auth: {anonymous: false}", "auth"),
    ):
        file.write_text(f"server: {{workers: 0}}\n{auth}\n")
        with pytest.raises(ConfigurationFault) as caught:
            load_config(file, serving=True)
        assert [fault.key for fault in caught.value.faults] == ["server.workers", told]
    file.write_text("auth: {jwt: {secret: ' x'}}")
    with pytest.raises(ConfigurationFault) as caught:
        load_config(file, serving=True)
    assert [fault.key for fault in caught.value.faults] == ["auth.jwt.secret"]


def test_an_address_of_keys_with_a_password_is_refused_and_not_shown(faults) -> None:
    lines = faults("auth: {jwt: {jwks_url: 'https://me:hunter2@a.b/c', algorithms: [RS256]}}")
    assert "hunter2" not in "".join(lines)
    assert "without user and password" in lines[0]
    assert "https://" in faults('auth: {jwt: {jwks_url: "https://a.b/c\\n"}}')[0]


def test_a_policy_is_not_blamed_for_a_column_whose_type_is_none(faults) -> None:
    (line,) = faults(
        "tables: {declared: {a.b: {type: shared, columns: {n: Foo}, policy: 'n > 3'}}}"
    )
    assert "a.b.columns" in line


def certificate(directory: Path, name: str) -> tuple[Path, Path]:
    """A certificate and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    files = directory / f"{name}.crt", directory / f"{name}.key"
    pem = serialization.Encoding.PEM
    files[0].write_bytes(signed.public_bytes(pem))
    files[1].write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


def test_a_certificate_and_a_key_that_do_not_fit_are_told_with_the_other_faults(
    tmp_path: Path, faults
) -> None:
    cert, key = certificate(tmp_path, "one")
    _, other = certificate(tmp_path, "two")
    junk = tmp_path / "junk.pem"
    junk.write_text("no certificate")
    for crt, wrong in ((cert, other), (junk, key), (cert, junk), (key, cert)):
        tls = f"server: {{listen: nowhere, tls: {{cert: {crt}, key: {wrong}}}}}"
        lines = faults(f"{tls}\nlogging: {{level: x}}")
        assert len(lines) == 3
        (line,) = (line for line in lines if "server.tls.cert" in line)
        assert str(crt) in line
        assert str(wrong) in line
        assert "the key that it was made for" in line


def test_a_key_file_that_is_not_there_is_told_with_its_path_and_a_key_is_not(faults) -> None:
    jwt = "auth: {jwt: {public_key: '%s', algorithms: [RS256]}}"
    (line,) = faults(jwt % "/nowhere/issuer.pem")
    assert "/nowhere/issuer.pem: No such file" in line
    for key in ("c2VjcmV0LXNlY3JldA==", "/0c2VjcmV0/LXNlY3JldA", "a secret.pem with spaces"):
        assert key not in "".join(faults(jwt % key))
