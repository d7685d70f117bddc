"""Addresses are compared as addresses, however they are spelled."""

import pytest

from kalam_notify.sockets.addresses import TrustedProxies, is_loopback, parse_address


@pytest.mark.parametrize(
    ("spelled", "meant"),
    [
        ("192.0.2.1", "192.0.2.1"),
        (" 192.0.2.1 ", "192.0.2.1"),
        ("192.0.2.1:443", "192.0.2.1"),
        ('"192.0.2.1:443"', "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:c000:0201", "192.0.2.1"),
        ("[::ffff:192.0.2.1]:443", "192.0.2.1"),
        ("0:0:0:0:0:ffff:192.0.2.1", "192.0.2.1"),
        ("2001:DB8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8:0::0:1]:443", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("[fe80::1%25eth0]:443", "fe80::1"),
        ("::1", "::1"),
    ],
)
def test_however_an_address_is_spelled_it_is_the_same(spelled: str, meant: str) -> None:
    assert str(parse_address(spelled)) == meant


@pytest.mark.parametrize(
    "text",
    ["", "unknown", "_hidden", "a.b.c.d", "192.0.2.256", "192.0.2", "010.0.0.1", "[", ":", "%"],
)
def test_what_is_no_address_is_none(text: str) -> None:
    assert parse_address(text) is None


PROXIES = TrustedProxies(["10.0.0.0/8", "::1", "2001:db8:ff::/48"])


@pytest.mark.parametrize("peer", ["10.1.1.1", "::ffff:10.1.1.1", "::1", "2001:db8:ff::9"])
@pytest.mark.parametrize(
    ("chain", "client"),
    [
        (["192.0.2.7"], "192.0.2.7"),
        (["6.6.6.6, 192.0.2.7"], "192.0.2.7"),
        (["6.6.6.6, 192.0.2.7", "10.2.2.2"], "192.0.2.7"),
        (["6.6.6.6, 192.0.2.7:1234, 10.2.2.2:80"], "192.0.2.7"),
        (["192.0.2.7, [::ffff:10.2.2.2]:80"], "192.0.2.7"),
        (["[2001:db8::7]:1234,"], "2001:db8::7"),
        (["::ffff:192.0.2.7"], "192.0.2.7"),
        (["10.3.3.3"], "10.3.3.3"),
        (["10.4.4.4, 10.3.3.3"], "10.4.4.4"),
    ],
)
def test_the_client_is_the_last_one_that_no_trusted_proxy_wrote(
    peer: str, chain: list[str], client: str
) -> None:
    assert PROXIES.client(peer, chain) == client


@pytest.mark.parametrize("chain", [[], [""], [" , "], ["unknown"], ["192.0.2.7, unknown"]])
def test_where_no_address_is_told_the_proxy_itself_counts(chain: list[str]) -> None:
    assert PROXIES.client("10.1.1.1", chain) == "10.1.1.1"


def test_nobody_else_is_believed() -> None:
    assert PROXIES.client("192.0.2.1", ["6.6.6.6"]) == "192.0.2.1"
    assert PROXIES.client("::ffff:192.0.2.1", ["6.6.6.6"]) == "192.0.2.1"
    assert TrustedProxies([]).client("10.1.1.1", ["6.6.6.6"]) == "10.1.1.1"
    assert PROXIES.client("", ["6.6.6.6"]) == ""


def test_proxies_may_be_declared_as_ipv4_in_ipv6() -> None:
    proxies = TrustedProxies(["::ffff:10.0.0.0/104"])
    assert proxies.client("10.1.1.1", ["192.0.2.7"]) == "192.0.2.7"
    assert proxies.client("11.1.1.1", ["192.0.2.7"]) == "11.1.1.1"


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", ""])
def test_this_machine_is_known(address: str) -> None:
    assert is_loopback(address)


def test_others_are_not_this_machine() -> None:
    assert not is_loopback("10.0.0.1")
    assert not is_loopback("2001:db8::1")
