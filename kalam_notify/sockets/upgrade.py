"""From an HTTP request to a WebSocket: uvicorn's protocol, with the upgrade in our hands.

uvicorn hands an upgraded connection to a class by writing the request out again and having it
parsed a second time; here the parsed request goes straight to websockets' `accept`, bytes that
came right behind it are kept, and everything that may refuse it is asked before the 101.
"""

import logging
import sys
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

import httptools
import orjson
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from websockets.datastructures import Headers
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.http11 import Request
from websockets.protocol import State as WireState
from websockets.server import ServerProtocol

from kalam_notify.auth import KeyNotYetKnown
from kalam_notify.budget import Steps, Work
from kalam_notify.errors import AuthenticationFailed, KeysUnavailable, SubscriptionRefused
from kalam_notify.http.answers import error_answer
from kalam_notify.model import ANONYMOUS, Identity
from kalam_notify.protocol import close, messages
from kalam_notify.protocol.events import Events
from kalam_notify.protocol.messages import SubscriptionRequest
from kalam_notify.sockets.asked import STATUS, STREAM_PATH, asked, cors_headers, takes_gzip
from kalam_notify.sockets.connection import WebSocketConnection
from kalam_notify.sockets.context import Shared
from kalam_notify.sockets.offer import NOT_SPOKEN, Offer
from kalam_notify.sockets.stream import Answer, EventStream, refusal_of
from kalam_notify.sockets.wire_log import WIRE_LOG

PATH = "/v1/ws"
ORIGIN_REFUSED = "this origin is not allowed"
MAX_HEAD_BYTES = 64 * 1024
"""A request's line and headers may be this long, give or take what came in one read."""

# No window outlives a message, in either direction: compression costs an idle connection nothing.
_DEFLATE = ServerPerMessageDeflateFactory(
    server_no_context_takeover=True, client_no_context_takeover=True
)
_log = logging.getLogger("kalam_notify.sockets")
_RawHeaders = Iterable[tuple[bytes, bytes]]


class _Refusal(Exception):
    """An upgrade that is answered with an HTTP status."""

    def __init__(self, status: int, code: str, message: str, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.retry_after = retry_after


# Browsers tell a page nothing of a refused handshake: it may ask here what was refused.
_FOR_PAGES = {"Access-Control-Allow-Origin": "*"}


def upgrade_required(
    admits_origin: Callable[[str | None], bool],
) -> Callable[[HttpRequest], Awaitable[Response]]:
    """The answer to a plain GET where a WebSocket was meant."""

    async def answer(request: HttpRequest) -> Response:
        origin = request.headers.get("origin")
        if origin is not None and not admits_origin(origin):
            return error_answer(403, ORIGIN_REFUSED, headers=_FOR_PAGES)
        return error_answer(
            426,
            "this is a WebSocket: connect with a WebSocket client",
            code="UPGRADE_REQUIRED",
            headers={"Upgrade": "websocket", "Connection": "Upgrade", **_FOR_PAGES},
        )

    return answer


class StreamRequest(NamedTuple):
    """A GET for a stream of events."""

    query: str
    headers: Headers

    @property
    def token(self) -> str | None:
        return Offer.of(self.headers).token

    @property
    def subscription(self) -> SubscriptionRequest:
        """What is asked for; raises SubscriptionRefused."""
        return asked(self.query, self.headers.get("last-event-id"))

    @property
    def framing(self) -> Events:
        return Events.GZIP if takes_gzip(self.headers.get_all("accept-encoding")) else Events.PLAIN

    @property
    def cors(self) -> bytes:
        """What lets a page of an origin that is admitted read the answer."""
        return b"".join(
            b"%b: %b\r\n" % (name.encode("latin-1"), value.encode("latin-1"))
            for name, value in cors_headers(self.headers.get("origin")).items()
        )


class HttpProtocol(HttpToolsProtocol):
    """One HTTP connection; becomes a WebSocketConnection where it asks for that.

    A connection whose request has not come whole within handshake_timeout is closed.
    """

    # Set on a subclass per listener, because uvicorn's constructor is not ours.
    shared: Shared
    serves_websocket: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Whether the request asks for a WebSocket; None: its head has not come whole.
        self._is_websocket: bool | None = None
        # Bytes of a request's head so far; None while no head is being read. And those that came in
        # one read with it, of which some belong to the request before.
        self._head_bytes: int | None = 0
        self._behind_bytes = 0
        # Whether the present read has ended a request.
        self._has_ended = False
        # Whether it stands in shared.half_received.
        self._is_half = False
        self.wheel_tick: int | None = None
        # What came behind a request that waits: for its turn, its token's key, or the answers to
        # those before it. None: none does.
        self._rest: bytes | None = None
        # Whose connection it is, once it is no plain request's any more.
        self._address = ""
        # What the request leads to, while those answers are still to be written.
        self._after_answers: Callable[[bytes], None] | None = None
        # What the request leads to, while that waits for its turn.
        self._work: Work[None] | None = None
        # Bytes that are left of the body of a request whose upgrade is ignored.
        self._body_left = 0
        # The request for a stream of events that was read; nothing behind it is heard.
        self._wanted: StreamRequest | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if self.shared.descriptors.admits(transport.get_extra_info("socket").fileno()):
            self._expect_request()
        else:
            self._refuse(_Refusal(503, "OVERLOADED", "the server has no descriptors left"))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._work is not None:
            self._work.cancel()
        self.shared.wheel.discard(self)
        self._is_whole()
        super().connection_lost(exc)

    def on_deadline(self, now: float) -> float | None:
        """The wheel's call: the request's head did not come in time."""
        self.transport.close()
        return None

    def _expect_request(self) -> None:
        shared = self.shared
        shared.wheel.set(self, shared.clock() + shared.websocket.handshake_timeout)

    def on_message_begin(self) -> None:
        if self._wanted is not None:
            return
        super().on_message_begin()
        self._head_bytes = self._behind_bytes = 0
        self._is_websocket = None

    def on_headers_complete(self) -> None:
        if self._wanted is not None:
            return
        self._head_bytes = None
        if self.wheel_tick is not None:
            self.shared.wheel.discard(self)
        self._is_whole()
        if self.serves_websocket and self.parser.get_method() == b"GET":
            path, _, query = self.url.partition(b"?")
            if path == STREAM_PATH.encode():
                self._wanted = StreamRequest(query.decode("latin-1"), _decoded(self.headers))
                return
        super().on_headers_complete()

    def _should_upgrade(self) -> bool:
        """Asked by uvicorn and here, four times a handshake, and looked for in the headers once."""
        if self._is_websocket is None:
            self._is_websocket = bool(super()._should_upgrade())
        return self._is_websocket

    def on_body(self, body: bytes) -> None:
        if self._wanted is None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._has_ended = True
        # Where an upgrade is ignored, the parser knows nothing of the body: see _ignore_upgrade.
        is_ignored = self.parser.should_upgrade() and not self._should_upgrade()
        if self._wanted is None and not is_ignored:
            super().on_message_complete()

    @property
    def is_admitted(self) -> bool:
        """Nobody knows yet whose request it is."""
        return False

    def make_room(self) -> None:
        """Too much has come in part, and most of it from here."""
        self._is_half = False
        self.transport.abort()

    def _holds(self, size: int) -> None:
        """So many bytes have come that are no whole request yet, or wait behind one."""
        self._is_half = True
        for holder in self.shared.half_received.note(self, size):
            holder.make_room()

    def _is_whole(self) -> None:
        if self._is_half:
            self._is_half = False
            self.shared.half_received.note(self, 0)

    def data_received(self, data: bytes) -> None:
        if self._rest is not None:
            # What TLS had read before reading was paused; or uvicorn has resumed it for a request
            # before this one.
            self._rest += data
            self._holds(len(self._rest))
            self.transport.pause_reading()
            return
        if self._body_left:
            self._take_body(data)
            return
        self._unset_keepalive_if_required()
        self._has_ended = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            if self._wanted is not None:
                self._begin_in_turn(self._stream)
                return
            self._refuse(_Refusal(400, "INVALID_REQUEST", "this is not HTTP"))
            return
        except httptools.HttpParserUpgrade as upgrade:
            end = upgrade.args[0]
        else:
            if self._wanted is not None:
                self._begin_in_turn(self._stream)
            elif self._head_bytes is not None:
                self._bound_head(len(data))
            return
        # Not in the handler above: a fault that is met on the way, and kept, would keep this one
        # as its context, and with it `data`.
        # An upgrade to anything else is ignored, and the request answered as HTTP/1.1.
        if self._wanted is not None:
            self._begin_in_turn(self._stream)
        elif self._should_upgrade():
            self._begin_in_turn(self._upgrade, data[end:])
        else:
            self._ignore_upgrade(data[end:])

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Go on with a request that offers another protocol, such as Java's clients do with HTTP/2.

        Its parser has stopped at the end of the head and takes what follows for that protocol; but
        it is the body, and then the next request.
        """
        headers = _decoded(self.headers)
        length = headers.get("content-length", "0")
        if "transfer-encoding" in headers or not length.isdecimal():
            self._refuse(_Refusal(400, "INVALID_REQUEST", "an upgrade with a body in chunks"))
            return
        self.parser = httptools.HttpRequestParser(self)
        self._body_left = int(length)
        self._take_body(rest)

    def _take_body(self, data: bytes) -> None:
        body, rest = data[: self._body_left], data[self._body_left :]
        self._body_left -= len(body)
        if body:
            super().on_body(body)
        if not self._body_left:
            super().on_message_complete()
            if rest:
                self.data_received(rest)

    def _bound_head(self, size: int) -> None:
        """Part of a head has come, in a read of `size` bytes."""
        assert self._head_bytes is not None
        if self._has_ended:
            # How much of it is the head's nobody knows; the next read tells.
            self._behind_bytes = size
        else:
            self._head_bytes += size
        if self.wheel_tick is None:
            self._expect_request()
        self._holds(self._head_bytes + self._behind_bytes)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(_Refusal(431, "TOO_LARGE", "the request's head is too large"))

    @property
    def _is_answering(self) -> bool:
        """Whether requests before the present one are still to be answered."""
        return bool(self.pipeline) or not (self.cycle is None or self.cycle.response_complete)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        begin = self._after_answers
        if begin is not None and not self._is_answering and not self.transport.is_closing():
            self._after_answers = None
            self._unset_keepalive_if_required()
            self._begin_in_turn(begin, self._end_wait())

    def _begin_in_turn(self, begin: Callable[[bytes], None], rest: bytes = b"") -> None:
        """Begin what was asked for as work of the budget, with what came behind the request.

        When thousands come back at once, others go between. The answers to the requests before it
        would end up in the middle of the frames, so they are waited for.
        """
        if self._is_answering:
            self._after_answers = begin
            self._wait(rest)
            return
        self.connections.discard(self)
        # One string for all from there.
        self._address = sys.intern(self._client_address())
        owner = ("handshakes", self._address)
        work = self.shared.budget.enter(self._beginning(begin, rest), owner, None, self._begun)
        if not work.is_over:
            self._work = work
            self._wait(rest)

    def _client_address(self) -> str:
        """Whose connection it is, as far as the proxies in front are believed."""
        peer = self.client[0] if self.client else ""
        if self._wanted is not None:
            # The headers of requests behind it have been read as well.
            forwarded = self._wanted.headers.get_all("x-forwarded-for")
        else:
            named = (value for name, value in self.headers if name == b"x-forwarded-for")
            forwarded = [value.decode("latin-1") for value in named]
        return self.shared.proxies.client(peer, forwarded)

    def _beginning(self, begin: Callable[[bytes], None], rest: bytes) -> Steps[None]:
        if self._work is not None:
            self._work = None
            rest = self._end_wait()
        if not self.transport.is_closing():
            begin(rest)
        yield from ()

    def _begun(self, work: Work[None]) -> None:
        if work.error is not None:
            _log.error("a handshake failed", exc_info=work.error)
            self.transport.abort()

    def _wait(self, rest: bytes) -> None:
        """Hear nothing more for a while."""
        self._rest = rest
        self._holds(len(rest))
        self.transport.pause_reading()

    def _end_wait(self) -> bytes:
        """Go on; answers what came behind the request."""
        rest, self._rest = self._rest or b"", None
        self._is_whole()
        if not self.transport.is_closing():
            self.transport.resume_reading()
        return rest

    def _stream(self, _: bytes) -> None:
        """A stream of events was asked for: see whose it is, and begin it."""
        request = self._wanted
        assert request is not None
        try:
            self._admit_one(request.headers)
            token = request.token
            identity = ANONYMOUS if token is None else self.shared.verifier.verify(token)
        except KeyNotYetKnown:
            self._wait(b"")
            self.shared.spawn(self._stream_later(request))
        except (_Refusal, AuthenticationFailed, KeysUnavailable) as refusal:
            self._refuse(_as_refusal(refusal), request.cors)
        else:
            self._begin_stream(request, identity)

    async def _stream_later(self, request: StreamRequest) -> None:
        """The token's key has to be fetched first."""
        identity, failure = ANONYMOUS, None
        try:
            identity = await self.shared.verifier.authenticate(request.token or "")
            # It may have taken a while.
            self._admit_one(request.headers)
        except Exception as fault:
            # This task is the server's: a fault of one connection must not end it.
            failure = _as_refusal(fault)
        self._end_wait()
        if self.transport.is_closing():
            return
        if failure is None:
            self._begin_stream(request, identity)
        else:
            self._refuse(failure, request.cors)

    def _begin_stream(self, request: StreamRequest, identity: Identity) -> None:
        headers = self._default_headers() + request.cors
        try:
            wanted = request.subscription
            if identity.is_anonymous and not self.shared.config.auth.anonymous:
                raise SubscriptionRefused("AUTH_REQUIRED", "this wants a token")
            address = self._count_address()
        except SubscriptionRefused as refusal:
            status = STATUS.get(refusal.code, 400)
            self.transport.write(refusal_of(headers, status, refusal.code, refusal.message))
            self.transport.close()
            return
        except _Refusal as refusal:
            self._refuse(refusal, request.cors)
            return
        stream = EventStream(self.shared, Answer(address, request.framing, headers), identity)
        transport = self.transport
        self.parser = None  # type: ignore[assignment]  # as uvicorn does when a connection ends
        transport.set_protocol(stream)
        stream.open(transport, wanted)

    def _default_headers(self) -> bytes:
        headers = self.server_state.default_headers
        return b"".join(b"%b: %b\r\n" % (name, value) for name, value in headers)

    def _upgrade(self, rest: bytes) -> None:
        headers = _decoded(self.headers)
        offer = Offer.of(headers)
        try:
            self._admit(headers)
            identity = None if offer.token is None else self.shared.verifier.verify(offer.token)
        except KeyNotYetKnown:
            self._wait(rest)
            self.shared.spawn(self._upgrade_later(headers, offer))
        except (_Refusal, AuthenticationFailed, KeysUnavailable) as refusal:
            self._refuse(_as_refusal(refusal))
        else:
            self._switch(headers, offer, identity, rest)

    async def _upgrade_later(self, headers: Headers, offer: Offer) -> None:
        """The token's key has to be fetched first; the client waits for its answer meanwhile."""
        identity: Identity | None = None
        failure: _Refusal | None = None
        try:
            identity = await self.shared.verifier.authenticate(offer.token or "")
        except Exception as fault:
            # This task is the server's: a fault of one connection must not end it.
            failure = _as_refusal(fault)
        rest = self._end_wait()
        if self.transport.is_closing():
            return
        try:
            if failure is not None:
                raise failure
            # What could be let in then may find the server full now.
            self._admit(headers)
        except _Refusal as refusal:
            self._refuse(refusal)
        else:
            self._switch(headers, offer, identity, rest)

    def _switch(
        self, headers: Headers, offer: Offer, identity: Identity | None, rest: bytes
    ) -> None:
        """Answer 101, and be a WebSocket from here on."""
        try:
            connection, response = self._accept(headers, offer)
        except _Refusal as refusal:
            self._refuse(refusal)
            return
        # The parser and this protocol hold each other.
        transport = self.transport
        self.parser = None  # type: ignore[assignment]  # as uvicorn does when a connection ends
        transport.set_protocol(connection)
        if offer.is_spoken:
            connection.open(transport, response, identity, rest)
            return
        # A browser shows its page nothing of a refused handshake, but a close that has a reason.
        connection.open(transport, response, None, b"")
        connection.send(messages.error(messages.PROTOCOL_ERRORS, "UNSUPPORTED", NOT_SPOKEN))
        connection.end(close.SUBPROTOCOL)

    def _admit(self, headers: Headers) -> None:
        if not self.serves_websocket or self.url.partition(b"?")[0] != PATH.encode():
            raise _Refusal(404, "NOT_FOUND", "no WebSocket here; it is at /v1/ws")
        self._admit_one(headers)

    def _admit_one(self, headers: Headers) -> None:
        shared = self.shared
        if not shared.admits_origin(headers.get("origin")):
            raise _Refusal(403, "FORBIDDEN", ORIGIN_REFUSED)
        if shared.is_draining:
            raise _Refusal(503, "OVERLOADED", "the server is shutting down")
        if len(shared.open_sockets) >= shared.websocket.max_connections:
            raise _Refusal(503, "OVERLOADED", "the server has all the connections it may have")

    def _accept(self, headers: Headers, offer: Offer) -> tuple[WebSocketConnection, bytes]:
        shared = self.shared
        protocol = ServerProtocol(
            state=WireState.OPEN,
            extensions=[_DEFLATE],
            max_size=shared.websocket.max_message_bytes,
            select_subprotocol=lambda _, offered: offer.answer,
            logger=WIRE_LOG,
        )
        # Of no use to us, and there may be 25,000 of them.
        protocol.id = None  # type: ignore[assignment]
        self._require_get()
        response = protocol.accept(Request(self.url.decode("latin-1"), headers))
        if response.status_code != 101:
            body = response.body.decode() if response.body else ""
            raise _Refusal(response.status_code, "INVALID_REQUEST", body.strip())
        address = self._count_address()
        connection = WebSocketConnection(shared, protocol, address)
        return connection, response.serialize()

    def _require_get(self) -> None:
        """The request line, which websockets looks at from its release 17 on only."""
        method, version = self.scope["method"], self.scope["http_version"]
        if method != "GET":
            raise _Refusal(405, "METHOD_NOT_ALLOWED", f"{method} /v1/ws: only GET")
        if version != "1.1":
            raise _Refusal(505, "INVALID_REQUEST", "a WebSocket begins with HTTP/1.1")

    def _count_address(self) -> str:
        shared, address = self.shared, self._address
        if shared.is_full_for(address):
            raise _Refusal(429, "RATE_LIMITED", "too many connections from this address")
        shared.by_address[address] += 1
        return address

    def _refuse(self, refusal: _Refusal, headers: bytes = b"") -> None:
        body = orjson.dumps({"error": {"code": refusal.code, "message": refusal.message}})
        lines = [b"content-type: application/json", b"content-length: %d" % len(body)]
        if refusal.status in (429, 503):
            lines.append(b"retry-after: %d" % refusal.retry_after)
        if refusal.status == 401:
            lines.append(b"www-authenticate: Bearer")
        if refusal.status == 426:
            lines.append(b"upgrade: websocket")
        lines.append(b"connection: close")
        head = STATUS_LINE[refusal.status] + headers + b"\r\n".join(lines)
        self.transport.write(head + b"\r\n\r\n" + body)
        self.transport.close()


def _decoded(raw: _RawHeaders) -> Headers:
    return Headers([(name.decode("latin-1"), value.decode("latin-1")) for name, value in raw])


def _as_refusal(fault: Exception) -> _Refusal:
    match fault:
        case _Refusal():
            return fault
        case AuthenticationFailed():
            return _Refusal(401, "UNAUTHORIZED", fault.message)
        case KeysUnavailable():
            return _Refusal(503, "OVERLOADED", str(fault), retry_after=fault.retry_after)
    _log.error("an upgrade failed", exc_info=fault)
    return _Refusal(500, "INTERNAL", "the server failed on this request")
