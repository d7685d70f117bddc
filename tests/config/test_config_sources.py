"""Flags over environment over YAML over defaults, and text of every shape."""

import pytest

from kalam_notify.config import Override


def test_the_environment_wins_over_the_file_and_a_flag_over_both(load) -> None:
    text = 'server: {listen: "127.0.0.1:1", workers: 3, drain_seconds: 4}'
    environ = {"KALAM_NOTIFY_SERVER__LISTEN": "127.0.0.1:2", "KALAM_NOTIFY_SERVER__WORKERS": "2"}
    server = load(text, environ, [Override("--listen", "server.listen", "127.0.0.1:3")]).server
    assert (server.listen, server.workers, server.drain_seconds) == ("127.0.0.1:3", 2, 4.0)


def test_environment_values_are_typed_by_their_key(load) -> None:
    config = load(
        "",
        {
            "KALAM_NOTIFY_AUTH__JWT__SECRET": "12345",
            "KALAM_NOTIFY_AUTH__ANONYMOUS": "true",
            "KALAM_NOTIFY_AUTH__JWT__LEEWAY": "500ms",
            "KALAM_NOTIFY_LIMITS__MAX_ROW_BYTES": "64KiB",
            "KALAM_NOTIFY_SERVER__INTERNAL_LISTEN": "null",
        },
    )
    assert config.auth.jwt.secret == "12345"
    assert config.auth.anonymous is True
    assert config.auth.jwt.leeway == 0.5
    assert config.limits.max_row_bytes == 65536
    assert config.server.internal_listen is None


@pytest.mark.parametrize(
    "value", ["https://a.example, https://b.example", '["https://a.example","https://b.example"]']
)
def test_lists_in_the_environment_are_json_or_separated_by_commas(load, value) -> None:
    config = load("", {"KALAM_NOTIFY_SERVER__ALLOWED_ORIGINS": value})
    assert config.server.allowed_origins == ("https://a.example", "https://b.example")


def test_api_keys_in_the_environment_are_json(load, faults) -> None:
    key = '[{"name":"feeder","sha256":"' + "0" * 64 + '","role":"service"}]'
    assert load("", {"KALAM_NOTIFY_AUTH__API_KEYS": key}).auth.api_keys[0].name == "feeder"
    (line,) = faults("", {"KALAM_NOTIFY_AUTH__API_KEYS": "[{"})
    assert line.startswith("KALAM_NOTIFY_AUTH__API_KEYS: auth.api_keys: (hidden): ")


def test_tables_come_by_file_only(faults) -> None:
    (line,) = faults("", {"KALAM_NOTIFY_TABLES__AUTO_CREATE": "true"})
    assert line.startswith("KALAM_NOTIFY_TABLES__AUTO_CREATE: tables.auto_create: ")
    assert "file only" in line


def test_an_unknown_variable_is_refused_with_the_key_it_resembles(faults) -> None:
    lines = faults("", {"KALAM_NOTIFY_SERVER_LISTEN": "x", "KALAM_NOTIFY_LOG__DURABILTY": "os"})
    assert sorted(lines) == [
        "KALAM_NOTIFY_LOG__DURABILTY: log.durabilty: unknown key: did you mean log.durability?",
        "KALAM_NOTIFY_SERVER_LISTEN: server_listen: unknown key: did you mean server.listen?",
    ]


def test_variables_that_are_no_settings_are_left_alone(load) -> None:
    load(
        "",
        {
            "KALAM_NOTIFY_TOKEN": "t",
            "KALAM_NOTIFY_SERVICE_HOST": "10.0.0.1",
            "KALAM_NOTIFY_SERVICE_PORT_HTTP": "2900",
            "KALAM_NOTIFY_PORT": "tcp://10.0.0.1:2900",
            "KALAM_NOTIFY_INTERNAL_PORT_9000_TCP_ADDR": "10.0.0.2",
            "KALAM_NOTIFY_SERVER__WORKERS": "",
            "KALAM_OTHER": "x",
        },
    )


def test_a_plain_value_where_keys_belong_is_a_fault_whatever_the_environment_says(faults) -> None:
    lines = faults("server: hunter2", {"KALAM_NOTIFY_SERVER__TLS__CERT": "null"})
    assert lines == ["FILE: server: text: give a mapping of keys to values"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- a\n- b", "not a mapping"),
        ("just text", "not a mapping"),
        ("server: {listen: [", "line 1"),
        ("a: 1\n b: 2", "line 2"),
        ("auth: !!python/object/apply:os.getcwd []", "python/object"),
        ("auth: !!python/name:os.system", "python/name"),
        ("a: 1\n---\nb: 2", "line 2"),
        ("server: &s {tls: *t}", "line 1"),
        ("when: 2020-13-45", "not valid YAML"),
        ("[" * 5000, "FILE"),
        ("a: \x01", "FILE"),
    ],
)
def test_text_that_is_no_configuration_is_one_fault(faults, text, told) -> None:
    (line,) = faults(text)
    assert line.startswith("FILE: ")
    assert told in line


def test_a_file_that_cannot_be_read_is_a_fault(tmp_path) -> None:
    from kalam_notify.config import load_config
    from kalam_notify.errors import ConfigurationFault

    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00\xff")
    for path in (tmp_path / "absent.yaml", tmp_path, binary):
        with pytest.raises(ConfigurationFault) as caught:
            load_config(path)
        assert str(caught.value).startswith(f"{path}: (file): ")


def test_a_key_given_twice_is_a_fault_with_its_line(faults) -> None:
    lines = faults("server:\n  workers: 1\n  drain_seconds: 5\n  workers: 2\n")
    assert lines == ["FILE: workers: line 4: the key is given twice: keep one"]


def test_merge_keys_are_no_duplicates(load) -> None:
    text = """
tables:
  declared:
    app.a: &a {type: shared, primary_key: id}
    app.b: &b {<<: *a, access: public, type: user}
    app.c: {<<: *b, primary_key: key}
"""
    declared = load(text).tables.declared
    assert declared["app.c"].primary_key == ("key",)
    assert declared["app.c"].kind == "user"


def test_a_key_that_yaml_reads_as_something_else_is_a_fault(faults) -> None:
    (line,) = faults("tables: {declared: {app.a: {type: shared, columns: {on: Text, id: Int}}}}")
    assert line.startswith("FILE: tables.declared.app.a.columns.True: ")
    assert "quotes" in line
