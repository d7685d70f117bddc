"""Reading a request's body within its bounds.

A client that is refused early may still be sending. Up to `LINGER_BYTES` of that are taken in and
thrown away, so that it gets to read its answer instead of a reset connection; whoever wants to
send more than that is cut off.
"""

import asyncio
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from kalam_notify.errors import ChangeRefused
from kalam_notify.http.gate import Ticket

LINGER_BYTES: Final = 64 * 1024 * 1024
# A body that stands still for this long is given up, and its place at the gate freed.
STALL_SECONDS: Final = 30.0


async def read_body(receive: Receive, announced: str | None, ticket: Ticket, limit: int) -> bytes:
    """The whole body, at most `limit` bytes, its bytes held by `ticket`.

    `announced` is the request's Content-Length.

    Raises ChangeRefused (413 too large, 503 no room, 408 stalled) and ClientDisconnect.
    """
    if announced is not None and announced.isdecimal():
        if int(announced) > limit:
            raise _too_large(limit)
        ticket.expect(int(announced))
    pieces: list[bytes] = []
    size = 0
    more = True
    while more:
        piece, more = await _next_piece(receive)
        size += len(piece)
        try:
            if size > limit:
                raise _too_large(limit)
            ticket.grow(len(piece))
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
