"""The address of a server, given with any of the four schemes it answers to."""

from urllib.parse import urlsplit, urlunsplit

from kalam_notify.errors import KalamNotifyError

_SECURE = {"http": False, "ws": False, "https": True, "wss": True}


class BadAddress(KalamNotifyError):
    """An address that no server can have."""


def http_url(base: str, path: str) -> str:
    """`path` on the server `base`, by HTTP."""
    return _url(base, path, "http", "https")


def websocket_url(base: str, path: str = "/v1/ws") -> str:
    """`path` on the server `base`, by WebSocket."""
    return _url(base, path, "ws", "wss")


def _url(base: str, path: str, plain: str, secure: str) -> str:
    parts = urlsplit(base)
    try:
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:
        has_host = False
    if parts.scheme not in _SECURE or not has_host:
        raise BadAddress(f"{base!r} is no server address: use http(s)://host:port or ws(s)://")
    scheme = secure if _SECURE[parts.scheme] else plain
    # A base may stand behind a path of a reverse proxy, and may be the WebSocket's own address.
    root = parts.path.removesuffix("/").removesuffix("/v1/ws")
    return urlunsplit((scheme, parts.netloc, root + path, "", ""))
