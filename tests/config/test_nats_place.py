"""`log.url` of a log on NATS, and what a mistake in it is told."""

import pytest

from kalam_notify.config.nats_place import parse_place, sign_in


@pytest.mark.parametrize(
    ("url", "servers", "stream"),
    [
        ("nats://a/KALAM", ["nats://a:4222"], "KALAM"),
        ("nats://a:1,b,c:65535/k-1_x", ["nats://a:1", "nats://b:4222", "nats://c:65535"], "k-1_x"),
        ("tls://u:p%2F@a.example,t0k@b:1/S", ["tls://u:p%2F@a.example:4222", "tls://t0k@b:1"], "S"),
        ("nats://[::1]/S", ["nats://[::1]:4222"], "S"),
        ("nats://u:p@[fe80::1]:99,b/S", ["nats://u:p@[fe80::1]:99", "nats://b:4222"], "S"),
        ("nats://a/" + "x" * 63, ["nats://a:4222"], "x" * 63),
    ],
)
def test_servers_and_stream_are_read(url: str, servers: list[str], stream: str) -> None:
    assert parse_place(url) == (tuple(servers), stream)


@pytest.mark.parametrize(
    ("url", "cure"),
    [
        ("nats:KALAM", "give nats://host"),
        ("http://a/S", "give nats://host"),
        ("nats://a:4222", "the stream's name"),
        ("nats://a/", "1 to 63 letters"),
        ("nats://a/" + "x" * 64, "1 to 63 letters"),
        ("nats://a/a.b", "1 to 63 letters"),
        ("nats://a,/S", "give nats://host"),
        ("nats:///S", "give nats://host"),
        ("nats://a b/S", "give nats://host"),
        ("nats://::1/S", "give nats://host"),
        ("nats://a:0/S", "a port from 1"),
        ("nats://a:65536/S", "a port from 1"),
        ("nats://a:x/S", "give nats://host"),
        ("nats://@a/S", "user:password@ or token@ may"),
        ("nats://:p@a/S", "user:password@ or token@ may"),
        ("nats://u:p/q@a/S", "user:password@ or token@ may"),
    ],
)
def test_what_cannot_be_read_is_told_with_a_cure(url: str, cure: str) -> None:
    with pytest.raises(ValueError, match=cure.replace("[", r"\[")):
        parse_place(url)


def test_a_place_shows_no_password() -> None:
    assert repr(parse_place("nats://u:geheim@a,tok@b/S")) == "nats://a:4222, nats://b:4222/S"
    for url in ("nats://u:geheim@a:9", "nats://u:geheim/S", "nats:u:geheim@a/S"):
        with pytest.raises(ValueError, match=r"give|end") as told:
            parse_place(url)
        assert "geheim" not in str(told.value)


@pytest.mark.parametrize(
    ("server", "found"),
    [
        ("nats://a:1", (None, None, None)),
        ("nats://u:p%2F%40:x@a:1", ("u", "p/@:x", None)),
        ("tls://u:@[::1]:1", ("u", "", None)),
        ("nats://t%20k@a:1", (None, None, "t k")),
    ],
)
def test_what_stands_before_a_host_is_decoded(
    server: str, found: tuple[str | None, str | None, str | None]
) -> None:
    assert sign_in(server) == found
