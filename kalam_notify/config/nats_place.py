"""Where a log on NATS is: `nats://a:4222,b:4222,c:4222/KALAM`."""

import re
from typing import NamedTuple
from urllib.parse import unquote

SCHEMES = ("nats", "tls")
PORT = 4222

URL_CURE = (
    "give nats://host:4222/STREAM (tls:// to insist on TLS), several hosts separated by commas; "
    "user:password@ or token@ may stand before each host"
)
STREAM_CURE = "end it with the stream's name: / and 1 to 63 letters, digits, - and _"
PORT_CURE = "give each host a port from 1 to 65535"

_STREAM = re.compile(r"[A-Za-z0-9_-]{1,63}")
_HOST = r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?\]"
# Whoever has one of / ? # [ ] @ , or a colon in a user's name writes it as %2F and the like.
_SERVER = re.compile(
    rf"((?:[^/?#\[\]@,:]+)(?::[^/?#\[\]@,]*)?@)?({_HOST})(?::(\d{{1,5}}))?", re.ASCII
)


class NatsPlace(NamedTuple):
    """Servers of one cluster, as URLs with a port and perhaps user and password, and a stream."""

    servers: tuple[str, ...]
    stream: str

    def __repr__(self) -> str:
        """Without passwords: this may be logged."""
        return f"{', '.join(map(shown_url, self.servers))}/{self.stream}"


def node_file_name(stream: str) -> str:
    """The file of a node in its data directory, for this stream."""
    return f"node-{stream}.db"


def shown_url(server: str) -> str:
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
    before any host. Raises ValueError that says what to write instead, and shows nothing of the
    URL: a password may stand anywhere in one that cannot be read.
    """
    scheme, separator, rest = url.partition("://")
    if scheme not in SCHEMES or not separator:
        raise ValueError(URL_CURE)
    hosts, slash, stream = rest.rpartition("/")
    if not slash or not _STREAM.fullmatch(stream):
        raise ValueError(STREAM_CURE)
    return NatsPlace(tuple(_server(scheme, host) for host in hosts.split(",")), stream)


def _server(scheme: str, text: str) -> str:
    match = _SERVER.fullmatch(text)
    if match is None:
        raise ValueError(URL_CURE)
    before, host, port = match.groups()
    if port is not None and not 0 < int(port) < 65536:
        raise ValueError(PORT_CURE)
    return f"{scheme}://{before or ''}{host}:{port or PORT}"
