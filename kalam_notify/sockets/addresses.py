"""Whose connection it is when proxies stand in front.

Addresses are compared as addresses, however they are spelled: proxies write them with ports,
brackets and zones, and a socket for both families shows an IPv4 client as ::ffff:192.0.2.1.
"""

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


class TrustedProxies:
    """Addresses and networks whose X-Forwarded-For is believed."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [_unmapped_network(network) for network in networks]

    def client(self, peer: str, forwarded_for: Iterable[str]) -> str:
        """The client's address: the last one in the chain that no trusted proxy wrote.

        `forwarded_for` are the header's values in the order received. Behind what is no address
        at all nobody is believed: the client is then whoever passed that on.
        """
        nearest = parse_address(peer)
        if nearest is None or not self._networks or not self._trusts(nearest):
            return _canonical(peer)
        return str(self._walk(nearest, forwarded_for))

    def _walk(self, nearest: IpAddress, forwarded_for: Iterable[str]) -> IpAddress:
        chain = [hop for value in forwarded_for for hop in value.split(",") if hop.strip()]
        for hop in reversed(chain):
            address = parse_address(hop)
            if address is None:
                break
            nearest = address
            if not self._trusts(address):
                break
        return nearest

    def _trusts(self, address: IpAddress) -> bool:
        return any(address in network for network in self._networks)


@lru_cache(4096)
def parse_address(text: str) -> IpAddress | None:
    """The address that a proxy or a socket spells so; None when it is none.

    Taken are white space and quotes around it, a port, brackets, a zone (which is dropped), and
    IPv4 written as IPv6.
    """
    text = text.strip().strip('"').strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return _unmapped(ipaddress.ip_address(text.partition("%")[0]))
    except ValueError:
        return None


@lru_cache(4096)
def _canonical(text: str) -> str:
    """The one spelling of an address, or what is none as it is."""
    address = parse_address(text)
    return text if address is None else str(address)


@lru_cache(4096)
def is_loopback(address: str) -> bool:
    """Whether an address is that of this machine itself."""
    parsed = parse_address(address)
    return parsed is None or parsed.is_loopback


def _unmapped(address: IpAddress) -> IpAddress:
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or ipaddress.IPv6Address(int(address))
    return address


def _unmapped_network(text: str) -> IpNetwork:
    network = ipaddress.ip_network(text, strict=False)
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        bits = int(network.network_address) & 0xFFFF_FFFF
        return ipaddress.IPv4Network((bits, network.prefixlen - 96))
    return network
