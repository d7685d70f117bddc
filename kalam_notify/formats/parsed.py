"""What a message of another program tells of a row, and the small tools its readers share."""

from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import Literal

import msgspec
import orjson

Verb = Literal["insert", "update", "upsert", "delete", "truncate"]

ABSENT = msgspec.Raw()
"""A member that a message does not have."""

Members = dict[str, msgspec.Raw]
"""A JSON object, taken apart no further than its members."""

members_of: Callable[[msgspec.Raw | bytes], Members] = msgspec.json.Decoder(Members).decode


class ParsedChange(msgspec.Struct, gc=False):
    """One change that a message tells.

    `names` are the database (where told), the schema and the table as their sender spells them; of
    a change in our own shape (`is_ours`) they are one text, in our spelling. `row` and `old` are
    JSON objects, or None. The `…_at` are dotted paths of the message: where a fault is to be looked
    for.
    """

    label: str
    names: tuple[str, ...]
    table_at: str
    verb: Verb
    row: msgspec.Raw | bytes | None = None
    row_at: str = ""
    old: msgspec.Raw | bytes | None = None
    old_at: str = ""
    # The same for the same change however often it is sent. None: the message has nothing of the
    # kind, and is known again only by making no difference to the row.
    id: str | None = None
    # Columns whose values the sender has left out, for they have not changed.
    unchanged: Sequence[str] = ()
    # Whether it leaves out columns without a word.
    omits: bool = False
    is_ours: bool = False
    user_id: str | None = None


class MessageFault(Exception):
    """A message of a known format that is not as the format has it. `field` is a dotted path."""

    def __init__(self, label: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.label = label
        self.message = message
        self.field = field


def given(raw: msgspec.Raw) -> msgspec.Raw | None:
    """The member; None where it is absent or null."""
    return None if raw is ABSENT or is_null(raw) else raw


def is_null(raw: msgspec.Raw | bytes) -> bool:
    """Whether this JSON is a null; a long one is not copied for it."""
    return len(raw) == 4 and bytes(raw) == b"null"


def digest(format: str, *parts: object, order: msgspec.Raw = ABSENT) -> str:
    """An id for what these parts name: equal for equal parts, and for no others in practice.

    Ids of a sender whose `order` rises are neighbours, which the log's index of them is glad of.
    """
    raw = [msgspec.Raw(one) if type(one) is bytes else one for one in parts]
    hashed = blake2b(msgspec.json.encode(raw), digest_size=16).hexdigest()
    first = memoryview(order)[:20].tobytes().decode(errors="replace")
    return f"{format}:{first}:{hashed}"


def joined(members: Iterable[tuple[str, msgspec.Raw | bytes]]) -> bytes:
    """The JSON object of these members."""
    return b"{%b}" % b",".join(b"%b:%b" % (orjson.dumps(name), bytes(raw)) for name, raw in members)


def laid_over(row: msgspec.Raw, changed: msgspec.Raw) -> bytes:
    """The row with the members of `changed` in place of its own."""
    return joined({**members_of(row), **members_of(changed)}.items())


class Reader(msgspec.Struct, frozen=True):
    """A format: its name in `?format=`, what people call a message of it, and how one is read.

    `read` raises MessageFault, or what msgspec raises for JSON of another shape.
    """

    name: str
    title: str
    read: Callable[[msgspec.Raw | bytes], Iterable[ParsedChange]]
