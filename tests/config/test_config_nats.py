"""`log.url: nats://…` and `log.nats`: what they take, what they refuse, and what stays hidden."""

import pytest

from kalam_notify.config import Config, NatsSettings, NatsTlsSettings, load_config, warnings
from kalam_notify.config import advice as advice_module
from kalam_notify.config.advice import lacking
from kalam_notify.config.reload import reload_differences, reloaded
from kalam_notify.errors import ConfigurationFault

NATS = "log: {url: 'nats://a/KALAM'}\n"


def url_of(load, url: str) -> str:
    return str(load(f"log: {{url: '{url}'}}").log.url)


@pytest.mark.parametrize(
    "url",
    [
        "nats://a/KALAM",
        "nats://a:4222,b:4222,c:4222/KALAM",
        "tls://nats.example.com:443/kalam_log-2",
        "nats://127.0.0.1:1,[::1]:65535,[fe80::1%eth0]/K",
        "nats://user:pass%2Fword:x@a,token@b/K",
        f"nats://a/{'k' * 63}",
    ],
)
def test_a_stream_is_named_by_the_servers_that_keep_it(load, url: str) -> None:
    assert url_of(load, url) == url


@pytest.mark.parametrize(
    ("url", "cure"),
    [
        ("nats:", "nats://host:4222/STREAM"),
        ("nats:a/K", "nats://host:4222/STREAM"),
        ("nats:///K", "nats://host:4222/STREAM"),
        ("nats://a,,b/K", "nats://host:4222/STREAM"),
        ("nats://a b/K", "nats://host:4222/STREAM"),
        ("nats://::1/K", "nats://host:4222/STREAM"),
        ("nats://a:port/K", "nats://host:4222/STREAM"),
        ("nats://@a/K", "nats://host:4222/STREAM"),
        ("nats://:word@a/K", "nats://host:4222/STREAM"),
        ("nats://a:0/K", "port from 1 to 65535"),
        ("nats://a:65536/K", "port from 1 to 65535"),
        ("nats://a", "the stream's name"),
        ("nats://a/", "the stream's name"),
        ("nats://a/K.log", "the stream's name"),
        (f"nats://a/{'k' * 64}", "the stream's name"),
        ("nats://a/K?x=1", "the stream's name"),
        ("nats://${HOST}/K", "variable that nothing has filled in"),
        ("http://a/K", "for several nodes nats://"),
    ],
)
def test_a_url_that_names_no_stream_is_told_what_to_write(faults, url: str, cure: str) -> None:
    (line,) = [line for line in faults(f"log: {{url: '{url}'}}") if ": log.url: " in line]
    assert cure in line


def test_what_is_not_said_of_a_log_on_nats_has_defaults(load) -> None:
    assert load(NATS).log.nats == NatsSettings(
        replicas=3,
        create=True,
        credentials=None,
        tls=NatsTlsSettings(None, None, None),
        append_timeout=15.0,
        stale_after=15.0,
        close_clients_after=60.0,
        snapshot_serving=True,
    )


@pytest.mark.parametrize(
    ("text", "key", "cure"),
    [
        ("{replicas: 0}", "replicas", "from 1 to 5"),
        ("{replicas: 6}", "replicas", "from 1 to 5"),
        ("{create: perhaps}", "create", "true or false"),
        ("{append_timeout: 0}", "append_timeout", "above 0"),
        ("{stale_after: 0s}", "stale_after", "above 0"),
        ("{close_clients_after: never}", "close_clients_after", "500ms"),
        ("{close_clients_after: 14s}", "close_clients_after", "log.nats.stale_after (15 s)"),
        ("{stale_after: 61s}", "close_clients_after", "log.nats.stale_after (61 s)"),
        ("{credentials: /nowhere}", "credentials", "a .creds file of NATS that can be read"),
        ("{tls: {ca: /nowhere}}", "tls.ca", "a PEM file that can be read"),
        ("{tls: {cert: /dev/null}}", "tls.key", "both or neither"),
        ("{tls: {key: /dev/null}}", "tls.cert", "both or neither"),
        ("{replica: 3}", "replica", "did you mean log.nats.replicas?"),
    ],
)
def test_a_bad_setting_of_nats_is_told_by_its_key(faults, text: str, key: str, cure: str) -> None:
    lines = faults(f"{NATS.rstrip()[:-1]}, nats: {text}}}")
    (line,) = [line for line in lines if line.startswith(f"FILE: log.nats.{key}: ")]
    assert cure in line


def test_clients_may_be_closed_the_moment_the_node_is_stale(load) -> None:
    nats = load("log: {nats: {stale_after: 30s, close_clients_after: 30s}}").log.nats
    assert (nats.stale_after, nats.close_clients_after) == (30.0, 30.0)


@pytest.mark.parametrize(
    "url",
    [
        "nats://kalam:hunter2hunter2@a/no.stream",
        "nats://kalam:hunter2hunter2@a:99999/K",
        "nats://kalam:hunter2hunter2/K",
        "nats:kalam:hunter2hunter2@a/K",
        "nats://a,hunter2hunter2@b c/K",
        "nats://hunter2/hunter2@a/K",
        "nats://kalam:hunter2hunter2@a/K ",
        "http://kalam:hunter2hunter2@a/K",
        "hunter2hunter2@a/K",
    ],
)
def test_no_fault_of_a_url_shows_its_password(faults, url: str) -> None:
    assert "hunter2" not in "\n".join(faults(f"log: {{url: '{url}'}}"))


def test_a_configuration_with_a_password_does_not_show_it(load) -> None:
    config = load("log: {url: 'nats://u:hunter%2F2@a,u:hunter%2F2@b,hunter-token@c/K'}")
    assert "hunter" not in repr(config)
    assert set(config.log.secrets) == {"hunter%2F2", "hunter/2", "hunter-token"}
    assert Config().log.secrets == ()


def test_a_url_with_a_password_may_come_from_the_environment() -> None:
    environ = {"KALAM_NOTIFY_LOG__URL": "nats://u:p@a/K", "KALAM_NOTIFY_LOG__NATS__REPLICAS": "5"}
    config = load_config(None, environ)
    assert (config.log.url, config.log.nats.replicas) == ("nats://u:p@a/K", 5)


def test_files_are_paths(load, tmp_path) -> None:
    file = tmp_path / "nats.creds"
    file.touch()
    tls = f"{{ca: {file}, cert: {file}, key: {file}}}"
    nats = load(f"log: {{nats: {{credentials: {file}, tls: {tls}}}}}").log.nats
    assert (nats.credentials, nats.tls) == (file, NatsTlsSettings(file, file, file))


def test_how_long_nats_is_waited_for_can_be_reloaded_and_the_rest_cannot(load, tmp_path) -> None:
    file = tmp_path / "nats.creds"
    file.touch()
    old = load(NATS)
    new = load(
        f"log: {{url: 'nats://b/KALAM', nats: {{replicas: 5, create: false, credentials: {file}, "
        f"tls: {{ca: {file}}}, append_timeout: 20s, stale_after: 21s, close_clients_after: 22s, "
        "snapshot_serving: false}}"
    )
    told = reload_differences(old, new)
    at = "log.nats."
    assert told.applied == [
        f"{at}append_timeout",
        f"{at}stale_after",
        f"{at}close_clients_after",
        f"{at}snapshot_serving",
    ]
    waiting = [f"{at}replicas", f"{at}create", f"{at}credentials", f"{at}tls.ca"]
    assert told.needs_restart == ["log.url", *waiting]
    merged = reloaded(old, new)
    assert reload_differences(old, merged) == (told.applied, [])
    assert merged.log.url == "nats://a/KALAM"


def test_a_server_with_a_log_on_nats_may_have_sources(load) -> None:
    config = load(f"{NATS}sources: {{shop: {{postgres: 'postgresql://db/shop'}}}}")
    assert [key for key, _, _ in lacking(config) if key.startswith("sources")] == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{url: 'nats://a/K', nats: {replicas: 2}}", "log.nats.replicas: 2 copies survive"),
        ("{url: 'nats://a/K', nats: {stale_after: 5s}}", "log.nats.stale_after: is shorter"),
        ("{url: 'nats://a/K', nats: {append_timeout: 5s}}", "log.nats.append_timeout: is"),
        ("{nats: {replicas: 5}}", "log.nats: has no meaning unless"),
    ],
)
def test_what_deserves_a_word_of_a_log_on_nats_is_warned_of(load, text, told) -> None:
    assert [line for line in warnings(load(f"log: {text}")) if line.startswith(told)]


def test_a_log_on_nats_without_its_package_is_refused_by_serve_with_the_cure(
    monkeypatch: pytest.MonkeyPatch, load
) -> None:
    environ = {"KALAM_NOTIFY_LOG__URL": "nats://a/K", "KALAM_NOTIFY_AUTH__ANONYMOUS": "true"}
    assert load_config(None, environ, serving=True).log.url == "nats://a/K"
    monkeypatch.setattr(advice_module, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationFault) as caught:
        load_config(None, environ, serving=True)
    (fault,) = caught.value.faults
    assert fault.key == "log.url"
    assert "pip install 'kalam-notify[nats]'" in str(fault)
    # Whoever checks a file may do so elsewhere.
    assert [line for line in warnings(load(NATS)) if "kalam-notify[nats]" in line]
