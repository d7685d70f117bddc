"""GET /v1/tables, /v1/connections, /v1/subscriptions, /v1/why; DELETE /v1/connections/{id}.

Lists are `{"connections": [...], "next_cursor": "..."}`, named as they are; the cursor, as
`?cursor=`, brings the next page, and null is the last. A page has at most `limit` rows, and less
where these are long.
"""

from collections.abc import Mapping
from typing import Final

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kalam_notify.administration.gathering import Gathering, Page
from kalam_notify.administration.questions import (
    MAX_LIMIT,
    ConnectionName,
    Cursor,
    Listing,
    Subject,
)
from kalam_notify.errors import LogUnavailable
from kalam_notify.http.administrators import Administrators
from kalam_notify.http.answers import JsonAnswer, error_answer
from kalam_notify.model import parse_table_id

DEFAULT_LIMIT: Final = 100
MAX_REASON_BYTES: Final = 120
"""Of a close frame's 123."""

_KICKED: Final = "closed by an administrator"
_TRUTH: Final = {"true": True, "1": True, "false": False, "0": False}


class _Bad(Exception):
    """A parameter that is not understood; the text says what would be."""


class AdministrationEndpoints:
    """The routes; what they tell is gathered from all workers."""

    def __init__(self, gathering: Gathering, administrators: Administrators) -> None:
        self._gathering = gathering
        self._administrators = administrators

    def routes(self) -> list[Route]:
        return [
            Route("/v1/tables", self.tables, methods=["GET"]),
            Route("/v1/connections", self.connections, methods=["GET"]),
            Route("/v1/connections/{id}", self.kick, methods=["DELETE"]),
            Route("/v1/subscriptions", self.subscriptions, methods=["GET"]),
            Route("/v1/why", self.why, methods=["GET"]),
        ]

    async def tables(self, request: Request) -> Response:
        return await self._list(request, "tables")

    async def connections(self, request: Request) -> Response:
        return await self._list(request, "connections")

    async def subscriptions(self, request: Request) -> Response:
        return await self._list(request, "subscriptions")

    async def _list(self, request: Request, subject: Subject) -> Response:
        refusal = await self._administrators.refusal(request, "this list")
        if refusal is not None:
            return refusal
        query = request.query_params
        try:
            cursor, wanted = _cursor(query), _wanted(subject, query)
            page = await self._page(wanted, cursor, query)
        except _Bad as fault:
            return error_answer(400, str(fault), code="INVALID_REQUEST")
        except (TimeoutError, LogUnavailable):
            return _not_now()
        return _page_answer(subject, page)

    async def _page(self, wanted: Listing, cursor: Cursor | None, query: Mapping[str, str]) -> Page:
        if wanted.subject == "tables":
            return await self._gathering.tables(wanted, cursor)
        name = query.get("connection")
        if wanted.subject == "subscriptions" and name:
            found = ConnectionName.parse(name)
            if found is None:
                raise _Bad("connection is an id that /v1/connections tells")
            return await self._gathering.of_connection(wanted, found, cursor)
        return await self._gathering.page(wanted, cursor)

    async def kick(self, request: Request) -> Response:
        refusal = await self._administrators.refusal(request, "closing a connection")
        if refusal is not None:
            return refusal
        given: str = request.path_params["id"]
        reason = request.query_params.get("reason") or _KICKED
        if len(reason.encode("utf-8", "replace")) > MAX_REASON_BYTES:
            message = f"a close frame has room for a reason of {MAX_REASON_BYTES} bytes"
            return error_answer(400, message, code="INVALID_REQUEST")
        name = ConnectionName.parse(given)
        try:
            if name is None or not await self._gathering.kick(name, reason):
                return error_answer(404, "there is no such connection")
        except TimeoutError:
            return _not_now()
        return JsonAnswer({"id": given, "code": 1008, "reason": reason})

    async def why(self, request: Request) -> Response:
        """`GET /v1/why?seq=…&user=…`: what became of a change at a user's subscriptions."""
        refusal = await self._administrators.refusal(request, "asking why")
        if refusal is not None:
            return refusal
        query = request.query_params
        try:
            seq, user = _number("seq", query.get("seq"), 1, 2**53 - 1), query.get("user") or ""
            if not user:
                raise _Bad("user is whose subscriptions are looked at")
        except _Bad as fault:
            return error_answer(400, str(fault), code="INVALID_REQUEST")
        try:
            answer = await self._gathering.why(seq, user)
        except (TimeoutError, LogUnavailable):
            return _not_now()
        if answer["change"] is None:
            first, last = answer["log"]
            return error_answer(404, f"the log holds no change {seq}; it holds {first} to {last}")
        return JsonAnswer(answer)


def _wanted(subject: Subject, query: Mapping[str, str]) -> Listing:
    limit = query.get("limit")
    table = query.get("table") or None
    lagging = query.get("lagging") or None
    if lagging is not None and lagging not in _TRUTH:
        raise _Bad("lagging is true or false")
    return Listing(
        subject,
        DEFAULT_LIMIT if not limit else _number("limit", limit, 1, MAX_LIMIT),
        user=query.get("user") or None,
        # As it is where it is none: then there is no subscription to it.
        table=None if table is None else parse_table_id(table) or table,
        lagging=None if lagging is None else _TRUTH[lagging],
    )


def _number(name: str, text: str | None, least: int, most: int) -> int:
    if text is not None and text.isascii() and text.isdigit() and len(text) <= 16:
        number = int(text)
        if least <= number <= most:
            return number
    raise _Bad(f"{name} is a whole number from {least} to {most}")


def _cursor(query: Mapping[str, str]) -> Cursor | None:
    text = query.get("cursor")
    if not text:
        return None
    cursor = Cursor.parse(text)
    if cursor is None or cursor.worker < 1 or cursor.after.number < 0:
        raise _Bad("cursor is what the page before tells as next_cursor")
    return cursor


def _page_answer(subject: Subject, page: Page) -> Response:
    """The rows are JSON already."""
    cursor = orjson.dumps(None if page.next is None else str(page.next))
    head = b'{"%s":[' % subject.encode()
    body = head + b",".join(page.rows) + b'],"next_cursor":' + cursor + b"}"
    return Response(body, media_type="application/json")


def _not_now() -> Response:
    message = "not all workers have answered in time"
    return error_answer(503, message, headers={"Retry-After": "1"})
