"""Addresses in the configuration: where to listen, whom to trust, where keys are fetched."""

import ipaddress
import re
from typing import NamedTuple
from urllib.parse import urlsplit

from kalam_notify.config.readers import BadValue, Reader

LISTEN_CURE = "give HOST:PORT, such as 127.0.0.1:2900, 0.0.0.0:2900 or [::1]:2900"
ORIGIN_CURE = 'give scheme://host or scheme://host:port without a path, or "*" for every origin'

_HOST_NAME = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*"
)
_PORT = re.compile(r"\d{1,5}", re.ASCII)
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+")


class Address(NamedTuple):
    """A host (an IPv6 one without its brackets) and a port; port 0 picks a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address | None:
    """The address that `HOST:PORT` names, or None when it is not one."""
    host, colon, port = text.rpartition(":")
    if not colon or not _PORT.fullmatch(port) or int(port) > 65535:
        return None
    if host.startswith("[") and host.endswith("]"):
        return Address(host[1:-1], int(port)) if _is_ipv6(host[1:-1]) else None
    return Address(host, int(port)) if _is_host(host) else None


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def _is_host(host: str) -> bool:
    if re.fullmatch(r"[\d.]+", host):
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            return False
        return True
    return _HOST_NAME.fullmatch(host) is not None


def _read_listen(value: object) -> str:
    if not isinstance(value, str) or parse_address(value) is None:
        raise BadValue(LISTEN_CURE)
    return value


def _read_network(value: object) -> str:
    if not isinstance(value, str):
        raise BadValue("give an IP address or a network such as 10.0.0.0/8, in quotes")
    try:
        ipaddress.ip_network(value)
    except ValueError:
        raise BadValue(_network_cure(value)) from None
    return value


def _network_cure(value: str) -> str:
    try:
        network = ipaddress.ip_network(value, strict=False)
    except ValueError:
        return "give IP addresses or networks such as 10.0.0.0/8"
    return f"bits are set beyond the prefix: give {network}"


def _read_origin(value: object) -> str:
    if value == "*":
        return "*"
    # Browsers send origins in lower case.
    if not isinstance(value, str) or not _ORIGIN.fullmatch(value.lower()):
        raise BadValue(ORIGIN_CURE)
    return value.lower()


def _read_web_address(value: object) -> str:
    cure = "give an address that starts with https:// (or http:// on a trusted network)"
    if not isinstance(value, str) or any(c.isspace() or not c.isprintable() for c in value):
        raise BadValue(cure)
    try:
        parts = urlsplit(value)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise BadValue(cure)
    if "@" in parts.netloc:
        refusal = BadValue("give the address without user and password: they are not sent")
        refusal.item = f"{parts.scheme}://...@{parts.netloc.rpartition('@')[2]}{parts.path}"
        raise refusal
    return value


listen_address = Reader(_read_listen)
network = Reader(_read_network)
origin = Reader(_read_origin)
web_address = Reader(_read_web_address)
