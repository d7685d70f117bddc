"""The socket of the client: one connection, many subscriptions, reconnecting by itself.

One task owns the connection. It connects, authenticates, subscribes everything from where it
stands, and hands each message to its subscription. When the connection ends, the close code says
whether to come back (protocol/close.py), and the back-off says when.

A subscription that is not read fast enough holds nothing up. Its queue is bounded; when it is
full the client unsubscribes it, and subscribes it again from its cursor once the reader has caught
up, so nothing is lost and no other subscription waits.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Literal, NoReturn, Self

import msgspec
import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from kalam_notify.client.address import websocket_url
from kalam_notify.client.backoff import Backoff
from kalam_notify.client.events import Message
from kalam_notify.client.faults import ConnectionLost
from kalam_notify.client.follower import Follower
from kalam_notify.client.following import Following, Phase
from kalam_notify.client.keywords import check_names
from kalam_notify.client.subscription import Subscription
from kalam_notify.client.token_source import Token, TokenSource
from kalam_notify.client.view import NoView, View
from kalam_notify.errors import AuthenticationFailed, KalamNotifyError, SubscriptionRefused
from kalam_notify.protocol.close import RECONNECT, Reconnect
from kalam_notify.protocol.messages import RATE_ERRORS

logger = logging.getLogger(__name__)

_decode = msgspec.json.Decoder(dict[str, Any]).decode

MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
# Subscribes that the server dropped for their rate are sent again after this.
RATE_PAUSE_SECONDS: Final = 1.0
REPEATS_PER_PAUSE: Final = 20
# A server that wants to be left alone for longer is asked all the same.
LONGEST_RETRY_SECONDS: Final = 300.0


# What websockets.connect takes, and what it passes on to loop.create_connection.
_SOCKET_OPTIONS: Final = (
    *("origin", "extensions", "subprotocols", "compression", "additional_headers"),
    *("user_agent_header", "proxy", "open_timeout", "ping_interval", "ping_timeout"),
    *("close_timeout", "max_size", "max_queue", "write_limit", "logger", "create_connection"),
    *("ssl", "server_hostname", "sock", "local_addr", "family", "flags", "host", "port"),
    *("happy_eyeballs_delay", "interleave", "ssl_handshake_timeout", "ssl_shutdown_timeout"),
)
_OPTIONS: Final = ("token", "authenticate", "backoff", "on_message", "on_trouble")


class Client:
    """A connection to a server that is kept up until the client is closed.

    `url` is `http(s)://host:port` or `ws(s)://host:port`. `token` may be a function that is asked
    at each connect, so that an expired token is followed by a new one. `authenticate` says whether
    it goes along with the handshake or, where a proxy takes the header away, as a message.
    `on_message` sees every message of the server, `on_trouble` every loss of the connection and
    the seconds until the next attempt. `connect_options` go to `websockets.connect`.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Token | None = None,
        authenticate: Literal["header", "message"] = "header",
        backoff: Backoff | None = None,
        on_message: Callable[[Message], None] | None = None,
        on_trouble: Callable[[str, float], None] | None = None,
        **connect_options: Any,
    ) -> None:
        check_names("Client", connect_options, (*_OPTIONS, *_SOCKET_OPTIONS))
        self._url = websocket_url(url)
        self._tokens = TokenSource(token)
        self._by_header = authenticate == "header"
        self._backoff = backoff or Backoff()
        self._on_message = on_message
        self._on_trouble = on_trouble
        self._headers = dict(connect_options.pop("additional_headers", None) or {})
        self._connect_options: dict[str, Any] = {
            "max_size": MAX_MESSAGE_BYTES,
            "ping_timeout": 60,
            "proxy": None,
            **connect_options,
        }
        self._subscriptions: dict[str, Follower] = {}
        self._names = itertools.count(1)
        self._socket: ClientConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._fault: KalamNotifyError | None = None
        # Ids whose unsubscribe was dropped for the rate.
        self._unheard: set[str] = set()
        self._auth_error: str | None = None
        self._repeating: asyncio.Task[None] | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._rate_pause = RATE_PAUSE_SECONDS
        # When the connection came up, on the loop's clock; None while there is none.
        self._opened_at: float | None = None
        # Set once there has been a connection, or there will be none.
        self._settled = asyncio.Event()
        self.last_trouble = ""
        # How many seconds the server wants to be left alone, after it refused a handshake.
        self._not_before = 0.0

    async def __aenter__(self) -> Self:
        self.start()
        return self

    def start(self) -> None:
        """Begin to connect, for whoever ends with `close` and needs no context manager."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def opened(self) -> None:
        """Wait for the first connection, with the token that goes with it accepted.

        Raises what ended the client instead.
        """
        await self._settled.wait()
        if self._fault is not None:
            raise self._fault

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection (1000) and end every iteration."""
        for subscription in self._subscriptions.values():
            subscription.finish()
        owned = (self._task, self._repeating, self._refreshing)
        tasks = [task for task in owned if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def subscribe(
        self,
        sql: str,
        *,
        params: Sequence[Any] = (),
        id: str | None = None,
        options: Mapping[str, Any] | None = None,
        live_only: bool = False,
        primary_key: Sequence[str] | None = None,
        keep_view: bool = True,
    ) -> Subscription:
        """Subscribe to a query; answered by the events of the returned subscription.

        `params` are the values of `$1`, `$2`, ...: JSON scalars, or a list for `= ANY($1)`.
        Without `options` it starts with a snapshot; `live_only` leaves that out. `options` are
        the protocol's: `batch_size`, `last_rows`, `from`. An `id` in use is replaced. A reader that
        wants the events alone saves the memory of a view with `keep_view=False`.
        """
        name = id or self.new_id()
        following = Following(name, sql, None if live_only else options or {}, params)
        subscription = Subscription(self, following, View(primary_key) if keep_view else NoView())
        self.add(subscription)
        await self.resume(subscription)
        return subscription

    def new_id(self) -> str:
        """An id that no subscription of this client has had."""
        return f"q{next(self._names)}"

    def add(self, follower: Follower) -> None:
        """Have `follower` asked for at the next connect, or by `resume`; one of its id is replaced.

        Raises what ended the client.
        """
        if self._fault is not None:
            raise self._fault
        replaced = self._subscriptions.get(follower.id)
        self._subscriptions[follower.id] = follower
        if replaced is not None:
            why = f"subscription {follower.id} was replaced"
            replaced.fail(SubscriptionRefused("REPLACED", why))

    async def resume(self, subscription: Follower) -> None:
        """Ask for a subscription from where it stands; at the next connect when there is none."""
        if self._socket is not None and subscription.following.phase is Phase.IDLE:
            await self._send(self._socket, subscription.following.request())

    async def forget(self, subscription: Follower) -> None:
        """Unsubscribe, unless another subscription has taken the id."""
        if self._subscriptions.get(subscription.id) is not subscription:
            return
        del self._subscriptions[subscription.id]
        if self._socket is not None:
            message = {"type": "unsubscribe", "subscription_id": subscription.id}
            await self._send(self._socket, message)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                self._opened_at = None
                why, after_a_pause = await self._connection()
                if self._held(loop.time()) > self._backoff.bound:
                    self._backoff.reset()
                delay = self._backoff.next_delay(after_a_pause=after_a_pause)
                delay, self._not_before = max(delay, self._not_before), 0.0
                logger.info("%s; the next attempt is in %.1f s", why, delay)
                self.last_trouble = why
                if self._on_trouble is not None:
                    self._on_trouble(why, delay)
                await asyncio.sleep(delay)
        except KalamNotifyError as fault:
            self._end(fault)
        except Exception as fault:
            logger.exception("the client failed")
            self._end(ConnectionLost(0, repr(fault)))

    def _held(self, now: float) -> float:
        """How long the last connection was up."""
        return 0.0 if self._opened_at is None else now - self._opened_at

    def _end(self, fault: KalamNotifyError) -> None:
        self._fault = fault
        self._settled.set()
        for subscription in self._subscriptions.values():
            subscription.fail(fault)

    async def _connection(self) -> tuple[str, bool]:
        """One connection from its start to its end: why it ended, whether to pause before the next.

        Raises what ends the client for good.
        """
        try:
            socket = await self._connect()
        except InvalidStatus as refused:
            return await self._after_refusal(refused)
        except (OSError, TimeoutError, InvalidHandshake, EOFError) as fault:
            return f"cannot connect: {fault}", False
        try:
            async with socket:
                try:
                    await self._converse(socket)
                except asyncio.CancelledError:
                    # Leaving on purpose: the context manager would call it an internal error.
                    await socket.close()
                    raise
        except ConnectionClosed as closed:
            return await self._after_close(closed)
        finally:
            self._disconnected()

    async def _connect(self) -> ClientConnection:
        token = await self._tokens.next()
        headers = dict(self._headers)
        if token is not None and self._by_header:
            headers["Authorization"] = f"Bearer {token}"
        return await connect(self._url, additional_headers=headers, **self._connect_options)

    async def _converse(self, socket: ClientConnection) -> NoReturn:
        self._auth_error = None
        token = self._tokens.last
        if token is not None and not self._by_header:
            await self._authenticate(socket, token)
        self._socket = socket
        self._opened_at = asyncio.get_running_loop().time()
        if token is None or self._by_header:
            self._settled.set()
        self._refreshing = asyncio.create_task(self._refresh_token(socket))
        for subscription in list(self._subscriptions.values()):
            await self.resume(subscription)
        while True:
            text = await socket.recv()
            await self._receive(socket, _decode(text), len(text))

    async def _refresh_token(self, socket: ClientConnection) -> None:
        """Tell the server of another token before the last one expires; the connection stays."""
        while (wait := self._tokens.until_refresh(time.time())) is not None:
            await asyncio.sleep(wait)
            try:
                token = await self._tokens.renewed()
            except Exception as fault:
                # It is asked again in a moment; the old token holds for a while.
                logger.warning("no new token: %r", fault)
                continue
            if token is not None:
                await self._authenticate(socket, token)

    async def _authenticate(self, socket: ClientConnection, token: str) -> None:
        await self._send(socket, {"type": "authenticate", "method": "jwt", "token": token})

    def _disconnected(self) -> None:
        self._socket = None
        if self._refreshing is not None:
            self._refreshing.cancel()
        self._unheard.clear()
        for subscription in self._subscriptions.values():
            subscription.pause()

    async def _receive(self, socket: ClientConnection, message: dict[str, Any], size: int) -> None:
        if self._on_message is not None:
            self._on_message(message)
        kind = message.get("type")
        if kind == "auth_error":
            self._auth_error = str(message.get("message"))
            return
        if kind == "auth_success":
            self._settled.set()
            return
        id = str(message.get("subscription_id"))
        if message.get("code") == "RATE_LIMIT_EXCEEDED":
            self._ask_again_later(id)
            return
        subscription = self._subscriptions.get(id)
        if subscription is None:
            return
        if kind == "error":
            if message.get("code") == "RESUME_EXPIRED" and subscription.following.expired():
                await self.resume(subscription)
            else:
                self._refused(subscription, message)
            return
        try:
            answer = subscription.offer(message, size)
        except KalamNotifyError as fault:
            await self.forget(subscription)
            subscription.fail(fault)
            return
        if answer is not None:
            await self._send(socket, answer)

    def _refused(self, subscription: Follower, message: Message) -> None:
        code = str(message.get("code"))
        # A page asked for twice, or too late: the server goes on by itself.
        if code != "BATCH_FETCH_FAILED":
            self._subscriptions.pop(subscription.id, None)
            subscription.fail(SubscriptionRefused(code, str(message.get("message"))))

    def _ask_again_later(self, id: str) -> None:
        """The server dropped one of our messages: repeat those that it may have been.

        Under an id that no subscription has (any more) it was the unsubscribe.
        """
        if id != RATE_ERRORS and id not in self._subscriptions:
            self._unheard.add(id)
        if self._repeating is None or self._repeating.done():
            self._repeating = asyncio.create_task(self._ask_again())

    async def _ask_again(self) -> None:
        await asyncio.sleep(self._rate_pause)
        while self._socket is not None and self._unheard:
            message = {"type": "unsubscribe", "subscription_id": self._unheard.pop()}
            await self._send(self._socket, message)
        for subscription in list(self._subscriptions.values()):
            if self._socket is not None and subscription.following.phase is Phase.REQUESTED:
                await self._send(self._socket, subscription.following.request())
                # One after the other, for a client that goes on in bursts is closed for abuse.
                await asyncio.sleep(self._rate_pause / REPEATS_PER_PAUSE)

    async def _after_refusal(self, refused: InvalidStatus) -> tuple[str, bool]:
        """What an answer in place of the upgrade means: 5xx and 429 pass, the rest does not."""
        status = refused.response.status_code
        if status == 401:
            why = f"the server refused the handshake: 401{_reason(refused)}"
            if not await self._tokens.has_other():
                raise AuthenticationFailed(why)
            return why, False
        if status < 500 and status != 429:
            raise ConnectionLost(status, refused.response.reason_phrase)
        self._not_before = _retry_after(refused)
        return f"the server refuses the connection for now: {status}{_reason(refused)}", True

    async def _after_close(self, closed: ConnectionClosed) -> tuple[str, bool]:
        code = closed.rcvd.code if closed.rcvd is not None else 1006
        reason = closed.rcvd.reason if closed.rcvd is not None else ""
        why = f"the connection was closed: {code} {reason}".strip()
        match RECONNECT.get(code, Reconnect.JITTERED):
            case Reconnect.NO:
                raise ConnectionLost(code, reason)
            case Reconnect.WITH_NEW_TOKEN:
                if not await self._tokens.has_other():
                    raise self._rejection(code, reason)
                return why, False
            case Reconnect.AFTER_A_PAUSE:
                return why, True
        return why, False

    def _rejection(self, code: int, reason: str) -> KalamNotifyError:
        if self._auth_error is not None:
            return AuthenticationFailed(self._auth_error)
        return ConnectionLost(code, reason)

    async def _send(self, socket: ClientConnection, message: Mapping[str, Any]) -> None:
        try:
            await socket.send(orjson.dumps(message).decode())
        except ConnectionClosed:
            # Whoever reads the socket learns of it too; what was not sent is asked for again.
            logger.debug("not sent, the connection is closed: %s", message.get("type"))


def _retry_after(refused: InvalidStatus) -> float:
    """The seconds of its Retry-After; a date, which our server never sends, counts as none."""
    seconds = refused.response.headers.get("Retry-After", "")
    return min(float(seconds), LONGEST_RETRY_SECONDS) if seconds.isdecimal() else 0.0


def _reason(refused: InvalidStatus) -> str:
    """What the server says about it, where it is one of ours."""
    try:
        return f": {orjson.loads(refused.response.body or b'')['error']['message']}"
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ""
