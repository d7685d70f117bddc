"""From the bytes of a body to a batch of validated changes. No I/O.

The body is checked to be UTF-8 once, then one typed decode splits it into changes whose rows are
still text (a few hundred nanoseconds a change), and each row is decoded, checked and made into
its final JSON in turn. Both passes stop early on nonsense, so that what a body can take in memory
stays a small multiple of its size.

A batch of thousands takes milliseconds, too long to hold up an event loop that also feeds
subscribers. So the work is a generator: it yields now and then, and its caller may let others run.

An array in which something is out of order, or only seems so, is gone through item by item, up to
the first bad one, so that what nonsense costs does not depend on how much of it follows.

What a body is made of, its media type and its content encoding, is told by the headers; a
compressed one is inflated within a bound.
"""

import re
import zlib
from itertools import islice
from typing import Final

import msgspec

from kalam_notify.budget import Steps, at_once
from kalam_notify.errors import ChangeRefused
from kalam_notify.http.foreign import Foreign, decode_foreign, recognised
from kalam_notify.http.items import Form, split_array
from kalam_notify.http.refusals import explain, invalid_json, too_large, too_many
from kalam_notify.http.rules import RawChange, RuleBroken, Rules, is_too_long
from kalam_notify.model import PostedChange

__all__ = ["Batch", "at_once", "decode_batch", "form_of", "inflate", "is_gzip"]

Batch = Steps[list[PostedChange]]

# Changes between two rests: about half a millisecond of 200-byte rows.
_SLICE: Final = 256
# Items, where each is looked at by itself.
_ITEMS: Final = 32

# What tells our own shape from others at a glance, where it begins as most do.
_OUR_MEMBER: Final = b'"change_type"'
_HEAD_BYTES: Final = 1024

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"

_one = msgspec.json.Decoder(RawChange)
_syntax = msgspec.json.Decoder(msgspec.Raw)
_many = msgspec.json.Decoder(list[RawChange])

# A line from its first character that is not white space. Blank lines are passed over in C.
_LINE = re.compile(rb"\S[^\n]*")
_FIRST = re.compile(rb"[^ \t\r\n]")


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


def decode_batch(body: bytes, form: Form, rules: Rules, foreign: Foreign | None = None) -> Batch:
    """The changes of a body, in order. Exhaust it (or use `at_once`) for its return value.

    `foreign` is how changes in other programs' shapes are read; None: they are not.

    Raises ChangeRefused with the status, code, index and field of the first fault; nothing of
    such a batch may be stored.
    """
    _check_unicode(body)
    body = body.removeprefix(_BYTE_ORDER_MARK)
    if foreign is None:
        return _decode_ours(body, form, rules)
    reader = foreign.format
    if reader is None and _OUR_MEMBER not in body[:_HEAD_BYTES]:
        reader = recognised(body, form)
    if reader is not None:
        return decode_foreign(body, form, reader, rules, foreign)
    return _ours_or_foreign(body, form, rules, foreign)


def _ours_or_foreign(body: bytes, form: Form, rules: Rules, foreign: Foreign) -> Batch:
    """A body in our own shape, unless it turns out at its first change that it is not."""
    try:
        return (yield from _decode_ours(body, form, rules))
    except ChangeRefused as refusal:
        reader = recognised(body, form) if refusal.index in (0, None) else None
        if reader is None:
            raise
    return (yield from decode_foreign(body, form, reader, rules, foreign))


def _decode_ours(body: bytes, form: Form, rules: Rules) -> Batch:
    if form is Form.LINES:
        return _decode_lines(body, rules)
    first = _FIRST.search(body)
    if first is None:
        raise invalid_json("the body is empty")
    if first.group() == b"[":
        return _decode_array(body, rules)
    return _decode_single(body, rules)


def _check_unicode(body: bytes) -> None:
    # The typed decoder does not look into the fields it skips, so this is done for the whole.
    try:
        _ = body.isascii() or body.decode()
    except UnicodeDecodeError as fault:
        raise invalid_json(f"the body is not UTF-8: {fault.reason} at byte {fault.start}") from None


def _decode_single(body: bytes, rules: Rules) -> Batch:
    yield from ()
    return [_decode_one(body, 0, rules)]


def _decode_one(text: bytes, index: int, rules: Rules) -> PostedChange:
    try:
        return rules.admit(_one.decode(text))
    except (RuleBroken, msgspec.ValidationError, TypeError):
        return _decode_again(text, index, rules)
    except msgspec.DecodeError as fault:
        raise invalid_json(str(fault), index) from None
    except RecursionError:
        raise invalid_json("nested too deeply", index) from None


def _decode_again(text: bytes, index: int, rules: Rules) -> PostedChange:
    """A change that was doubted: with the last of a name given twice, or else its refusal."""
    limit = rules.limits.max_row_bytes
    field = rules.too_long(text)
    if field is not None:
        raise too_large(limit, index, field)
    if is_too_long(text, 2 * limit):
        _check_syntax(text, index)
        why = "this change is out of order, and too large to be looked into"
        raise ChangeRefused(413, "TOO_LARGE", why, index=index)
    try:
        return rules.admit(_one.decode(_last_names(text)))
    except (RuleBroken, msgspec.ValidationError, TypeError, msgspec.DecodeError, RecursionError):
        raise explain(text.decode(), index, rules) from None


def _last_names(text: bytes) -> bytes:
    """The same JSON without names given twice: typed decoding judges the first one, too."""
    return msgspec.json.encode(msgspec.json.decode(text))


def _decode_lines(body: bytes, rules: Rules) -> Batch:
    limit = rules.limits.max_batch_changes
    changes: list[PostedChange] = []
    for index, line in enumerate(islice(_LINE.finditer(body), limit + 1)):
        if index == limit:
            raise too_many(limit)
        changes.append(_decode_one(line.group(), index, rules))
        if index % _SLICE == _SLICE - 1:
            yield
    return changes


def _decode_array(body: bytes, rules: Rules) -> Batch:
    try:
        posts = _many.decode(body)
    except msgspec.ValidationError:
        _check_syntax(body)
        return (yield from _decode_items(body, rules))
    except msgspec.DecodeError as fault:
        raise invalid_json(str(fault)) from None
    except RecursionError:
        raise invalid_json("nested too deeply") from None
    if len(posts) > rules.limits.max_batch_changes:
        raise too_many(rules.limits.max_batch_changes)
    changes: list[PostedChange] = []
    for start in range(0, len(posts), _SLICE):
        if start:
            yield
        if not _admit_slice(posts[start : start + _SLICE], rules, changes):
            return (yield from _decode_items(body, rules))
    return changes


def _check_syntax(text: bytes, index: int | None = None) -> None:
    """The typed decoder stops at the first thing amiss: see whether the rest is JSON at all."""
    try:
        _syntax.decode(text)
    except msgspec.DecodeError as fault:
        raise invalid_json(str(fault), index) from None
    except RecursionError:
        raise invalid_json("nested too deeply", index) from None


def _admit_slice(posts: list[RawChange], rules: Rules, into: list[PostedChange]) -> bool:
    try:
        into.extend(map(rules.admit, posts))
    except (RuleBroken, msgspec.ValidationError, TypeError):
        return False
    return True


def _decode_items(body: bytes, rules: Rules) -> Batch:
    """An array that is JSON, item by item."""
    limit = rules.limits.max_batch_changes
    changes: list[PostedChange] = []
    for item in split_array(body):
        if item is None:
            yield
            continue
        if len(changes) == limit:
            raise too_many(limit)
        changes.append(_decode_one(item, len(changes), rules))
        if len(changes) % _ITEMS == 0:
            yield
    return changes
