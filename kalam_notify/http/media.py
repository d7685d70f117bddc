"""What a body is made of: its media type and its content encoding, inflated within a bound."""

import zlib
from enum import Enum

from kalam_notify.errors import ChangeRefused


class Form(Enum):
    """How the changes are laid out in a body."""

    JSON = "one object, or an array of objects"
    LINES = "one object a line"


_FORMS = {
    "application/json": Form.JSON,
    "application/x-ndjson": Form.LINES,
    "application/ndjson": Form.LINES,
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
