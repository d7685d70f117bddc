"""A request's body: its form, its room at the gate, and reading it within its bounds.

What a body is made of: its media type and its content encoding, inflated within a bound.

The gate of ingest: how many bytes of posts are in memory and not yet durable.

Back-pressure has to come before memory grows, so a post takes its place at the gate while its
body arrives, piece by piece, and gives it back when the log has stored it. Bytes are counted as
they come and not as a Content-Length promises them: a slow uploader holds what it has sent.

Reading a request's body within its bounds.

A client that is refused early may still be sending. Up to `LINGER_BYTES` of that are taken in and
thrown away, so that it gets to read its answer instead of a reset connection; whoever wants to
send more than that is cut off.
"""

import asyncio
import zlib
from enum import Enum
from types import TracebackType
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from kalam_notify.errors import ChangeRefused


class Form(Enum):
    """How the changes are laid out in a body."""

    JSON = "one object, or an array of objects"
    LINES = "one object a line"


_FORMS = {
    "application/json": Form.JSON,
    "application/x-ndjson": Form.LINES,
    "application/ndjson": Form.LINES,
    "application/cloudevents+json": Form.JSON,
    "application/cloudevents-batch+json": Form.JSON,
}
_UTF8 = {"utf-8", "utf8", "us-ascii"}
MAX_MEMBERS = 16_384
"""Members of a gzip body: each costs some microseconds, however little is in it."""

_FIRST_BITE = 256
_GZIP_WINDOW = 31  # zlib's way to say: a gzip header, and nothing else


def form_of(content_type: str | None) -> Form:
    """The form a Content-Type names; none at all means JSON. Raises ChangeRefused (415)."""
    if content_type is None or content_type == "application/json":
        return Form.JSON
    media_type, *parameters = (part.strip() for part in content_type.lower().split(";"))
    form = _FORMS.get(media_type)
    if form is None:
        raise _unsupported(
            f"Content-Type {media_type!r} is not understood: send application/json or "
            "application/x-ndjson"
        )
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip().strip('"') not in _UTF8:
            raise _unsupported("the charset of a body is utf-8")
    return form


def is_gzip(content_encoding: str | None) -> bool:
    """Whether a Content-Encoding means gzip; absent or identity: no. Raises ChangeRefused (415)."""
    encoding = (content_encoding or "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip"):
        raise _unsupported(f"Content-Encoding {encoding!r} is not understood: send gzip or none")
    return encoding != "identity"


def inflate(body: bytes, limit: int) -> bytes:
    """A gzip body's content, all members of it; never inflates more than a byte beyond `limit`.

    Raises ChangeRefused: 413 when the content is larger than `limit`, 400 when it is not gzip, ends
    early, or has more than MAX_MEMBERS.
    """
    pieces: list[bytes] = []
    room = limit
    at = members = 0
    while at < len(body) or not members:
        members += 1
        if members > MAX_MEMBERS:
            raise _damaged(f"it has more than {MAX_MEMBERS} members")
        at, room = _inflate_member(body, at, room, pieces)
        if room < 0:
            raise ChangeRefused(
                413, "TOO_LARGE", f"the inflated body is larger than max_body_bytes ({limit})"
            )
    return b"".join(pieces)


def _inflate_member(body: bytes, at: int, room: int, into: list[bytes]) -> tuple[int, int]:
    """Inflate the member that begins at `at`; where the next one does, and the room that is left.

    zlib hands back what lies behind a member as a copy. So it is given little at first and twice as
    much each time: what is copied in vain is no more than the member's own size, or _FIRST_BITE.
    """
    member, bite = zlib.decompressobj(_GZIP_WINDOW), _FIRST_BITE
    while not member.eof and room >= 0:
        given = body[at : at + bite]
        if not given:
            raise _damaged("it ends early")
        try:
            piece = member.decompress(given, room + 1)
        except zlib.error as fault:
            raise _damaged(str(fault)) from None
        at += len(given) - len(member.unused_data)
        room -= len(piece)
        into.append(piece)
        bite *= 2
    return at, room


def _damaged(why: str) -> ChangeRefused:
    return ChangeRefused(400, "INVALID_JSON", f"the gzip body is damaged: {why}")


def _unsupported(message: str) -> ChangeRefused:
    return ChangeRefused(415, "UNSUPPORTED_MEDIA_TYPE", message)


RETRY_AFTER_SECONDS = 1


def overloaded(message: str) -> ChangeRefused:
    """The refusal of a post that may be tried again in a moment."""
    return ChangeRefused(503, "OVERLOADED", message, retry_after=RETRY_AFTER_SECONDS)


class Gate:
    """Counts bytes in flight. Never waits: it lets in or refuses.

    Invariant: `held` is the sum of all open tickets.
    """

    def __init__(self) -> None:
        self.held = 0
        self.open_posts = 0
        self.refused = 0
        self._closed = False

    def close(self) -> None:
        """Refuse every further post: the server is draining."""
        self._closed = True

    def ticket(self, capacity: int) -> "Ticket":
        """A place for one post, at a capacity of `capacity` bytes over all posts."""
        if self._closed:
            self.refused += 1
            raise overloaded("the server is shutting down")
        return Ticket(self, capacity)

    def statistics(self) -> dict[str, int]:
        return {"held_bytes": self.held, "open_posts": self.open_posts, "refused": self.refused}


class Ticket:
    """One post's place. Use as a context manager; leaving it gives the bytes back."""

    __slots__ = ("_capacity", "_gate", "_held")

    def __init__(self, gate: Gate, capacity: int) -> None:
        self._gate = gate
        self._capacity = capacity
        self._held = 0

    def __enter__(self) -> "Ticket":
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
