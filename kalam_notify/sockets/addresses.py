"""Whose connection it is when proxies stand in front."""

import ipaddress
from collections.abc import Iterable


class TrustedProxies:
    """Addresses and networks whose X-Forwarded-For is believed."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [ipaddress.ip_network(network, strict=False) for network in networks]

    def client(self, peer: str, forwarded_for: Iterable[str]) -> str:
        """The client's address: the last one in the chain that no trusted proxy wrote.

        `forwarded_for` are the header's values in the order received.
        """
        if not self._networks or not self._trusts(peer):
            return peer
        chain = [hop.strip() for value in forwarded_for for hop in value.split(",")]
        for hop in reversed(chain):
            if not self._trusts(hop):
                return hop or peer
        return chain[0] if chain and chain[0] else peer

    def _trusts(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._networks)
