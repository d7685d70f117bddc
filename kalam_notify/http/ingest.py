"""POST /v1/changes: from an HTTP request to a durable batch.

The order of the checks is the order of their cost: method, sender, media type, room at the gate,
size, and only then a byte of the body is kept. A post holds its bytes at the gate until the log
has stored them. It is a plain ASGI application, because thousands of small posts a second come
through here, and every layer above ASGI would cost as much as the work itself.

The gate counts how many bytes of posts are in memory and not yet durable. Back-pressure has to come
before memory grows, so a post takes its place there while its body arrives, piece by piece, and
gives it back when the log has stored it. Bytes are counted as they come and not as a Content-Length
promises them: a slow uploader holds what it has sent.

A client that is refused early may still be sending. Up to `LINGER_BYTES` of that are taken in and
thrown away, so that it gets to read its answer instead of a reset connection; whoever wants to
send more than that is cut off.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final, Protocol

from starlette.datastructures import Headers, QueryParams
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from kalam_notify.auth import Authorize
from kalam_notify.budget import Budget
from kalam_notify.config.hooks import IngestSettings
from kalam_notify.errors import (
    ChangeRefused,
    ClientFault,
    KeysUnavailable,
    LogFault,
    LogUnavailable,
)
from kalam_notify.formats.cloudevents import of_headers
from kalam_notify.http.answers import JsonAnswer, error_answer, fault_answer
from kalam_notify.http.decoders import (
    Batch,
    at_once,
    decode_batch,
    form_of,
    inflate,
    is_gzip,
)
from kalam_notify.http.foreign import Foreign, decode_event, format_named
from kalam_notify.http.rules import MAX_ID_CHARS, IngestLimits, Rules
from kalam_notify.log.base import EventLog
from kalam_notify.model import PostedChange, Role, TableId
from kalam_notify.model.changes import Appended
from kalam_notify.model.tables import Catalog

logger = logging.getLogger(__name__)

# A compressed body above this is inflated off the event loop: 4 KiB can become 4 MiB.
_INFLATE_HERE_BYTES: Final = 4096
# What is read back of a stored batch at a time.
_SPAN_BYTES: Final = 1 << 20
_WEBHOOK: Final = "webhook-id "
_ALLOW = {"Allow": "POST, OPTIONS"}


RETRY_AFTER_SECONDS = 1


def overloaded(message: str) -> ChangeRefused:
    """The refusal of a post that may be tried again in a moment."""
    return ChangeRefused(503, "OVERLOADED", message, retry_after=RETRY_AFTER_SECONDS)


class Gate:
    """Counts bytes in flight. Never waits: it lets in or refuses.

    Invariant: `held` is the sum of all reservations.
    """

    def __init__(self) -> None:
        self.held = 0
        self.open_posts = 0
        self.refused = 0
        self._closed = False

    def close(self) -> None:
        """Refuse every further post: the server is draining."""
        self._closed = True

    def reserve(self, capacity: int) -> "Reservation":
        """Room for one post, at a capacity of `capacity` bytes over all posts."""
        if self._closed:
            self.refused += 1
            raise overloaded("the server is shutting down")
        return Reservation(self, capacity)

    def statistics(self) -> dict[str, int]:
        return {"held_bytes": self.held, "open_posts": self.open_posts, "refused": self.refused}


class Reservation:
    """The room of one post. Use as a context manager; leaving it gives the bytes back."""

    __slots__ = ("_capacity", "_gate", "_held")

    def __init__(self, gate: Gate, capacity: int) -> None:
        self._gate = gate
        self._capacity = capacity
        self._held = 0

    def __enter__(self) -> "Reservation":
        self._gate.open_posts += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._gate.open_posts -= 1
        self._gate.held -= self._held
        self._held = 0

    def expect(self, size: int) -> None:
        """Raise ChangeRefused (503) when `size` more bytes would not be let in now.

        A post that finds nobody else is let in whatever its size: it could never come otherwise.
        """
        others = self._gate.held - self._held
        if others and others + self._held + size > self._capacity:
            self._gate.refused += 1
            raise overloaded("too much is waiting to be stored")

    def grow(self, size: int) -> None:
        """Take in `size` more bytes; raises ChangeRefused (503) like `expect`."""
        self.expect(size)
        self._held += size
        self._gate.held += size


LINGER_BYTES: Final = 64 * 1024 * 1024
# A body that stands still for this long is given up, and its place at the gate freed.
STALL_SECONDS: Final = 30.0


async def read_body(
    receive: Receive, announced: str | None, reservation: Reservation, limit: int
) -> bytes:
    """The whole body, at most `limit` bytes, its bytes held by `reservation`.

    `announced` is the request's Content-Length.

    Raises ChangeRefused (413 too large, 503 no room, 408 stalled) and ClientDisconnect.
    """
    if announced is not None and announced.isdecimal():
        if int(announced) > limit:
            raise _too_large(limit)
        reservation.expect(int(announced))
    pieces: list[bytes] = []
    size = 0
    more = True
    while more:
        piece, more = await _next_piece(receive)
        size += len(piece)
        try:
            if size > limit:
                raise _too_large(limit)
            reservation.grow(len(piece))
        except ChangeRefused:
            pieces.clear()
            if more and announced is None:
                await _linger(receive)
            raise
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def outlives_refusal(scope: Scope, status: int) -> bool:
    """Whether the connection of a refused request may be used again: not where too much follows."""
    announced = Headers(scope=scope).get("content-length")
    if announced is not None and announced.isdecimal():
        return int(announced) <= LINGER_BYTES
    return status not in (408, 413, 503)


async def _next_piece(receive: Receive) -> tuple[bytes, bool]:
    try:
        async with asyncio.timeout(STALL_SECONDS):
            message = await receive()
    except TimeoutError:
        raise ChangeRefused(408, "REQUEST_TIMEOUT", "the body stopped arriving") from None
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message.get("body", b""), message.get("more_body", False)


async def _linger(receive: Receive) -> None:
    """Throw away what is left of a body without a Content-Length, up to a bound."""
    more = True
    taken = 0
    while more and taken < LINGER_BYTES:
        piece, more = await _next_piece(receive)
        taken += len(piece)


def _too_large(limit: int) -> ChangeRefused:
    return ChangeRefused(413, "TOO_LARGE", f"a body holds at most max_body_bytes ({limit})")


class IngestConfig(Protocol):
    """What a request reads of the configuration; the next one may find another."""

    @property
    def limits(self) -> IngestLimits: ...

    @property
    def ingest(self) -> IngestSettings: ...


class IngestMetrics(Protocol):
    """Told once per request and table, never per change."""

    def request(self, status: int) -> None: ...

    def ingested(self, table: TableId, changes: int) -> None: ...


class NoMetrics:
    def request(self, status: int) -> None:
        pass

    def ingested(self, table: TableId, changes: int) -> None:
        pass


def create_ingest_routes(
    log: EventLog,
    catalog: Catalog,
    authorize: Authorize,
    config: Callable[[], IngestConfig],
    budget: Budget | None = None,
    *,
    metrics: IngestMetrics | None = None,
    gate: Gate | None = None,
) -> list[Route]:
    """The routes of ingest, for a Starlette application with `answers.ERROR_HANDLERS`.

    `budget` does what is left of a large body after its first slice; None: that is done at once.
    `config` gives the settings as they are by now; `catalog` is reloaded in place. Close `gate` to
    refuse posts while draining.
    """
    endpoint = ChangesEndpoint(
        log,
        catalog,
        authorize,
        config,
        budget,
        metrics or NoMetrics(),
        gate or Gate(),
    )
    return [Route("/v1/changes", endpoint)]


def posts_first(routes: Sequence[Route], application: ASGIApp) -> ASGIApp:
    """An application that looks for these routes first, and for all others in `application`.

    A post comes after every fan-out, when nothing of Starlette's five layers is in the cache.
    """
    direct = {route.path: route.app for route in routes}

    async def find(scope: Scope, receive: Receive, send: Send) -> None:
        await direct.get(scope["path"], application)(scope, receive, send)

    return find


class ChangesEndpoint:
    """The ASGI application behind POST /v1/changes."""

    def __init__(
        self,
        log: EventLog,
        catalog: Catalog,
        authorize: Authorize,
        config: Callable[[], IngestConfig],
        budget: Budget | None,
        metrics: IngestMetrics,
        gate: Gate,
    ) -> None:
        self._log = log
        self._catalog = catalog
        self._authorize = authorize
        self._config = config
        self._budget = budget
        self._metrics = metrics
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self._answer(scope, receive)
        except ClientDisconnect:
            return  # in the middle of its body: nothing was stored, nobody is there to be told
        except (ClientFault, KeysUnavailable) as fault:
            response = fault_answer(fault)
        except Exception:
            logger.exception("a post to %s failed", scope["path"])
            response = error_answer(500, "the server failed on this request")
        if response.status_code >= 400 and not outlives_refusal(scope, response.status_code):
            response.headers["Connection"] = "close"
        self._metrics.request(response.status_code)
        await response(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        method = scope["method"]
        if method == "OPTIONS":
            return Response(status_code=204, headers=_ALLOW)
        if method != "POST":
            return error_answer(405, f"{method} {scope['path']}: only POST", headers=_ALLOW)
        return await self._post(scope, receive)

    async def _post(self, scope: Scope, receive: Receive) -> Response:
        headers = first_of_each(scope)
        identity = await self._authorize(headers.get("authorization"), headers.get("x-api-key"))
        if identity.role < Role.SERVICE:
            return error_answer(403, "posting changes takes the role service, dba or system")
        asked = _asked_format(scope)
        format = None if asked is None else format_named(asked)
        foreign = Foreign(self._config().ingest.tables, format)
        return await self._take(scope, receive, headers, foreign, identity.user_id)

    async def _take(
        self,
        scope: Scope,
        receive: Receive,
        headers: Mapping[str, str],
        foreign: Foreign,
        producer: str,
        judge: Callable[[bytes], None] | None = None,
    ) -> Response:
        """Store what a producer posts; `judge` raises where the body is not its own."""
        limits = self._config().limits
        form = form_of(headers.get("content-type"))
        zipped = is_gzip(headers.get("content-encoding"))
        batch_key = _batch_key(scope, headers)
        with self._gate.reserve(limits.ingest_queue_bytes) as reservation:
            body = await read_body(
                receive, headers.get("content-length"), reservation, limits.max_body_bytes
            )
            if zipped:
                body = await _inflated(body, limits.max_body_bytes)
                reservation.grow(len(body))
            if judge is not None:
                judge(body)
            rules = Rules(self._catalog, limits)
            if "ce-specversion" in headers:
                batch = decode_event(of_headers(headers, body), rules, foreign)
            else:
                batch = decode_batch(body, form, rules, foreign)
            changes = await self._decoded(batch, producer)
            del body
            appended = await self._store(changes, batch_key)
        return JsonAnswer(
            {
                "accepted": appended.accepted,
                "duplicates": appended.duplicates,
                "first_seq": appended.first_seq,
                "last_seq": appended.last_seq,
            }
        )

    async def _decoded(self, batch: Batch, producer: str) -> list[PostedChange]:
        """Run a batch to its end: the first slice of it here, the rest as work of the budget."""
        try:
            next(batch)
        except StopIteration as done:
            changes: list[PostedChange] = done.value
            return changes
        if self._budget is None:
            return at_once(batch)
        return await self._budget.do(batch, ("producer", producer))

    async def _store(self, changes: Sequence[PostedChange], batch_key: str | None) -> Appended:
        if not changes:
            return Appended(0, 0, None, None)
        try:
            appended = await self._log.append(changes, batch_key)
        except LogUnavailable as fault:
            # The log itself has said so, and not for every request.
            logger.debug("the log takes no changes: %s", fault)
            raise overloaded("changes cannot be stored at the moment") from fault
        for table, count in (await self._per_table(changes, appended)).items():
            self._metrics.ingested(table, count)
        return appended

    async def _per_table(
        self, changes: Sequence[PostedChange], appended: Appended
    ) -> Mapping[TableId, int]:
        """How many changes each table took, duplicates left out."""
        if appended.first_seq is None:
            return {}
        if appended.duplicates == 0:
            if len(changes) == 1:
                return {changes[0].table: 1}
            return Counter(change.table for change in changes)
        # Which ones were new is known to the log alone; it holds them, as they were just stored.
        counts: Counter[TableId] = Counter()
        position, left = appended.first_seq - 1, appended.accepted
        with suppress(LogFault):
            while left > 0:
                span = await self._log.read(position, limit=left, max_bytes=_SPAN_BYTES)
                if not span.changes:
                    break
                counts.update(change.table for change in span.changes)
                position, left = span.upto, left - len(span.changes)
        return counts


def first_of_each(scope: Scope) -> dict[str, str]:
    """The headers by lower-case name; of a name given twice, the first."""
    headers = reversed(scope["headers"])
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}


def _asked_format(scope: Scope) -> str | None:
    query = scope.get("query_string")
    return QueryParams(query).get("format") if query else None


def _batch_key(scope: Scope, headers: Mapping[str, str]) -> str | None:
    """What a batch is known again by: its `Idempotency-Key`, or else its `webhook-id`.

    Raises ChangeRefused when that is not one text of 1-256 characters.
    """
    if "idempotency-key" in headers:
        return _only(scope, "Idempotency-Key", MAX_ID_CHARS)
    if "webhook-id" in headers:
        # In a space of its own.
        return f"{_WEBHOOK}{_only(scope, 'webhook-id', MAX_ID_CHARS - len(_WEBHOOK))}"
    return None


def _only(scope: Scope, name: str, most: int) -> str:
    keys = Headers(scope=scope).getlist(name.lower())
    if len(set(keys)) > 1 or not 0 < len(keys[0]) <= most:
        raise ChangeRefused(
            400, "INVALID_CHANGE", f"{name} is one key of 1-{most} characters", field=name
        )
    return keys[0]


async def _inflated(body: bytes, limit: int) -> bytes:
    if len(body) <= _INFLATE_HERE_BYTES:
        return inflate(body, limit)
    return await asyncio.to_thread(inflate, body, limit)
