"""What every connection of a worker process shares: settings, requests, the wheel, counters."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from kalam_notify.budget import Budget
from kalam_notify.catchup.feeder import Feeder
from kalam_notify.config import Config
from kalam_notify.model import Identity
from kalam_notify.sockets.addresses import TrustedProxies, is_loopback
from kalam_notify.sockets.descriptors import Descriptors
from kalam_notify.sockets.halves import HalfReceived
from kalam_notify.sockets.wheel import Wheel
from kalam_notify.subscriptions.manager import ConnectionsManager
from kalam_notify.subscriptions.requests import SubscriptionRequests


class Verifier(Protocol):
    """What checks the tokens of connections."""

    def verify(self, token: str) -> Identity:
        """Raises AuthenticationFailed (KeyNotYetKnown: `authenticate` fetches), KeysUnavailable."""

    async def authenticate(self, token: str) -> Identity:
        """`verify` that fetches keys where that could help; never KeyNotYetKnown."""

    @property
    def failures(self) -> Counter[str]:
        """Authentications that failed, by reason."""


class OpenSocket(Protocol):
    """A connection whose socket has not been closed yet."""

    @property
    def identity(self) -> Identity: ...

    def token_revoked(self) -> None:
        """End the conversation: its token holds no longer."""

    def abort(self) -> None:
        """Close the socket without another word."""


class Shared:
    """One object for the life of a worker; `config` and `verifier` are replaced at a reload."""

    def __init__(
        self,
        config: Config,
        verifier: Verifier,
        manager: ConnectionsManager,
        requests: SubscriptionRequests,
        feeder: Feeder,
        budget: Budget,
        *,
        clock: Callable[[], float],
        wheel: Wheel,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        self.spawn = spawn
        # Calls back after so many seconds, 0: in the next turn of the loop.
        self.later = later
        self.verifier = verifier
        self.manager = manager
        self.requests = requests
        self.feeder = feeder
        self.budget = budget
        self.clock = clock
        self.wheel = wheel
        self.is_draining = False
        # Sockets that are open, those in their closing handshake included.
        self.open_sockets: set[OpenSocket] = set()
        # Connections per client address.
        self.by_address: Counter[str] = Counter()
        self.descriptors = Descriptors(clock)
        # Bytes of messages that have not come whole, of all connections.
        self.half_received = HalfReceived()
        # Closed connections by close code; 1006 where no close frame went either way.
        self.closes: Counter[int] = Counter()
        self._closed = asyncio.Event()
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Take a (re)loaded configuration. Open connections read it from here on."""
        self.config = config
        self.websocket = config.websocket
        # Seconds that a token is honoured beyond its exp.
        self.leeway = config.auth.jwt.leeway
        self.proxies = TrustedProxies(config.server.trusted_proxies)
        self.allowed_origins = frozenset(
            origin.lower().rstrip("/") for origin in config.server.allowed_origins
        )

    async def all_closed(self, grace: float) -> None:
        """Wait until every socket is closed; those still open after `grace` seconds are cut."""
        until = self.clock() + grace
        while self.open_sockets and self.clock() < until:
            self._closed.clear()
            try:
                async with asyncio.timeout(until - self.clock()):
                    await self._closed.wait()
            except TimeoutError:
                break
        for connection in list(self.open_sockets):
            connection.abort()

    def is_full_for(self, address: str) -> bool:
        """Whether this address has all the connections it may have."""
        limit = self.config.connections_per_address(is_local=is_loopback(address))
        return bool(limit) and self.by_address[address] >= limit

    def leave_address(self, address: str) -> None:
        """A connection from this address is closed."""
        self.by_address[address] -= 1
        if self.by_address[address] <= 0:
            del self.by_address[address]

    def socket_closed(self, connection: OpenSocket, code: int) -> None:
        """A socket is closed for good; `code` is the close code that went either way, or 1006."""
        self.open_sockets.discard(connection)
        self.closes[code] += 1
        self._closed.set()

    def left(self, connection: OpenSocket) -> None:
        """What was in `open_sockets` without a socket of its own is no more."""
        self.open_sockets.discard(connection)
        self._closed.set()

    def admits_origin(self, origin: str | None) -> bool:
        """Whether a handshake from this `Origin` (None: no such header) may go on."""
        if origin is None:
            return not self.config.server.strict_origin
        if not self.allowed_origins or "*" in self.allowed_origins:
            return True
        return origin.lower() in self.allowed_origins
