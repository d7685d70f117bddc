"""The way to the servers, which is there for ever.

    start -> CONNECTING -> UP (on_up) -> lost (on_down) -> CONNECTING -> ...   until close

Any of the servers will do. A connection that is lost is dropped with all that was asked over it:
who waits for an answer is told at once that none will come (NoAnswer), and decides. What listens
to a subject does so again on the next connection, before `on_up` is called; messages sent in
between are not seen. So whoever must miss nothing asks for what it may have missed,
at every `on_up`.

Nothing here asks twice: what was asked may have been done.
"""

import asyncio
import contextlib
import logging
import random
import secrets
import time
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path

from kalam_notify.config.nats_place import NatsPlace, shown_url
from kalam_notify.log.nats.connection import Connection, OnMessage, Received
from kalam_notify.log.nats.credentials import Security, read_security
from kalam_notify.log.nats.faults import NoAnswer
from kalam_notify.log.nats.stream import STATUS
from kalam_notify.logs import Complaints

_PAUSE = (0.1, 0.5)
"""Between two rounds of all servers, in seconds; drawn, so that nodes do not come all at once."""

_SHORT_SECONDS = 1.0
_CANCEL_SECONDS = 0.1

ASK_SECONDS = 5.0
_NO_RESPONDERS = "503"

_logger = logging.getLogger(__name__)


def new_inbox() -> str:
    """A subject that nobody else uses; what is below it is the caller's, too."""
    return f"_INBOX.{secrets.token_hex(11)}"


class Subscription:
    """Somebody who listens, on this connection and every one after it."""

    def __init__(self, line: "Line", subject: str, callback: OnMessage, queue: str) -> None:
        self._line = line
        self.subject, self.callback, self.queue = subject, callback, queue
        # Where it is heard at the moment, and under which number.
        self.heard_on: tuple[Connection, int] | None = None

    async def stop(self) -> None:
        """Hear no more."""
        await self._line._forget(self)


class Line:
    """One connection at a time to the servers of a place. Lives on the event loop.

    `name` is what the servers call this client. `on_up` and `on_down` are called on the loop; they
    may be set until `start`.
    """

    def __init__(
        self,
        place: NatsPlace,
        *,
        credentials: Path | None = None,
        ca: Path | None = None,
        cert: Path | None = None,
        key: Path | None = None,
        name: str = "kalam-notify",
        on_up: Callable[[], None] = lambda: None,
        on_down: Callable[[], None] = lambda: None,
    ) -> None:
        self.place = place
        self.on_up, self.on_down = on_up, on_down
        self._files = credentials, ca, cert, key
        self._name = name
        self._connection: Connection | None = None
        self._lost: asyncio.Future[str] | None = None
        self._is_up, self._is_down = asyncio.Event(), asyncio.Event()
        self._is_down.set()
        self._keeper: asyncio.Task[None] | None = None
        self._subscriptions: list[Subscription] = []
        # What was asked over the connection there is, by the last token of its inbox.
        self._asked: dict[str, asyncio.Future[Received]] = {}
        self._numbers = count(1)
        self._inbox = ""
        # How often a connection has been made: another number is another connection.
        self.generation = 0
        # Monotonic; None while it is the other way round.
        self.connected_since: float | None = None
        self.away_since: float | None = None
        self._up_at = float("-inf")
        # The bytes that a message may have, headers included, as it was told last.
        self.max_payload = 1024 * 1024

    # -- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to connect. Raises StorageFault where files to sign in with are of no use."""
        tls = any(server.startswith("tls:") for server in self.place.servers)
        security = await asyncio.to_thread(read_security, *self._files, tls=tls)
        self.away_since = time.monotonic()
        self._keeper = asyncio.create_task(self._keep_connected(security), name="nats link")

    async def close(self) -> None:
        """Send what is left, and go."""
        keeper = self._keeper
        while keeper is not None and not keeper.done():
            # Again and again: `wait_for`, which nats-py connects by, loses it if what it waits for
            # comes at the same time (Python before 3.12).
            keeper.cancel()
            await asyncio.wait({keeper}, timeout=_CANCEL_SECONDS)
        connection, is_up = self._connection, self.is_connected
        if connection is not None:
            if is_up:
                await connection.finish()
            connection.drop()
            self._take_down("closed")

    @property
    def is_connected(self) -> bool:
        return self._is_up.is_set()

    @property
    def server(self) -> str | None:
        """The server that there is a connection to, as it may be shown."""
        return shown_url(self._connection.server) if self._connection is not None else None

    async def wait_connected(self, timeout: float | None = None) -> bool:
        """Whether there is a connection, after waiting for one so many seconds at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._is_up.wait()
        return self.is_connected

    async def wait_lost(self, generation: int) -> None:
        """Return when the connection of this generation is there no more."""
        while self.is_connected and self.generation == generation:
            await self._is_down.wait()

    async def _keep_connected(self, security: Security) -> None:
        complaints = Complaints(_logger)
        servers = list(self.place.servers)
        random.shuffle(servers)
        untried = len(servers)
        while True:
            # The one that was lost comes last.
            servers.append(servers.pop(0))
            try:
                await self._stay_connected(servers[-1], security, len(servers) > 1)
                complaints.over()
                # Another one at once, unless this one has let us in only to throw us out.
                untried = 0 if self._is_short_lived() else len(servers)
            except (NoAnswer, TimeoutError, OSError) as fault:
                complaints.say("away", f"no connection to NATS: {fault}")
                untried -= 1
            except Exception:
                _logger.exception("the connection to NATS failed")
                untried -= 1
            if untried <= 0:
                await asyncio.sleep(random.uniform(*_PAUSE))
                untried = len(servers)

    def _is_short_lived(self) -> bool:
        return time.monotonic() - self._up_at < _SHORT_SECONDS

    async def _stay_connected(self, server: str, security: Security, has_others: bool) -> None:
        """Connect, and return when the connection is lost; raises where it cannot be had."""
        self._lost = lost = asyncio.get_running_loop().create_future()
        connection = Connection(server, self._note_lost)
        try:
            await connection.open(self._name, security, leaves_lame_ducks=has_others)
            self._inbox = new_inbox()
            await connection.listen(connection.register(self._take_answer), f"{self._inbox}.*")
            self._connection = connection
            for subscription in list(self._subscriptions):
                await self._listen(subscription, connection)
            await connection.confirm()
            if lost.done():
                raise NoAnswer(f"{shown_url(server)}: {lost.result()}")
            self._take_up(connection)
            _logger.warning("lost the connection to NATS at %s: %s", shown_url(server), await lost)
        except asyncio.CancelledError:
            # For `close`, which is not in such a hurry.
            if self._connection is not connection:
                connection.drop()
            raise
        except BaseException:
            connection.drop()
            self._take_down("not connected")
            raise
        connection.drop()
        self._take_down(lost.result())

    def _note_lost(self, connection: Connection, reason: str) -> None:
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(reason)
            # At once, so that nobody asks over it any more.
            if self._connection is connection:
                self._is_up.clear()
                self._is_down.set()

    def _take_up(self, connection: Connection) -> None:
        self.generation += 1
        self.max_payload = connection.max_payload
        self._up_at = time.monotonic()
        self.connected_since, self.away_since = self._up_at, None
        self._is_up.set()
        self._is_down.clear()
        _logger.info("connected to NATS at %s", shown_url(connection.server))
        self.on_up()

    def _take_down(self, reason: str) -> None:
        was_up = self.connected_since is not None
        self._connection = None
        self._is_up.clear()
        self._is_down.set()
        for future in self._asked.values():
            if not future.done():
                future.set_exception(NoAnswer(f"the connection to NATS was lost: {reason}"))
        self._asked.clear()
        if was_up:
            self.connected_since, self.away_since = None, time.monotonic()
            self.on_down()

    # -- asking, sending, listening --------------------------------------------------------------

    async def request(
        self,
        subject: str,
        data: bytes = b"",
        timeout: float = ASK_SECONDS,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Received:
        """The first answer; raises NoAnswer where none comes in time, or nobody listens there."""
        token = str(next(self._numbers))
        future: asyncio.Future[Received] = asyncio.get_running_loop().create_future()
        self._asked[token] = future
        try:
            async with asyncio.timeout(timeout):
                await self.send(subject, data, f"{self._inbox}.{token}", headers)
                answer = await future
        except TimeoutError:
            raise NoAnswer(f"no answer on {subject} within {timeout:g} s") from None
        finally:
            self._asked.pop(token, None)
        if answer.headers and answer.headers.get(STATUS) == _NO_RESPONDERS and not answer.data:
            raise NoAnswer(f"nobody answers on {subject}", was_sent=False)
        return answer

    def _take_answer(self, answer: Received) -> None:
        future = self._asked.get(answer.subject.rpartition(".")[2])
        if future is not None and not future.done():
            future.set_result(answer)

    async def send(
        self,
        subject: str,
        data: bytes = b"",
        reply: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send a message, which may come to nothing; raises NoAnswer without a connection."""
        connection = self._connection
        if connection is None or not self.is_connected:
            raise NoAnswer("there is no connection to NATS", was_sent=False)
        await connection.send(subject, data, reply, headers)

    async def reply(
        self, message: Received, data: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        """Answer a message, if it wants an answer; raises NoAnswer without a connection."""
        if message.reply:
            await self.send(message.reply, data, headers=headers)

    async def subscribe(self, subject: str, callback: OnMessage, queue: str = "") -> Subscription:
        """Have `callback` called on the loop with each message, in order, until it is stopped.

        It must not wait. Of all in a `queue`, one is called.
        """
        subscription = Subscription(self, subject, callback, queue)
        self._subscriptions.append(subscription)
        if self._connection is not None:
            await self._listen(subscription, self._connection)
        return subscription

    async def _listen(self, subscription: Subscription, connection: Connection) -> None:
        heard_on = subscription.heard_on
        if heard_on is None or heard_on[0] is not connection:
            number = connection.register(subscription.callback)
            subscription.heard_on = connection, number
            await connection.listen(number, subscription.subject, subscription.queue)

    async def _forget(self, subscription: Subscription) -> None:
        with contextlib.suppress(ValueError):
            self._subscriptions.remove(subscription)
        if subscription.heard_on is not None:
            connection, number = subscription.heard_on
            subscription.heard_on = None
            await connection.stop_listening(number)
