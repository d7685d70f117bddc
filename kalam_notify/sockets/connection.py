"""One WebSocket connection: an asyncio.Protocol over websockets' sans-I/O ServerProtocol.

No task, no timer and no closure per connection: bytes come in by `data_received`, time by the
wheel's `on_deadline`, changes by the fan-out's `offer`. What a message means is the session's
business (protocol/session.py); this shell carries it out.

Closing, whoever begins: the close frame is sent, reading goes on (a socket closed with unread
bytes would reset and could take the close frame with it) until the peer has answered or
CLOSE_TIMEOUT has passed.
"""

import asyncio
import logging
import time
from collections.abc import Iterable

from websockets.exceptions import InvalidState
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import State as WireState
from websockets.server import ServerProtocol

from kalam_notify.auth import KeyNotYetKnown
from kalam_notify.delivery.outbox import Outbox
from kalam_notify.errors import AuthenticationFailed, SubscriptionRefused
from kalam_notify.model import ConnectionId, Identity
from kalam_notify.protocol import close, messages
from kalam_notify.protocol.close import Close
from kalam_notify.protocol.frames import text_frame
from kalam_notify.protocol.messages import NextBatch, SubscriptionRequest, Unsubscribe
from kalam_notify.protocol.session import Action, IdentityChanged, Reply, Session, State, Verify
from kalam_notify.sockets.context import Shared
from kalam_notify.subscriptions.handle import SubscriptionHandle

CLOSE_TIMEOUT = 10.0
"""Seconds that a peer has to answer a close frame."""

_PING = b"\x89\x00"
_log = logging.getLogger("kalam_notify.sockets")


class WebSocketConnection(asyncio.Protocol):
    """A client's connection after the upgrade."""

    __slots__ = (
        "__weakref__",
        "_address",
        "_backlog",
        "_closing",
        "_corked",
        "_deadline",
        "_fragments",
        "_is_binary",
        "_last_seen",
        "_protocol",
        "_session",
        "_shared",
        "_transport",
        "connection_id",
        "deflates",
        "outbox",
        "subscriptions",
        "wheel_tick",
    )

    def __init__(self, shared: Shared, protocol: ServerProtocol, address: str | None) -> None:
        self.connection_id = ConnectionId(0)
        self.subscriptions: dict[str, SubscriptionHandle] = {}
        self.wheel_tick: int | None = None
        self.deflates = _compresses(protocol)
        self._shared = shared
        self._protocol = protocol
        # Counted in shared.by_address; None while there is no limit per address.
        self._address = address
        self._session = Session(anonymous_allowed=shared.config.auth.anonymous)
        # The parts of a fragmented message so far.
        self._fragments: bytearray | None = None
        self._is_binary = False
        # Frames that wait until a signing key has been fetched; None: nothing is awaited.
        self._backlog: list[Frame] | None = None
        # Whether the closing handshake has begun.
        self._closing = False
        # While True, messages of ours are held until flush.
        self._corked = False
        self._last_seen = shared.clock()
        # By when the present stage must be over: authentication, later the closing handshake.
        self._deadline = self._last_seen + shared.websocket.auth_timeout

    # What the manager and the fan-out see

    @property
    def identity(self) -> Identity:
        return self._session.identity

    @property
    def direct_fd(self) -> int:
        return self.outbox.direct_fd

    @property
    def has_room(self) -> bool:
        return self.outbox.has_room

    @property
    def waiting(self) -> int:
        return self.outbox.waiting

    def offer(self, frames: bytes) -> bool:
        return self.outbox.offer(frames)

    def hold(self, frames: bytes) -> bool:
        return self.outbox.hold(frames)

    def take_held(self) -> tuple[int, bytes]:
        return self.outbox.take_held()

    def complete(self, frames: bytes, sent: int) -> None:
        self.outbox.complete(frames, sent)

    def send(self, payload: bytes) -> None:
        """Send one message whatever the buffer holds; a client that does not read is not heard.

        Answers are bounded by what the client asks, so while they pile up beyond the buffer its
        questions wait in its own socket.
        """
        self.send_frames(text_frame(payload))

    def send_frames(self, frames: bytes) -> None:
        """Like `send`, for what is framed already."""
        self.outbox.defer(frames)
        if not self._corked:
            self.flush()

    def flush(self) -> None:
        self.outbox.flush()
        if self.outbox.is_over_limit and not self._transport.is_closing():
            self._transport.pause_reading()

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

    def open(self, transport: asyncio.Transport, token: str | None, rest: bytes) -> None:
        """Begin, right after the 101: `token` from the Authorization header, `rest` behind it."""
        shared = self._shared
        self._transport = transport
        self.outbox = Outbox(self, transport, shared.websocket.send_buffer_bytes)
        self.outbox.start(self._last_seen)
        self._shared.open_sockets.add(self)
        self._shared.manager.connect(self)
        self._shared.wheel.set(self, self._next_deadline(self._last_seen))
        if token is not None:
            self._corked = True
            self._act((Verify(token),))
            self._uncork()
        if rest:
            self.data_received(rest)

    def data_received(self, data: bytes) -> None:
        self._last_seen = self._shared.clock()
        self._protocol.receive_data(data)
        self._corked = True
        try:
            for event in self._protocol.events_received():
                if isinstance(event, Frame):
                    self._receive(event)
        except Exception:
            _log.exception("connection %d failed", self.connection_id)
            self.end(close.INTERNAL_FAULT)
        self._uncork()
        if self._protocol.state is not WireState.OPEN:
            self._leave()
            self._set_closing()

    def eof_received(self) -> bool:
        self._protocol.receive_eof()
        self._leave()
        self._write_out()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.outbox.close()
        self._leave()
        shared = self._shared
        shared.wheel.discard(self)
        if self._address is not None:
            _release(shared, self._address)
            self._address = None
        wire = self._protocol
        # The parser is a generator of the protocol that holds it: the one cycle there is.
        wire.parser.close()
        del wire.parser
        frame = wire.close_sent or wire.close_rcvd
        shared.socket_closed(self, 1006 if frame is None else int(frame.code))

    def abort(self) -> None:
        """Close the socket without another word."""
        self._transport.abort()

    def direct_fd_moved(self) -> None:
        for handle in self.subscriptions.values():
            handle.direct_fd_moved()

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
        if self._protocol.state is WireState.OPEN:
            self._transport.resume_reading()
        self._shared.feeder.drained(self)

    # Frames in

    def _receive(self, frame: Frame) -> None:
        if self._backlog is not None:
            self._backlog.append(frame)
            return
        opcode = frame.opcode
        if opcode is Opcode.TEXT and frame.fin:
            self._receive_text(frame.data)
            return
        shared = self._shared
        if opcode is Opcode.BINARY or opcode is Opcode.TEXT or opcode is Opcode.CONT:
            self._assemble(frame)
        if opcode is Opcode.PING or not frame.fin:
            self._act(self._session.frame(self._last_seen, shared.websocket))

    def _assemble(self, frame: Frame) -> None:
        if self._fragments is None:
            self._fragments = bytearray()
            self._is_binary = frame.opcode is Opcode.BINARY
        self._fragments += frame.data
        if frame.fin:
            message, self._fragments = self._fragments, None
            if self._is_binary:
                shared = self._shared
                self._act(self._session.binary(self._last_seen, shared.websocket))
            else:
                self._receive_text(message)

    def _receive_text(self, data: bytes | bytearray | memoryview) -> None:
        try:
            text = str(data, "utf-8")
        except UnicodeDecodeError:
            self.end(close.INVALID_UTF8)
            return
        shared = self._shared
        self._act(self._session.receive(text, self._last_seen, shared.websocket))

    def _act(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Reply(payload=payload):
                    self.send(payload)
                case Verify(token=token):
                    self._verify(token)
                case SubscriptionRequest():
                    self._subscribe(action)
                case NextBatch():
                    self._next_batch(action)
                case Unsubscribe(subscription_id=name):
                    self._shared.requests.unsubscribe(self, name)
                case IdentityChanged():
                    self._shared.requests.identity_changed(self)
                case Close():
                    self.end(action)

    def _subscribe(self, request: SubscriptionRequest) -> None:
        try:
            self._shared.requests.subscribe(self, request)
        except SubscriptionRefused as refusal:
            self.send(messages.error(request.id, refusal.code, refusal.message))

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
            self._backlog = []
            self._transport.pause_reading()
            self._shared.spawn(self._verify_later(token))
        except AuthenticationFailed as refusal:
            self._act(self._session.refused(refusal.message))
        else:
            self._verified(identity)

    def _verified(self, identity: Identity) -> None:
        self._act(self._session.verified(identity))
        if self._session.state is State.AUTHENTICATED:
            shared = self._shared
            shared.wheel.set(self, self._next_deadline(shared.clock()))

    async def _verify_later(self, token: str) -> None:
        """Fetch the signing keys anew, then judge the token for good and hear what waited."""
        try:
            await self._shared.verifier.refresh()
            self._judge_again(token)
        except Exception:
            # This task is the server's: a fault of one connection must not end it.
            _log.exception("connection %d failed", self.connection_id)
            self.end(close.INTERNAL_FAULT)

    def _judge_again(self, token: str) -> None:
        backlog, self._backlog = self._backlog or [], None
        if self._session.state is State.CLOSED:
            return
        self._corked = True
        try:
            identity = self._shared.verifier.verify(token)
        except AuthenticationFailed as refusal:
            self._act(self._session.refused(refusal.message))
        else:
            self._verified(identity)
            for frame in backlog:
                self._receive(frame)
        self._uncork()
        self._transport.resume_reading()

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
            if self._backlog is None:
                self._act(session.auth_deadline())
        elif session.state is State.AUTHENTICATED and now >= self._expiry(now):
            self._act(session.expired())
        elif self.outbox.queued:
            if self.outbox.stalled_for(now) >= settings.slow_reader_timeout:
                self.end(close.SLOW_READER)
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
        self._shared.requests.disconnect(self)

    def _set_closing(self) -> None:
        if self._closing:
            return
        self._closing = True
        self._deadline = self._shared.clock() + CLOSE_TIMEOUT
        self._shared.wheel.set(self, self._deadline)

    def _uncork(self) -> None:
        self._corked = False
        self.flush()
        self._write_out()

    def _write_out(self) -> None:
        """Hand what the wire protocol has to say to the transport."""
        if self._transport.is_closing():
            return  # the peer is gone, and connection_lost is on its way
        for data in self._protocol.data_to_send():
            if data:
                self.outbox.push(data)
            elif self._transport.can_write_eof():
                self._transport.write_eof()
            else:
                self._transport.close()


def _compresses(protocol: ServerProtocol) -> bool:
    """Whether what we compress can be read: with a full window and no memory of messages before."""
    for extension in protocol.extensions:
        if isinstance(extension, PerMessageDeflate):
            return extension.local_no_context_takeover and extension.local_max_window_bits == 15
    return False


def _release(shared: Shared, address: str) -> None:
    shared.by_address[address] -= 1
    if not shared.by_address[address]:
        del shared.by_address[address]
