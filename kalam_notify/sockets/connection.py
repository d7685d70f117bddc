"""One WebSocket connection: an asyncio.Protocol over websockets' sans-I/O ServerProtocol.

No task, no timer and no closure per connection: bytes come in by `data_received`, time by the
wheel's `on_deadline`, changes by the fan-out's `offer`. Bytes become messages in the Inbound, as
long as the ReadingGate is open and TURN_WORK is not used up; what a message means is the session's
business (protocol/session.py); this shell carries it out.

Closing, whoever begins: the close frame is sent, reading goes on (a socket closed with unread
bytes would reset and could take the close frame with it) until the peer has answered or
CLOSE_TIMEOUT has passed. Whoever has not authenticated in time is not waited for.
"""

import asyncio
import logging
import time
from collections.abc import Iterable

from websockets.exceptions import InvalidState
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.protocol import State as WireState
from websockets.server import ServerProtocol

from kalam_notify.auth import KeyNotYetKnown
from kalam_notify.budget import Steps, Work
from kalam_notify.delivery.outbox import Outbox, OutboxSink
from kalam_notify.errors import AuthenticationFailed, KeysUnavailable, SubscriptionRefused
from kalam_notify.model import ConnectionId, Identity
from kalam_notify.protocol import close, messages
from kalam_notify.protocol.close import Close
from kalam_notify.protocol.messages import (
    Framing,
    NextBatch,
    SubscriptionRequest,
    Unsubscribe,
    text_frame,
)
from kalam_notify.protocol.session import (
    Action,
    IdentityChanged,
    Reply,
    Session,
    State,
    Throttle,
    Verify,
)
from kalam_notify.sockets.context import Shared
from kalam_notify.sockets.halves import UNAUTHENTICATED_BYTES
from kalam_notify.sockets.inbound import Binary, Heard, Inbound, Piece, ReadingGate, Reason, Text

CLOSE_TIMEOUT = 10.0
"""Seconds that a peer has to answer a close frame."""

PARTING = 0.5
"""Seconds that one has who never authenticated."""

TURN_WORK = 64 * 1024
"""Bytes of one connection that are heard before all others have had their turn: a millisecond or
two. A frame counts FRAME_WORK at least, a message MESSAGE_WORK."""
FRAME_WORK = 1024
MESSAGE_WORK = 1024

_CLOSING_TURN = 0.05
"""Seconds between two turns of a peer that goes on talking after the close frame."""

_PING = b"\x89\x00"
_log = logging.getLogger("kalam_notify.sockets")


class WebSocketConnection(OutboxSink, asyncio.Protocol):
    """A client's connection after the upgrade."""

    __slots__ = (
        "__weakref__",
        "_closing",
        "_deadline",
        "_gate",
        "_inbound",
        "_is_half",
        "_last_seen",
        "_protocol",
        "_session",
        "_shared",
        "_transport",
        "_work",
        "address",
        "connection_id",
        "deflates",
        "opened_at",
        "wheel_tick",
    )

    def __init__(self, shared: Shared, protocol: ServerProtocol, address: str) -> None:
        self.connection_id = ConnectionId(0)
        self.subscriptions = {}
        self.wheel_tick: int | None = None
        self.deflates: Framing = _compresses(protocol)
        self._shared = shared
        self._protocol = protocol
        # Counted in shared.by_address until the socket is closed.
        self.address = address
        # By the manager's clock, since when it is connected.
        self.opened_at = 0.0
        self._session = Session(anonymous_allowed=shared.config.auth.anonymous)
        self._inbound = Inbound(protocol, shared.websocket.max_message_bytes)
        # A request that is work of the budget; what came after it waits.
        self._work: Work[None] | None = None
        # Whether it stands in shared.half_received.
        self._is_half = False
        # Whether the closing handshake has begun.
        self._closing = False
        self._last_seen = shared.clock()
        # By when the present stage must be over: authentication, later the closing handshake.
        self._deadline = self._last_seen + shared.websocket.auth_timeout

    # What the manager and the fan-out see

    @property
    def identity(self) -> Identity:
        return self._session.identity

    def send(self, payload: bytes) -> None:
        """Send one message whatever the buffer holds; a client that does not read is not heard.

        Answers are bounded by what the client asks, so while they pile up beyond the buffer its
        questions wait in its own socket.
        """
        self.send_frames(text_frame(payload))

    def send_frames(self, frames: bytes) -> None:
        """Like `send`, for what is framed already."""
        self.outbox.say(frames)
        if self.outbox.is_over_limit:
            self._gate.hold(Reason.SEND_BUFFER)

    def flush(self) -> None:
        self.outbox.flush()
        if self.outbox.is_over_limit:
            self._gate.hold(Reason.SEND_BUFFER)

    def end(self, reason: Close) -> None:
        """Close with a close frame; nothing more is delivered or heard."""
        if self._protocol.state is not WireState.OPEN:
            return
        self._leave()
        self.flush()
        try:
            self._protocol.send_close(reason.code, reason.reason)
        except InvalidState:
            return
        self._write_out()
        self._set_closing()

    # asyncio.Protocol

    def open(
        self, transport: asyncio.Transport, response: bytes, identity: Identity | None, rest: bytes
    ) -> None:
        """Begin, with the 101: whose token came with the request, and the bytes behind it."""
        self._transport = transport
        self.outbox = Outbox(self, transport, self._shared.websocket.send_buffer_bytes)
        self._gate = ReadingGate(transport)
        self.outbox.start(self._last_seen)
        self._shared.open_sockets.add(self)
        self._shared.manager.connect(self)
        self.outbox.cork()
        self.outbox.say(response)
        if identity is None:
            self._bound_messages()
            self._shared.wheel.set(self, self._next_deadline(self._last_seen))
        else:
            self._verified(identity)
        self._uncork()
        if rest:
            self.data_received(rest)

    def data_received(self, data: bytes) -> None:
        self._last_seen = self._shared.clock()
        self._inbound.take(data)
        self._hear()

    def eof_received(self) -> bool:
        # Whatever it was paused for, nothing is heard when that is over.
        self._inbound.drop()
        self._protocol.receive_eof()
        self._leave()
        self._write_out()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.outbox.close()
        self._gate.shut()
        self._inbound.drop()
        self._leave()
        shared = self._shared
        shared.wheel.discard(self)
        shared.leave_address(self.address)
        if self._is_half:
            shared.half_received.note(self, 0)
        wire = self._protocol
        # The parser is a generator of the protocol that holds it, and so is a fault of it: the
        # only cycles there are.
        wire.parser.close()
        del wire.parser
        wire.parser_exc = None
        frame = wire.close_sent or wire.close_rcvd
        shared.socket_closed(self, 1006 if frame is None else int(frame.code))

    def abort(self) -> None:
        """Close the socket without another word."""
        self._transport.abort()

    def pause_writing(self) -> None:
        shared = self._shared
        now = shared.clock()
        self.outbox.blocked(now)
        if self._protocol.state is WireState.OPEN:
            shared.wheel.set(self, self._next_deadline(now))

    def resume_writing(self) -> None:
        self.outbox.drained()
        # Silence while bytes waited was not the client's choice.
        self._last_seen = self._shared.clock()
        self._go_on(Reason.SEND_BUFFER)
        self._shared.feeder.drained(self)

    # Frames in

    @property
    def is_admitted(self) -> bool:
        """Whether the client has authenticated, or need not."""
        is_known = not self._session.identity.is_anonymous
        return is_known or self._shared.config.auth.anonymous

    def _bound_messages(self) -> None:
        bound = self._shared.websocket.max_message_bytes
        self._inbound.limit = bound if self.is_admitted else min(bound, UNAUTHENTICATED_BYTES)

    def _hear(self) -> None:
        """Handle what has come, until it is through or there is a reason to stop."""
        self.outbox.cork()
        try:
            self._hear_a_turn()
        except Exception:
            _log.exception("connection %d failed", self.connection_id)
            self.end(close.INTERNAL_FAULT)
        self._uncork()
        if self._protocol.state is not WireState.OPEN:
            self._leave()
            self._set_closing()
        self._note_half()

    def _hear_a_turn(self) -> None:
        inbound, gate, left = self._inbound, self._gate, TURN_WORK
        while gate.is_open and (heard := inbound.next()) is not None:
            left -= self._handle(heard)
            if left <= 0 and inbound.unread:
                gate.hold(Reason.TURN)
                pause = _CLOSING_TURN if self._closing else 0.0
                self._shared.later(pause, self._next_turn)

    def _handle(self, heard: Heard) -> int:
        """Do what was asked; answers how much of the turn that was."""
        now, limits = self._last_seen, self._shared.websocket
        match heard:
            case Text(text, size):
                self._act(self._session.receive(text, now, limits, size=size, awaits=self._awaits))
                return max(size, MESSAGE_WORK)
            case Binary(size):
                self._act(self._session.binary(now, limits, size=size))
                return max(size, MESSAGE_WORK)
            case Piece(size):
                self._act(self._session.frame(now, limits))
                return max(size, FRAME_WORK)
            case Close():
                self.end(heard)
                return TURN_WORK

    def _awaits(self, request: NextBatch) -> bool:
        """Whether a page was sent that this answers: such a request is no chatter."""
        handle = self.subscriptions.get(request.subscription_id)
        return (
            handle is not None and handle.snapshot is not None and handle.snapshot.timer is not None
        )

    def _go_on(self, reason: Reason) -> None:
        """A reason not to listen is gone: hear what has come meanwhile, if it was the last."""
        if self._gate.release(reason):
            # The silence was not the client's choice.
            self._last_seen = self._shared.clock()
            if self._inbound.unread:
                self._hear()

    def _next_turn(self) -> None:
        self._go_on(Reason.TURN)

    def _throttle(self, seconds: float) -> None:
        if not self._closing:
            self._gate.hold(Reason.RATE)
            self._shared.later(seconds, self._paid)

    def _paid(self) -> None:
        self._go_on(Reason.RATE)

    def _note_half(self) -> None:
        """Tell of what has come in part; whoever holds most of too much must go."""
        held = self._inbound.held
        if not held and not self._is_half:
            return
        self._is_half = held > 0
        for holder in self._shared.half_received.note(self, held):
            holder.make_room()

    def make_room(self) -> None:
        """Too much has come in part, and most of it from here."""
        self._is_half = False
        self._inbound.drop()
        self.end(close.NO_ROOM)
        if not self.is_admitted:
            self._part()

    def _act(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Reply(payload=payload):
                    self.send(payload)
                case Verify(token=token):
                    self._verify(token)
                case Throttle(seconds=seconds):
                    self._throttle(seconds)
                case SubscriptionRequest():
                    self._undertake(self._subscribing(action))
                case NextBatch():
                    self._next_batch(action)
                case Unsubscribe(subscription_id=name):
                    self._shared.requests.unsubscribe(self, name)
                case IdentityChanged():
                    if self.subscriptions:
                        self._undertake(self._shared.requests.identity_changed(self))
                case Close():
                    self.end(action)

    def _subscribing(self, request: SubscriptionRequest) -> Steps[None]:
        try:
            yield from self._shared.requests.subscribe(self, request)
        except SubscriptionRefused as refusal:
            self.send(messages.error(request.id, refusal.code, refusal.message))

    # Requests that take their time

    def _undertake(self, steps: Steps[None]) -> None:
        """Have the budget do a request; what comes after it on this connection waits."""
        owner = self._session.identity.user_id or self.connection_id
        work = self._shared.budget.enter(steps, owner, self.connection_id, self._done)
        if not work.is_over:
            self._work = work
            self._gate.hold(Reason.REQUESTS)

    def _done(self, work: Work[None]) -> None:
        if work.error is not None:
            _log.error("connection %d failed", self.connection_id, exc_info=work.error)
            self.end(close.INTERNAL_FAULT)
        if self._work is work:
            self._work = None
            self._go_on(Reason.REQUESTS)

    def _next_batch(self, request: NextBatch) -> None:
        try:
            self._shared.requests.next_batch(self, request)
        except SubscriptionRefused as refusal:
            self.send(messages.error(request.subscription_id, refusal.code, refusal.message))

    # Tokens

    def _verify(self, token: str) -> None:
        try:
            identity = self._shared.verifier.verify(token)
        except KeyNotYetKnown:
            self._gate.hold(Reason.KEY)
            self._shared.spawn(self._verify_later(token))
        except AuthenticationFailed as refusal:
            self._act(self._session.refused(refusal.message))
        except KeysUnavailable:
            self.end(close.KEYS_UNAVAILABLE)
        else:
            self._verified(identity)

    def token_revoked(self) -> None:
        """The token that this connection was let in with holds no longer."""
        self._act(self._session.revoked())

    def _verified(self, identity: Identity) -> None:
        self._act(self._session.verified(identity))
        self._bound_messages()
        if self._session.state is State.AUTHENTICATED:
            shared = self._shared
            shared.wheel.set(self, self._next_deadline(shared.clock()))

    async def _verify_later(self, token: str) -> None:
        """Have the signing keys fetched anew, then take the verdict and hear what waited."""
        verdict: Identity | AuthenticationFailed | KeysUnavailable
        try:
            try:
                verdict = await self._shared.verifier.authenticate(token)
            except (AuthenticationFailed, KeysUnavailable) as failure:
                # Without its traceback, which holds this frame, which holds it.
                verdict = failure.with_traceback(None)
            self._take_verdict(verdict)
        except Exception:
            # This task is the server's: a fault of one connection must not end it.
            _log.exception("connection %d failed", self.connection_id)
            self.end(close.INTERNAL_FAULT)

    def _take_verdict(self, verdict: Identity | AuthenticationFailed | KeysUnavailable) -> None:
        if self._session.state is not State.CLOSED:
            self.outbox.cork()
            if isinstance(verdict, AuthenticationFailed):
                self._act(self._session.refused(verdict.message))
            elif isinstance(verdict, KeysUnavailable):
                self.end(close.KEYS_UNAVAILABLE)
            else:
                self._verified(verdict)
            self._uncork()
        self._go_on(Reason.KEY)

    # Time

    def on_deadline(self, now: float) -> float | None:
        """The wheel's call: what is due, and when the next thing will be."""
        if self._protocol.state is not WireState.OPEN:
            if now >= self._deadline:
                self._transport.abort()
                return None
            return self._deadline
        settings, session = self._shared.websocket, self._session
        if session.state is State.UNAUTHENTICATED and now >= self._deadline:
            if not self._gate.holds(Reason.KEY):
                self._shared.verifier.failures["timeout"] += 1
                self._act(session.auth_deadline())
                self._part()
        elif session.state is State.AUTHENTICATED and now >= self._expiry(now):
            self._act(session.expired())
        elif self.outbox.queued:
            if self.outbox.stalled_for(now) >= settings.slow_reader_timeout:
                self.end(close.SLOW_READER)
        elif not self._gate.is_open:
            self._last_seen = now  # it may be talking, and nobody listens
        elif now >= self._last_seen + settings.idle_timeout:
            self.end(close.HEARTBEAT_TIMEOUT)
        elif now >= self._last_seen + settings.ping_interval:
            self.outbox.push(_PING)
        return self._next_deadline(now)

    def _next_deadline(self, now: float) -> float:
        settings, session = self._shared.websocket, self._session
        if self._protocol.state is not WireState.OPEN:
            return self._deadline
        outbox = self.outbox
        if outbox.queued:
            # Looked at several times within the timeout, for only a look tells of progress.
            patience = settings.slow_reader_timeout
            soon = now + min(max(patience - outbox.stalled_for(now), 0.0), patience / 4)
        else:
            ping_due = self._last_seen + settings.ping_interval
            while ping_due <= now:
                ping_due += settings.ping_interval
            soon = min(ping_due, max(self._last_seen + settings.idle_timeout, now))
        if session.state is State.UNAUTHENTICATED:
            return min(soon, self._deadline)
        return min(soon, self._expiry(now))

    def _expiry(self, now: float) -> float:
        """The monotonic time at which the token is no longer honoured."""
        expires_at = self._session.identity.expires_at
        if expires_at is None:
            return float("inf")
        return now + (expires_at + self._shared.leeway - time.time())

    # Endings

    def _leave(self) -> None:
        """Out of every index: nothing more is delivered. Safe to repeat."""
        self._session.ended()
        if self._work is not None:
            self._work.cancel()
            self._work = None
        self._shared.requests.disconnect(self)

    def _set_closing(self) -> None:
        if self._closing:
            return
        self._closing = True
        now = self._shared.clock()
        if self.is_admitted:
            self._deadline = now + CLOSE_TIMEOUT
        else:
            # What is left of auth_timeout.
            self._deadline = max(min(self._deadline, now + CLOSE_TIMEOUT), now + PARTING)
        self._shared.wheel.set(self, self._deadline)
        self._listen_for_the_answer()

    def _listen_for_the_answer(self) -> None:
        """Whatever there was against reading, the peer's close frame is to be heard."""
        if self._gate.release_all():
            self._shared.later(0.0, self._hear)

    def _part(self) -> None:
        """Close the socket as soon as what is said has left, in a moment at the latest."""
        self._transport.close()
        self._deadline = self._shared.clock() + PARTING

    def _uncork(self) -> None:
        self.outbox.uncork()
        self._write_out()
        if self.outbox.is_over_limit:
            self._gate.hold(Reason.SEND_BUFFER)

    def _write_out(self) -> None:
        """Hand what the wire protocol has to say to the transport."""
        if self._transport.is_closing():
            return  # the peer is gone, and connection_lost is on its way
        written = self._protocol.data_to_send()
        if written:
            self._write_wire(written)

    def _write_wire(self, written: list[bytes]) -> None:
        said = b"".join(written)
        if said:
            self.outbox.push(said)
        if not written[-1]:
            # The wire has nothing more to say.
            if self._transport.can_write_eof():
                self._transport.write_eof()
            else:
                self._transport.close()


def _compresses(protocol: ServerProtocol) -> bool:
    """Whether what we compress can be read: with a full window and no memory of messages before."""
    for extension in protocol.extensions:
        if isinstance(extension, PerMessageDeflate):
            return extension.local_no_context_takeover and extension.local_max_window_bits == 15
    return False
