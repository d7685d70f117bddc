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

    Raises ChangeRefused: 413 when the content is larger than `limit`, 400 when it is not gzip or
    ends early.
    """
    pieces: list[bytes] = []
    size = 0
    while body or not pieces:
        member = zlib.decompressobj(_GZIP_WINDOW)
        try:
            piece = member.decompress(body, limit - size + 1)
        except zlib.error as fault:
            raise ChangeRefused(400, "INVALID_JSON", f"the gzip body is damaged: {fault}") from None
        size += len(piece)
        pieces.append(piece)
        if size > limit:
            raise ChangeRefused(
                413, "TOO_LARGE", f"the inflated body is larger than max_body_bytes ({limit})"
            )
        if not member.eof:
            raise ChangeRefused(400, "INVALID_JSON", "the gzip body ends early")
        body = member.unused_data
    return b"".join(pieces)


def _unsupported(message: str) -> ChangeRefused:
    return ChangeRefused(415, "UNSUPPORTED_MEDIA_TYPE", message)
