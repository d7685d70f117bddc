"""POST /v1/admin/revoke: tokens that must not hold any longer, though they have not expired."""

import time
from collections.abc import Awaitable, Callable
from typing import Final, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kalam_notify.http.administrators import Administrators
from kalam_notify.http.answers import JsonAnswer, error_answer

Kind = Literal["user", "token_id"]
Revoke = Callable[[Kind, str, float | None], Awaitable[tuple[float, float]]]
"""Whose tokens or which token, and until when (None: as long as any may live): from, until."""

_LARGEST_BODY: Final = 64 * 1024
_CURE: Final = 'give {"user": "..."} or {"token_id": "..."}, and with it "until" in Unix seconds'


class _Request(msgspec.Struct, frozen=True):
    user: str | None = None
    token_id: str | None = None
    until: float | None = None


_decode = msgspec.json.Decoder(_Request).decode


class Revoking:
    """The endpoint."""

    def __init__(self, revoke: Revoke, administrators: Administrators) -> None:
        self._revoke = revoke
        self._administrators = administrators

    def routes(self) -> list[Route]:
        return [Route("/v1/admin/revoke", self.revoke, methods=["POST"])]

    async def revoke(self, request: Request) -> Response:
        refusal = await self._administrators.refusal(request, "revoking")
        if refusal is not None:
            return refusal
        body = await _body(request)
        if body is None:
            return error_answer(413, f"a revocation takes at most {_LARGEST_BODY} bytes")
        try:
            asked = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
            return _bad(f"{fault}; {_CURE}")
        if (asked.user is None) == (asked.token_id is None):
            return _bad(_CURE)
        if asked.until is not None and not time.time() < asked.until < 2**53:
            return _bad("until is a time to come, in Unix seconds")
        kind: Kind = "user" if asked.user is not None else "token_id"
        name = asked.user or asked.token_id or ""
        if not name or len(name) > 1024:
            return _bad(f"{kind} is text of 1 to 1024 characters")
        return await self._taken(kind, name, asked.until)

    async def _taken(self, kind: Kind, name: str, until: float | None) -> Response:
        try:
            since, until = await self._revoke(kind, name, until)
        except OSError as fault:
            return error_answer(
                503,
                f"it holds until the server stops, but could not be stored: {fault.strerror}",
                headers={"Retry-After": "1"},
            )
        return JsonAnswer({kind: name, "revoked_at": since, "until": until})


def _bad(message: str) -> Response:
    return error_answer(400, message, code="INVALID_REQUEST")


async def _body(request: Request) -> bytes | None:
    """The body, a byte order mark left out; None for one that is too large."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _LARGEST_BODY:
            return None
    return body.removeprefix(b"\xef\xbb\xbf")
