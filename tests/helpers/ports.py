"""Ports that stay one's own while nobody listens on them."""

import socket


def reserve(host: str = "127.0.0.1") -> socket.socket:
    """A socket bound to a free port of `host`; until it is closed nobody is given that port.

    A server that sets SO_REUSEADDR, as ours does, may bind and listen there nevertheless, for this
    socket never listens. So a server that is killed and started again finds its port free, and no
    other test's server or outgoing connection can have taken it meanwhile.
    """
    kept = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    kept.bind((host, 0))
    return kept
