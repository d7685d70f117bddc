"""Where a log on NATS is: `nats://a:4222,b:4222,c:4222/KALAM`."""

import re
from typing import NamedTuple
from urllib.parse import unquote

PORT = 4222

_STREAM = re.compile(r"[A-Za-z0-9_-]{1,63}")
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?\]")
_EXAMPLE = "nats://a:4222,b:4222,c:4222/KALAM"


class NatsPlace(NamedTuple):
    """Servers of one cluster, as URLs with a port and perhaps user and password, and a stream."""

    servers: tuple[str, ...]
    stream: str

    def __repr__(self) -> str:
        """Without passwords: this may be logged."""
        return f"{', '.join(map(told, self.servers))}/{self.stream}"


def told(server: str) -> str:
    """A server's URL as it may be shown: without user and password."""
    scheme, _, rest = server.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


class SignIn(NamedTuple):
    """What stands before a host: user and password, or a token alone; None where nothing does."""

    user: str | None
    password: str | None
    token: str | None


def sign_in(server: str) -> SignIn:
    """What a server's URL says to sign in with, decoded."""
    text, at, _ = server.partition("://")[2].rpartition("@")
    if not at:
        return SignIn(None, None, None)
    user, colon, password = text.partition(":")
    if not colon:
        return SignIn(None, None, unquote(user))
    return SignIn(unquote(user), unquote(password), None)


def parse_place(url: str) -> NatsPlace:
    """What a `nats:` or `tls:` URL names.

    Servers are separated by commas, `:4222` may be left out, `user:password@` or `token@` stands
    before any host. Raises ValueError that says what to write instead.
    """
    scheme, separator, rest = url.partition("://")
    if scheme not in ("nats", "tls") or not separator:
        raise ValueError(f"{told(url)!r} names no NATS servers; write {_EXAMPLE}, or tls://")
    hosts, slash, stream = rest.rpartition("/")
    if not slash:
        raise ValueError(f"{told(url)!r} names no stream; put /KALAM at its end")
    if not _STREAM.fullmatch(stream):
        raise ValueError(
            f"{stream!r} is no stream's name; use 1 to 63 letters, digits, '-' and '_'"
        )
    return NatsPlace(tuple(_server(scheme, host) for host in hosts.split(",")), stream)


def _server(scheme: str, text: str) -> str:
    user, at, address = text.strip().rpartition("@")
    # The colons of an IPv6 address are inside of its brackets.
    host, _, port = address.partition("]:") if address.startswith("[") else address.partition(":")
    if address.startswith("["):
        host = host.removesuffix("]") + "]"
    if not _HOST.fullmatch(host):
        raise ValueError(
            f"{address!r} is no server; write host:4222, or [::1]:4222 for an IPv6 address"
        )
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{address!r} has no port between 1 and 65535; write {host}:{PORT}")
    if at and (not user or user.startswith(":") or any(sign in user for sign in "/?#[]")):
        raise ValueError(
            f"user and password before @{address} cannot be read; write user:password@ or token@,"
            " with %2F and the like for / ? # [ ]"
        )
    return f"{scheme}://{user}{at}{host}:{port or PORT}"
