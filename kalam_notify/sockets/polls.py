"""GET /v1/poll: a subscription in requests of one answer each, where nothing may stay open.

    without `from`   the snapshot, page after page as the client takes them, and its position
    from=S           what has changed since S: at once where there is something, else as soon as
                     there is, else nothing after `wait` seconds

Every answer has a `position`, which is the next request's `from`. A poll is a connection like any
other to the manager, the fan-out and the feeder, for as long as its request lasts; it keeps the
messages as events (protocol/events.py), each with its position, and tells them as a JSON array. The
position, and what is looked at, is the ETag: whoever has this answer is told 304 while there is no
other.
"""

import asyncio
import re
from collections.abc import Callable, Iterator
from hashlib import blake2b

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from kalam_notify.auth import bearer_token
from kalam_notify.errors import AuthenticationFailed, KeysUnavailable, SubscriptionRefused
from kalam_notify.http.answers import error_answer, fault_answer
from kalam_notify.model import ANONYMOUS, Identity
from kalam_notify.protocol import close, messages
from kalam_notify.sockets.asked import (
    POLL_PATH,
    PREFLIGHT,
    STATUS,
    STREAM_PATH,
    asked,
    cors_headers,
)
from kalam_notify.sockets.context import Shared
from kalam_notify.sockets.poll import Poll
from kalam_notify.subscriptions.plans import Plan, SubscriptionHandle, SubscriptionState

LONGEST_WAIT = 25.0
"""Seconds that a request waits for a change; less than most proxies wait for an answer."""

_ALLOW = {"Allow": "GET, OPTIONS"}


class PollEndpoint:
    """The ASGI application behind GET /v1/poll.

    `position` and `is_idle` are the fan-out's: how far it has come, and whether nothing is under
    way.
    """

    def __init__(
        self, shared: Shared, position: Callable[[], int], is_idle: Callable[[], bool]
    ) -> None:
        self._shared = shared
        self._position = position
        self._is_idle = is_idle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if scope["method"] != "GET":
            await _not_get(scope, origin)(scope, receive, send)
            return
        try:
            identity = await self._identity(headers)
            await self._poll(scope, receive, send, headers, identity)
        except SubscriptionRefused as refusal:
            status = STATUS.get(refusal.code, 400)
            response = error_answer(status, refusal.message, code=refusal.code)
        except (AuthenticationFailed, KeysUnavailable) as fault:
            response = fault_answer(fault)
        except _Refused as refused:
            response = refused.response
        else:
            return
        response.headers.update(cors_headers(origin))
        await response(scope, receive, send)

    async def _identity(self, headers: Headers) -> Identity:
        shared = self._shared
        if not shared.admits_origin(headers.get("origin")):
            raise _Refused(error_answer(403, "this origin is not allowed"))
        if shared.is_draining:
            raise _Refused(_overloaded("the server is shutting down"))
        if len(shared.open_sockets) >= shared.websocket.max_connections:
            raise _Refused(_overloaded("the server has all the connections it may have"))
        token = bearer_token(headers.get("authorization") or "")
        if token is not None:
            return await shared.verifier.authenticate(token)
        if not shared.config.auth.anonymous:
            raise AuthenticationFailed("this wants a token", reason="missing")
        return ANONYMOUS

    async def _poll(
        self, scope: Scope, receive: Receive, send: Send, headers: Headers, identity: Identity
    ) -> None:
        shared = self._shared
        query = scope["query_string"].decode("latin-1")
        request = asked(query, headers.get("last-event-id"))
        wait = _wait_of(query)
        peer = scope["client"][0] if scope.get("client") else ""
        address = shared.proxies.client(peer, headers.getlist("x-forwarded-for"))
        poll = Poll(identity, address, shared.websocket.send_buffer_bytes)
        answer = _Answer(poll, send, headers)
        address = self._address(scope, headers)
        shared.by_address[address] += 1
        shared.manager.connect(poll)
        shared.open_sockets.add(poll)
        try:
            async with asyncio.TaskGroup() as tasks:
                gone = tasks.create_task(_watch(receive, poll))
                if not messages.is_subscription_id(request.id):
                    raise SubscriptionRefused("INVALID_SUBSCRIPTION_ID", "this is no id")
                owner = identity.user_id or poll.connection_id
                steps = shared.requests.subscribe(poll, request)
                await shared.budget.do(steps, owner)
                await self._told(poll, answer, wait)
                gone.cancel()
        except ExceptionGroup as group:
            fault = next(_leaves(group))
            if isinstance(fault, _Over) and answer.has_begun:
                # What was promised cannot be told any more; the connection is cut.
                return
            raise fault from None
        finally:
            shared.requests.disconnect(poll)
            shared.leave_address(address)
            shared.left(poll)

    def _address(self, scope: Scope, headers: Headers) -> str:
        """Whom the poll is counted for; raises _Refused where that one has too many open."""
        peer = scope["client"][0] if scope.get("client") else ""
        address = self._shared.proxies.client(peer, headers.getlist("x-forwarded-for"))
        if self._shared.is_full_for(address):
            why = "too many connections from this address"
            raise _Refused(error_answer(429, why, headers={"Retry-After": "1"}))
        return address

    async def _told(self, poll: Poll, answer: "_Answer", wait: float) -> None:
        """Answer with what comes of the subscription."""
        await _woken(poll, None)
        if not poll.subscriptions and poll.error is not None:
            raise SubscriptionRefused(*poll.error)
        handle = next(iter(poll.subscriptions.values()), None)
        if handle is not None:
            answer.view = _view(handle.plan)
        if handle is not None and handle.snapshot is not None:
            await self._pages(poll, handle, answer)
            return
        payloads = poll.taken()
        begun = poll.position
        if handle is not None and begun is not None and _waits_for_changes(poll, handle, payloads):
            await self._level(poll, handle)
            if not poll.has_changes:
                await _woken(poll, wait)
            payloads += poll.taken()
            if not poll.has_changes:
                poll.position = max(begun, self._come_to(handle))
        await answer.whole(payloads)

    async def _level(self, poll: Poll, handle: SubscriptionHandle) -> None:
        """Wait until there is a change, or it is certain that there has been none so far."""
        feeder = self._shared.feeder
        while not (
            poll.has_changes
            or handle.state is not SubscriptionState.CATCHING_UP
            or feeder.is_at_head(handle)
        ):
            if not await _woken(poll, LONGEST_WAIT):
                return

    def _come_to(self, handle: SubscriptionHandle) -> int:
        """Up to where there was nothing for a subscription that has been told nothing."""
        if handle.position is not None:
            return handle.position
        # While something is under way to the live ones it may be for this one as well.
        return self._position() if self._is_idle() else 0

    async def _pages(self, poll: Poll, handle: SubscriptionHandle, answer: "_Answer") -> None:
        """A snapshot of several pages: each is taken when the one before has left."""
        assert handle.snapshot is not None
        poll.position = handle.snapshot.as_of
        if await answer.is_known():
            return
        await answer.begin()
        while handle.snapshot is not None:
            await answer.some(poll.taken())
            self._shared.feeder.next_batch(handle, None)
            await _woken(poll, None)
        await answer.finish(poll.taken())


class _Answer:
    """What is written of one answer, as a whole or piece by piece."""

    def __init__(self, poll: Poll, send: Send, headers: Headers) -> None:
        self._poll = poll
        self._send = send
        self._known = headers.get("if-none-match")
        self._cors = cors_headers(headers.get("origin"))
        self._separator = b'{"messages":['
        self.has_begun = False
        # What is looked at: of two views of one position each has a tag of its own.
        self.view = ""

    async def whole(self, payloads: list[bytes]) -> None:
        if await self.is_known():
            return
        await self.begin()
        await self.finish(payloads)

    async def is_known(self) -> bool:
        """Whether the client has an answer of this position, which it was told then."""
        if self._known is None or self._tag not in self._known:
            return False
        await self._start(304)
        await self._send({"type": "http.response.body", "body": b""})
        return True

    async def begin(self) -> None:
        await self._start(200)

    async def _start(self, status: int) -> None:
        self.has_begun = True
        headers = {
            **({"content-type": "application/json"} if status == 200 else {}),
            "etag": self._tag,
            "cache-control": "private, no-cache",
            "vary": "authorization, origin",
            **self._cors,
        }
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    @property
    def _tag(self) -> str:
        return f'"{self._poll.position or 0}-{self.view}"'

    async def some(self, payloads: list[bytes]) -> None:
        """Write messages, and wait until they have left."""
        _go_on(self._poll)
        for one in payloads:
            piece = self._separator + one
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
            self._separator = b","

    async def finish(self, payloads: list[bytes]) -> None:
        await self.some(payloads)
        opened = self._separator if self._separator != b"," else b""
        end = b'%b],"position":%d}' % (opened, self._poll.position or 0)
        await self._send({"type": "http.response.body", "body": end})


class _Refused(Exception):
    """A request that is answered with something else than what it asks for."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


class _Over(_Refused):
    """The connection has been ended, by whichever side."""


async def _woken(poll: Poll, seconds: float | None) -> bool:
    """Whether something has come within so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            await poll.wake.wait()
    except TimeoutError:
        return False
    finally:
        poll.wake.clear()
    _go_on(poll)
    return True


def _go_on(poll: Poll) -> None:
    """Raise _Over where the connection has been ended, by whichever side."""
    if poll.ended is None:
        return
    if poll.ended.code == 1008:
        raise _Over(error_answer(401, poll.ended.reason))
    raise _Over(_overloaded(poll.ended.reason or "the client has gone"))


def _view(plan: Plan) -> str:
    """What a caller sees of a table: filter, policy and claims in it, columns, their types."""
    seen = (plan.filter.key, plan.owner, plan.projection, plan.projection.schema(plan.table))
    return blake2b(repr(seen).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _waits_for_changes(poll: Poll, handle: SubscriptionHandle, payloads: list[bytes]) -> bool:
    """Whether nothing has been told yet but that the subscription has begun at a position."""
    if poll.has_changes:
        return False
    return handle.options is None or any(b'"resumed":true' in one for one in payloads[:1])


async def _watch(receive: Receive, poll: Poll) -> None:
    """Notice when the client goes away."""
    while (await receive())["type"] != "http.disconnect":
        pass
    poll.end(close.NORMAL)


def _leaves(group: BaseException) -> Iterator[BaseException]:
    if isinstance(group, BaseExceptionGroup):
        for one in group.exceptions:
            yield from _leaves(one)
    else:
        yield group


def _wait_of(query: str) -> float:
    found = re.search(r"(?:^|&)wait=(\d{1,4}(?:\.\d{1,3})?)(?:&|$)", query)
    return LONGEST_WAIT if found is None else min(float(found[1]), LONGEST_WAIT)


def _overloaded(message: str) -> Response:
    return error_answer(503, message, headers={"Retry-After": "1"})


def _not_get(scope: Scope, origin: str | None) -> Response:
    if scope["method"] == "OPTIONS":
        return Response(status_code=204, headers={**_ALLOW, **PREFLIGHT, **cors_headers(origin)})
    return error_answer(405, f"{scope['method']} {scope['path']}: only GET", headers=_ALLOW)


class StreamsElsewhere:
    """What is left to the application of /v1/stream, whose GET the HTTP protocol takes over."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "GET":
            response = error_answer(404, "no stream at this address")
        else:
            response = _not_get(scope, Headers(scope=scope).get("origin"))
        await response(scope, receive, send)


def event_routes(
    shared: Shared, position: Callable[[], int], is_idle: Callable[[], bool]
) -> list[Route]:
    """The routes of streams and polls."""
    return [
        Route(STREAM_PATH, StreamsElsewhere()),
        Route(POLL_PATH, PollEndpoint(shared, position, is_idle)),
    ]
