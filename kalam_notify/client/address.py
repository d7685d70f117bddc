"""The address of a server, given with any of the four schemes it answers to, or as host:port."""

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
    base = base.strip()
    parts = urlsplit(base if "://" in base else f"http://{base}")
    try:
        # Without a scheme it takes a port to tell an address from a slip of the keyboard.
        has_port = parts.port is not None or "://" in base
        has_host = bool(parts.hostname) and parts.port != 0 and has_port
    except ValueError:
        has_host = False
    if parts.scheme not in _SECURE or not has_host:
        cure = "use http(s)://host:port, ws(s):// or host:port"
        raise BadAddress(f"{without_password(base)!r} is no server address: {cure}")
    scheme = secure if _SECURE[parts.scheme] else plain
    # A base may stand behind a path of a reverse proxy, and may be the WebSocket's own address.
    root = parts.path.removesuffix("/").removesuffix("/v1/ws")
    return urlunsplit((scheme, parts.netloc, root + path, "", ""))


def without_password(base: str) -> str:
    """An address as it may be shown: what stands before an @ in it may be a password."""
    head, at, host = base.rpartition("@")
    return f"{head.partition('://')[0]}://...@{host}" if at and "://" in head else host
