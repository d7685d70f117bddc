"""One connection's conversation, without its socket: text messages and time in, actions out.

The states and what moves between them (docs/protocol.md draws this table):

    UNAUTHENTICATED  may only authenticate; closed when auth_timeout passes
    ANONYMOUS        may subscribe to public tables (auth.anonymous), and may still authenticate
    AUTHENTICATED    may subscribe; may authenticate again as the same user; closed at exp + leeway
    CLOSED           nothing is heard or said any more

The session decides and the caller acts: it never sends, verifies or subscribes by itself.

What a connection may ask for is told by the generic cell rate algorithm (ITU-T I.371). Each
message moves a theoretical arrival time forward by 1/rate; a message is over the limit when that
time has run further ahead of the clock than the burst allows. One float replaces a token bucket's
two, which counts with 25,000 connections.

Messages are counted, and so is the work they make. A message over the count is dropped, and ten
times over it is abuse. Work is known only when a message has been inflated and looked at, and then
there is no point in dropping it: whoever has made too much is not read until the debt is paid.
"""

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol

import msgspec

from kalam_notify.model import ANONYMOUS, Identity, same_claims
from kalam_notify.protocol import close, messages
from kalam_notify.protocol.close import Close
from kalam_notify.protocol.messages import (
    Authenticate,
    NextBatch,
    Ping,
    Subscribe,
    SubscriptionRequest,
    Unreadable,
    Unsubscribe,
)

TENFOLD = 10
FRAMES = 100
"""Fragments, pings and pongs allowed for each message: they cost little, but not nothing."""

MESSAGE_WORK = 8 * 1024
"""Bytes of work that each message of the rate entitles to, used or not: at the default rate a
message of 1 MiB, or a hundred queries of 4 KiB, fit the burst."""

SQL_WEIGHT = 4
"""How many bytes of other text a byte of SQL is as much work as."""


class Verdict(Enum):
    """What is to be done with a message."""

    PASS = "pass"
    DROP = "drop"
    ABUSE = "abuse"


class MessageRate:
    """One connection's use of the message rate, of ten times that rate, and of the work it allows.

    A dropped message does not count towards the rate, so that a client that slows down is heard
    again at once; it does count towards abuse.
    """

    __slots__ = ("_abuse_at", "_arrival_at", "_frames_at", "_work_at")

    def __init__(self) -> None:
        self._arrival_at = 0.0
        self._abuse_at = 0.0
        self._frames_at = 0.0
        self._work_at = 0.0

    def judge(self, now: float, rate: float, burst: int) -> Verdict:
        """Count one message at time `now` (seconds) against `rate` a second and `burst`."""
        abuse_at = max(self._abuse_at, now) + 1 / (rate * TENFOLD)
        # The burst's own last message fits: half a message of slack beats rounding.
        if abuse_at - now > (burst * TENFOLD + 0.5) / (rate * TENFOLD):
            return Verdict.ABUSE
        self._abuse_at = abuse_at
        arrival_at = max(self._arrival_at, now) + 1 / rate
        if arrival_at - now > (burst + 0.5) / rate:
            return Verdict.DROP
        self._arrival_at = arrival_at
        return Verdict.PASS

    def judge_frame(self, now: float, rate: float, burst: int) -> bool:
        """Count one frame that is no whole message; False: so many are abuse."""
        frames_at = max(self._frames_at, now) + 1 / (rate * FRAMES)
        if frames_at - now > (burst * FRAMES + 0.5) / (rate * FRAMES):
            return False
        self._frames_at = frames_at
        return True

    def charge(self, work: int, now: float, rate: float, burst: int) -> float:
        """Count `work` bytes that were done; the seconds after which more may be asked for."""
        self._work_at = max(self._work_at, now) + work / (rate * MESSAGE_WORK)
        seconds = self._work_at - now - burst / rate
        return seconds if seconds > 0.5 / rate else 0.0


class State(Enum):
    __hash__ = object.__hash__  # Enum's own is a call of Python, for each look into a table

    UNAUTHENTICATED = "unauthenticated"
    ANONYMOUS = "anonymous"
    AUTHENTICATED = "authenticated"
    CLOSED = "closed"


class Event(Enum):
    __hash__ = object.__hash__

    VERIFIED = "verified"  # a token held
    REFUSED = "refused"  # a token did not hold, was another user's, or has been revoked
    AUTH_DEADLINE = "auth deadline"  # auth_timeout passed
    EXPIRED = "expired"  # the token's exp plus leeway passed
    UNREADABLE = "unreadable"  # a message that is none of the protocol's
    FLOODED = "flooded"  # ten times over the message rate
    ENDED = "ended"  # the socket is closing, by whichever side


_ALWAYS = {
    Event.REFUSED: State.CLOSED,
    Event.UNREADABLE: State.CLOSED,
    Event.FLOODED: State.CLOSED,
    Event.ENDED: State.CLOSED,
}

TRANSITIONS: dict[State, dict[Event, State]] = {
    State.UNAUTHENTICATED: {
        Event.VERIFIED: State.AUTHENTICATED,
        Event.AUTH_DEADLINE: State.CLOSED,
        **_ALWAYS,
    },
    State.ANONYMOUS: {Event.VERIFIED: State.AUTHENTICATED, **_ALWAYS},
    State.AUTHENTICATED: {
        Event.VERIFIED: State.AUTHENTICATED,
        Event.EXPIRED: State.CLOSED,
        **_ALWAYS,
    },
    State.CLOSED: {Event.ENDED: State.CLOSED},
}


class Reply(msgspec.Struct, frozen=True):
    """A message for this client alone."""

    payload: bytes


class Verify(msgspec.Struct, frozen=True):
    """Check this token, then tell `verified` or `refused` before the next message."""

    token: str


class IdentityChanged(msgspec.Struct, frozen=True):
    """The same user showed a token with another role or other claims."""

    identity: Identity


class Throttle(msgspec.Struct, frozen=True):
    """Too much work: hear nothing more for so many seconds."""

    seconds: float


Action = (
    Reply
    | Verify
    | IdentityChanged
    | Throttle
    | Close
    | SubscriptionRequest
    | NextBatch
    | Unsubscribe
)


class SessionLimits(Protocol):
    """What a session reads of the configuration's `websocket` section."""

    @property
    def messages_per_second(self) -> float: ...
    @property
    def message_burst(self) -> int: ...


_NOTHING: tuple[Action, ...] = ()

_NEXT_BATCH_CHARS = 2048
"""No next_batch is longer: an id has 128 characters, of up to twelve in JSON."""


def _awaits_nothing(_: NextBatch) -> bool:
    return False


class Session:
    """The conversation of one connection."""

    __slots__ = ("_rate", "identity", "state")

    def __init__(self, *, anonymous_allowed: bool) -> None:
        self.state = State.ANONYMOUS if anonymous_allowed else State.UNAUTHENTICATED
        # Whose requests these are; ANONYMOUS until a token has been verified.
        self.identity: Identity = ANONYMOUS
        self._rate = MessageRate()

    def receive(
        self,
        text: str,
        now: float,
        limits: SessionLimits,
        *,
        size: int = 0,
        awaits: Callable[[NextBatch], bool] = _awaits_nothing,
    ) -> Sequence[Action]:
        """What one text message of `size` bytes asks for. `now` is monotonic, in seconds.

        `awaits` tells whether a next_batch answers a page that was sent: those are flow control,
        and not counted.
        """
        if self.state is State.CLOSED:
            return _NOTHING
        answer = _next_batch(text)
        if answer is not None and awaits(answer):
            return (answer,)
        verdict = self._rate.judge(now, limits.messages_per_second, limits.message_burst)
        if verdict is not Verdict.PASS:
            return (*self._over_the_rate(verdict), *self._charge(size, now, limits))
        actions = self._decoded(text)
        for action in actions:
            if isinstance(action, SubscriptionRequest):
                size += (SQL_WEIGHT - 1) * len(action.sql)
        return (*actions, *self._charge(size, now, limits))

    def _charge(self, work: int, now: float, limits: SessionLimits) -> Sequence[Action]:
        """Count work that was made; over the rate, the client is not heard for a while."""
        rate, burst = limits.messages_per_second, limits.message_burst
        seconds = self._rate.charge(work, now, rate, burst)
        return (Throttle(seconds),) if seconds else _NOTHING

    def _decoded(self, text: str) -> Sequence[Action]:
        try:
            message = messages.decode(text)
        except messages.MalformedAuthentication as error:
            return self.refused(str(error))
        except Unreadable as error:
            self._move(Event.UNREADABLE)
            return (close.unreadable(str(error)),)
        return self._heard(message)

    def _heard(self, message: messages.ClientMessage) -> Sequence[Action]:
        match message:
            case Authenticate(token=token):
                return (Verify(token),)
            case Subscribe(subscription=request):
                return (self._admitted(request),)
            case Ping():
                return _NOTHING
            case NextBatch() | Unsubscribe():
                return (message,)

    def _admitted(self, request: SubscriptionRequest) -> Action:
        if self.state is State.UNAUTHENTICATED:
            return Reply(messages.error(request.id, "AUTH_REQUIRED", "authenticate first"))
        if not messages.is_subscription_id(request.id):
            why = "a subscription id is 1 to 128 characters, not blank, no control characters"
            return Reply(messages.error(request.id, "INVALID_SUBSCRIPTION_ID", why))
        return request

    def _over_the_rate(self, verdict: Verdict) -> Sequence[Action]:
        if verdict is Verdict.ABUSE:
            self._move(Event.FLOODED)
            return (close.ABUSE,)
        why = "too many messages; this one was dropped"
        return (Reply(messages.error(messages.RATE_ERRORS, "RATE_LIMIT_EXCEEDED", why)),)

    def verified(self, identity: Identity) -> Sequence[Action]:
        """A token held: greet a new user, renew the same one, refuse another."""
        before, first = self.identity, self.identity.is_anonymous
        if not first and identity.user_id != before.user_id:
            return self.refused("this connection belongs to another user")
        self._move(Event.VERIFIED)
        self.identity = identity
        welcome = Reply(messages.auth_success(identity))
        if identity.role == before.role and same_claims(identity, before):
            return (welcome,)
        return (welcome, IdentityChanged(identity))

    def refused(self, why: str) -> Sequence[Action]:
        """A token did not hold."""
        self._move(Event.REFUSED)
        return (Reply(messages.auth_error(why)), close.AUTH_FAILED)

    def revoked(self) -> Sequence[Action]:
        """The token that held has been revoked since."""
        if self.state is State.CLOSED:
            return _NOTHING
        self._move(Event.REFUSED)
        return (Reply(messages.auth_error("the token has been revoked")), close.AUTH_REVOKED)

    def frame(self, now: float, limits: SessionLimits) -> Sequence[Action]:
        """A frame that is no whole message arrived: a fragment, a ping, a pong."""
        if self.state is State.CLOSED:
            return _NOTHING
        if self._rate.judge_frame(now, limits.messages_per_second, limits.message_burst):
            return _NOTHING
        return self._over_the_rate(Verdict.ABUSE)

    def binary(self, now: float, limits: SessionLimits, *, size: int = 0) -> Sequence[Action]:
        """A binary message of `size` bytes arrived."""
        if self.state is State.CLOSED:
            return _NOTHING
        verdict = self._rate.judge(now, limits.messages_per_second, limits.message_burst)
        charged = self._charge(size, now, limits)
        if verdict is not Verdict.PASS:
            return (*self._over_the_rate(verdict), *charged)
        why = "messages are JSON text"
        said = Reply(messages.error(messages.PROTOCOL_ERRORS, "UNSUPPORTED_DATA", why))
        return (said, *charged)

    def auth_deadline(self) -> Sequence[Action]:
        """auth_timeout has passed since the connection opened."""
        if self.state is not State.UNAUTHENTICATED:
            return _NOTHING
        self._move(Event.AUTH_DEADLINE)
        return (Reply(messages.auth_error("no token came in time")), close.AUTH_TIMEOUT)

    def expired(self) -> Sequence[Action]:
        """The token's exp plus leeway has passed."""
        self._move(Event.EXPIRED)
        return (Reply(messages.auth_error("the token has expired")), close.AUTH_EXPIRED)

    def ended(self) -> None:
        """The socket is closing: nothing more is heard."""
        self._move(Event.ENDED)

    def _move(self, event: Event) -> None:
        self.state = TRANSITIONS[self.state][event]


def _next_batch(text: str) -> NextBatch | None:
    """The message, if it is a next_batch; whatever else it may be costs no decoding."""
    if len(text) > _NEXT_BATCH_CHARS or "next_batch" not in text:
        return None
    try:
        message = messages.decode(text)
    except Unreadable:
        return None
    return message if isinstance(message, NextBatch) else None
