"""Listening sockets, and the HTTP protocol (uvicorn's, on httptools) that serves each of them."""

import asyncio
import email.utils
import errno
import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from kalam_notify.config import Address
from kalam_notify.errors import ConfigurationFault, Fault
from kalam_notify.sockets.connection import WebSocketConnection
from kalam_notify.sockets.context import Shared
from kalam_notify.sockets.upgrade import HttpProtocol

BACKLOG = 4096
"""Connections that may wait for accept: a whole fleet comes back at once after a restart."""

_IN_ONE_GO = 16
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)

_LETTING_GO = 2.0
"""Seconds that the workers of a supervisor that was killed are given to leave the address."""

_KEEP_ALIVE = 75
"""Seconds that an idle HTTP connection is kept: longer than the usual proxy keeps its own."""


_ANY = "give another address"
_CURES = {
    errno.EADDRINUSE: "end the program that listens there (ss -ltnp), or give another address",
    errno.EADDRNOTAVAIL: "give an address that this machine has, or 0.0.0.0 for all of them",
    errno.EACCES: "give a port above 1023, or the right to it (CAP_NET_BIND_SERVICE)",
}


def bind(
    address: Address, *, key: str = "server.listen", reuse_port: bool = False
) -> socket.socket:
    """A bound TCP socket; raises ConfigurationFault naming `key` when there is none to be had."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        family, _, _, _, where = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(where)
    except OSError as error:
        cure = (
            f"cannot listen there: {error.strerror or error}: {_CURES.get(error.errno or 0, _ANY)}"
        )
        raise ConfigurationFault([Fault("address", key, str(address), cure)]) from error
    listener.setblocking(False)
    return listener


def bind_all(address: Address, count: int, *, key: str = "server.listen") -> list[socket.socket]:
    """`count` sockets on one address, over which the kernel spreads connections.

    Port 0 is one free port for all. Raises ConfigurationFault naming `key`.
    """
    if address.port:
        _make_sure_it_is_free(address, key)
    sockets = [bind(address, key=key, reuse_port=True)]
    chosen = Address(address.host, sockets[0].getsockname()[1])
    sockets += [bind(chosen, key=key, reuse_port=True) for _ in range(count - 1)]
    return sockets


def _make_sure_it_is_free(address: Address, key: str) -> None:
    """SO_REUSEPORT would share the port with another server of the same user, unnoticed."""
    give_up = time.monotonic() + _LETTING_GO
    while True:
        try:
            bind(address, key=key).close()
        except ConfigurationFault:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.05)
        else:
            return


def url_of(listener: socket.socket, tls: bool) -> str:
    """`http(s)://HOST:PORT` of a bound socket."""
    host, port = listener.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{Address(host, port)}"


class Listener:
    """One address being served, until `stop`."""

    def __init__(
        self,
        listener: socket.socket,
        app: ASGIApp,
        shared: Shared,
        *,
        websocket: bool,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._socket = listener
        self._tls = tls
        self._shared = shared
        # Servers on sockets of others, by number.
        self._covered: dict[int, asyncio.AbstractServer] = {}
        self.state = ServerState()
        self.wheel_tick: int | None = None
        self._protocol_class = _protocol_class(shared, websocket)
        self._config = uvicorn.Config(
            app,
            http=self._protocol_class,
            ws=WebSocketConnection,
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=_KEEP_ALIVE,
        )
        self._config.load()

    async def start(self) -> None:
        """Accept connections."""
        asyncio.get_running_loop().set_exception_handler(self._on_loop_fault)
        self.on_deadline(self._shared.clock())
        self._shared.wheel.set(self, self._shared.clock() + 1)
        self._server = await self._accept(self._socket)

    async def _accept(self, listener: socket.socket) -> asyncio.AbstractServer:
        loop = asyncio.get_running_loop()
        # For asyncio's own loop it is also the number of connections that it takes in one go,
        # before any of them can be looked at. (uvloop's is not a BaseEventLoop.)
        backlog = _IN_ONE_GO if isinstance(loop, asyncio.BaseEventLoop) else BACKLOG
        server = await loop.create_server(
            self._protocol, sock=listener, ssl=self._tls, backlog=backlog
        )
        if backlog != BACKLOG:
            listener.listen(BACKLOG)
        return server

    def _on_loop_fault(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        fault = context.get("exception")
        if isinstance(fault, OSError) and fault.errno in _NO_DESCRIPTORS:
            # asyncio's loop could not accept; it tries again in a second.
            self._shared.descriptors.turned_away()
        else:
            loop.default_exception_handler(context)

    async def cover(self, sockets: Mapping[int, socket.socket]) -> None:
        """Accept from these sockets as well, and no longer from those covered before.

        They stay the caller's. Their numbers tell them apart from one call to the next.
        """
        for number in self._covered.keys() - sockets.keys():
            self._covered.pop(number).close()
        for number, listener in sockets.items():
            if number not in self._covered:
                self._covered[number] = await self._accept(listener.dup())

    def _protocol(self) -> asyncio.Protocol:
        return self._protocol_class(config=self._config, server_state=self.state, app_state={})

    def on_deadline(self, now: float) -> float | None:
        """The wheel's call: the Date header once a second."""
        date = email.utils.formatdate(usegmt=True).encode()
        self.state.default_headers = [(b"date", date), (b"server", b"kalam-notify")]
        return now + 1

    def close(self) -> None:
        """Accept no more."""
        for server in (self._server, *self._covered.values()):
            server.close()
        self._covered.clear()

    async def stop(self, grace: float) -> None:
        """Accept no more; requests in hand have `grace` seconds to be answered."""
        self.close()
        self._shared.wheel.discard(self)
        for connection in list(self.state.connections):
            connection.shutdown()
        await self._answered(grace)
        if self.state.tasks:
            # Who does not read its answers would keep the process from ending, for uvicorn takes a
            # cancellation for a fault of the application and goes on.
            for connection in list(self.state.connections):
                connection.transport.abort()
            await self._answered(_LAST_SECONDS)

    async def _answered(self, seconds: float) -> None:
        """Wait until every request is answered, those in line as well; at most so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.state.tasks:
                    await asyncio.wait(list(self.state.tasks))


_LAST_SECONDS = 1.0


def _protocol_class(shared: Shared, websocket: bool) -> type[HttpProtocol]:
    return type("HttpProtocol", (HttpProtocol,), {"shared": shared, "serves_websocket": websocket})
