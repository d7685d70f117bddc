"""GET /v1/stream: a subscription as Server-Sent Events, for networks that let no WebSocket through.

The same conversation in another frame, and a client that says nothing after its request. It is a
connection like any other to the manager, the fan-out and the feeder: changes are written to its
descriptor, what its socket does not take waits in its outbox up to the bound, beyond that it falls
back to the log. Like a WebSocketConnection it has no task, no timer and no closure of its own.

The request's answer begins with the subscription's own first message: a refusal becomes an HTTP
status, anything else a 200 whose body ends with the connection. There is nobody to ask for pages of
a snapshot, so the next one is taken whenever there is room for it.
"""

import asyncio
import logging
import time
from typing import NamedTuple

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from kalam_notify.budget import Steps, Work
from kalam_notify.delivery.outbox import Outbox, OutboxSink
from kalam_notify.errors import SubscriptionRefused
from kalam_notify.model import ConnectionId, Identity
from kalam_notify.protocol import close, messages
from kalam_notify.protocol.close import Close
from kalam_notify.protocol.events import GZIP_HEADER, HEARTBEAT, Events, event, packed
from kalam_notify.protocol.messages import Framing, SubscriptionRequest
from kalam_notify.sockets.asked import STATUS, refusal_in
from kalam_notify.sockets.context import Shared
from kalam_notify.subscriptions.plans import SubscriptionHandle

_RETRY = b"retry: 2000\n\n"
_PARTING = 10.0
"""Seconds in which what is said last has to leave."""

_log = logging.getLogger("kalam_notify.sockets")


class Answer(NamedTuple):
    """What the head of the answer depends on besides the subscription."""

    address: str
    framing: Events
    # Header lines of every answer, and those that its origin needs; each with its line end.
    headers: bytes


class EventStream(OutboxSink, asyncio.Protocol):
    """A connection whose request was for a stream of events."""

    __slots__ = (
        "__weakref__",
        "_answer",
        "_begun",
        "_deadline",
        "_identity",
        "_last_sent",
        "_over",
        "_pulling",
        "_shared",
        "_transport",
        "_work",
        "address",
        "connection_id",
        "deflates",
        "opened_at",
        "wheel_tick",
    )

    def __init__(self, shared: Shared, answer: Answer, identity: Identity) -> None:
        self.connection_id = ConnectionId(0)
        self.subscriptions = {}
        self.wheel_tick: int | None = None
        self.deflates: Framing = answer.framing
        self._shared = shared
        self._answer = answer
        self._identity = identity
        # The request's own work, until it has been answered.
        self._work: Work[None] | None = None
        # Whether the answer's head has been written; whether the last word has.
        self._begun = self._over = False
        self.address = answer.address
        self.opened_at = 0.0
        # Whether the next page of a snapshot is about to be taken.
        self._pulling = False
        self._last_sent = shared.clock()
        # By when the socket must be closed, once it is over.
        self._deadline = float("inf")

    # What the manager and the fan-out see

    @property
    def identity(self) -> Identity:
        return self._identity

    def send(self, payload: bytes) -> None:
        """Say one message of its own: a refusal, which before anything else is a status."""
        if self._over:
            return
        if not self._begun:
            self._refuse(payload)
            return
        framing = self._answer.framing
        self.outbox.push(event(payload, framing))
        if not self.subscriptions:
            # There was one, and it has ended.
            self.end(close.NORMAL)

    def send_frames(self, frames: bytes) -> None:
        if self._over:
            return
        if not self._begun:
            self._begun = True
            frames = self._head() + frames
        self.outbox.push(frames)
        self._pull_soon()

    def end(self, reason: Close) -> None:
        """Say why, and close; nothing more is delivered."""
        if self._over:
            return
        if self._begun:
            closing = orjson.dumps({"code": reason.code, "reason": reason.reason})
            self.outbox.push(event(closing, self._answer.framing, b"close"))
        else:
            status = 401 if reason.code == 1008 else 503
            self._status(status, "UNAUTHORIZED" if status == 401 else "OVERLOADED", reason.reason)
        self._finish()

    # asyncio.Protocol

    def open(self, transport: asyncio.Transport, request: SubscriptionRequest) -> None:
        """Begin, as soon as the request has been read."""
        shared = self._shared
        self._transport = transport
        self.outbox = Outbox(self, transport, shared.websocket.send_buffer_bytes)
        self.outbox.start(self._last_sent)
        shared.open_sockets.add(self)
        shared.manager.connect(self)
        shared.wheel.set(self, self._next_deadline(self._last_sent))
        owner = self._identity.user_id or self.connection_id
        work = shared.budget.enter(
            self._subscribing(request), owner, self.connection_id, self._done
        )
        if not work.is_over:
            self._work = work

    def _subscribing(self, request: SubscriptionRequest) -> Steps[None]:
        try:
            if not messages.is_subscription_id(request.id):
                raise SubscriptionRefused("INVALID_SUBSCRIPTION_ID", "this is no id")
            yield from self._shared.requests.subscribe(self, request)
        except SubscriptionRefused as refusal:
            self.send(messages.error(request.id, refusal.code, refusal.message))

    def _done(self, work: Work[None]) -> None:
        self._work = None
        if work.error is not None:
            _log.error("connection %d failed", self.connection_id, exc_info=work.error)
            self.end(close.INTERNAL_FAULT)

    def data_received(self, data: bytes) -> None:
        """Whatever comes behind the request is not heard."""

    def eof_received(self) -> bool:
        # Half closed is how some clients hang up.
        self._leave()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._over = True
        self.outbox.close()
        self._leave()
        shared = self._shared
        shared.wheel.discard(self)
        shared.leave_address(self._answer.address)
        shared.socket_closed(self, 1000 if self._deadline < float("inf") else 1006)

    def abort(self) -> None:
        """Close the socket without another word."""
        self._transport.abort()

    def pause_writing(self) -> None:
        now = self._shared.clock()
        self.outbox.blocked(now)
        if not self._over:
            self._shared.wheel.set(self, self._next_deadline(now))

    def resume_writing(self) -> None:
        self.outbox.drained()
        self._shared.feeder.drained(self)
        self._pull_soon()

    # Pages

    def _pull_soon(self) -> None:
        """Ask for the next page of a snapshot in the loop's next turn, where there is one."""
        if not self._pulling and any(map(_waits, self.subscriptions.values())):
            self._pulling = True
            self._shared.later(0.0, self._pull)

    def _pull(self) -> None:
        self._pulling = False
        if not self._over and self.outbox.has_room:
            for handle in [*self.subscriptions.values()]:
                if _waits(handle):
                    self._shared.feeder.next_batch(handle, None)

    # Time

    def token_revoked(self) -> None:
        """The token that this connection was let in with holds no longer."""
        self.end(close.AUTH_REVOKED)

    def on_deadline(self, now: float) -> float | None:
        """The wheel's call: what is due, and when the next thing will be."""
        if self._over:
            if now >= self._deadline:
                self._transport.abort()
                return None
            return self._deadline
        settings = self._shared.websocket
        if now >= self._expiry(now):
            self.end(close.AUTH_EXPIRED)
        elif self.outbox.queued:
            if self.outbox.stalled_for(now) >= settings.slow_reader_timeout:
                self.end(close.SLOW_READER)
        elif self._begun and now >= self._last_sent + settings.ping_interval:
            self.outbox.push(packed(HEARTBEAT, self._answer.framing))
            self._last_sent = now
        return self._next_deadline(now)

    def _next_deadline(self, now: float) -> float:
        if self._over:
            return self._deadline
        settings, outbox = self._shared.websocket, self.outbox
        if outbox.queued:
            # Looked at several times within the timeout, for only a look tells of progress.
            patience = settings.slow_reader_timeout
            soon = now + min(max(patience - outbox.stalled_for(now), 0.0), patience / 4)
        else:
            soon = max(self._last_sent + settings.ping_interval, now)
        return min(soon, self._expiry(now))

    def _expiry(self, now: float) -> float:
        """The monotonic time at which the token is no longer honoured."""
        expires_at = self._identity.expires_at
        if expires_at is None:
            return float("inf")
        return now + (expires_at + self._shared.leeway - time.time())

    # Answers

    def _head(self) -> bytes:
        is_packed = self._answer.framing is Events.GZIP
        lines = [
            b"content-type: text/event-stream",
            b"cache-control: no-cache, no-transform",
            b"x-accel-buffering: no",
            b"vary: accept-encoding, authorization, origin",
            b"connection: close",
        ]
        if is_packed:
            lines.append(b"content-encoding: gzip")
        head = STATUS_LINE[200] + self._answer.headers + b"\r\n".join(lines) + b"\r\n\r\n"
        return head + (GZIP_HEADER if is_packed else b"") + packed(_RETRY, self._answer.framing)

    def _refuse(self, payload: bytes) -> None:
        code, message = refusal_in(payload)
        self._status(STATUS.get(code, 400), code, message)
        self._finish()

    def _status(self, status: int, code: str, message: str) -> None:
        self._begun = True
        self.outbox.push(refusal_of(self._answer.headers, status, code, message))

    # Endings

    def _finish(self) -> None:
        """Close the socket when what was said has left it."""
        self._over = True
        self._leave()
        self._deadline = self._shared.clock() + _PARTING
        self._shared.wheel.set(self, self._deadline)
        self._transport.close()

    def _leave(self) -> None:
        """Out of every index: nothing more is delivered. Safe to repeat."""
        if self._work is not None:
            self._work.cancel()
            self._work = None
        self._shared.requests.disconnect(self)


def refusal_of(headers: bytes, status: int, code: str, message: str) -> bytes:
    """A whole answer in the error shape of all others; its connection is closed behind it."""
    body = orjson.dumps({"error": {"code": code, "message": message}})
    lines = [
        b"content-type: application/json",
        b"content-length: %d" % len(body),
        b"connection: close",
    ]
    if status in (429, 503):
        lines.append(b"retry-after: 1")
    if status == 401:
        lines.append(b"www-authenticate: Bearer")
    return STATUS_LINE[status] + headers + b"\r\n".join(lines) + b"\r\n\r\n" + body


def _waits(handle: SubscriptionHandle) -> bool:
    """Whether a page was sent, and the next one is waited for."""
    return handle.snapshot is not None and handle.snapshot.timer is not None
