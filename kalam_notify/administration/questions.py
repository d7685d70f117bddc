"""What a worker is asked by another, and what it answers, as frozen values.

A connection's id is unique within one life of a worker only. To operators it is told as
`WORKER-LIFE-NUMBER`, so that the id of a worker that was replaced never names a connection of its
successor.
"""

import base64
import binascii
import re
from typing import Literal, NamedTuple

import msgspec

MAX_LIMIT = 1000
PAGE_BYTES = 256 * 1024
"""About so many bytes of JSON make a page, however few rows that is."""

_NAME = re.compile(r"([1-9][0-9]{0,5})-([0-9a-f]{6})-([1-9][0-9]{0,17})")

Subject = Literal["connections", "subscriptions", "tables"]


class ConnectionName(NamedTuple):
    """A connection as operators know it; `worker` from 1, `life` of that worker."""

    worker: int
    life: str
    number: int

    def __str__(self) -> str:
        return f"{self.worker}-{self.life}-{self.number}"

    @classmethod
    def parse(cls, text: str) -> "ConnectionName | None":
        match = _NAME.fullmatch(text)
        return None if match is None else cls(int(match[1]), match[2], int(match[3]))


class Place(msgspec.Struct, frozen=True, array_like=True):
    """A row of a list of one worker: a connection's number and, with it, a name on it.

    Of subscriptions the name is the client's own id, of tables (number 0) the table's.
    """

    number: int = 0
    name: str = ""


START = Place()


class Listing(msgspec.Struct, frozen=True, tag=True):
    """Which connections, subscriptions or tables there are after a place, in its order.

    `after` counts in the `life` it was told in; in another one the list is told from its start.
    Those of `user`, of `connection` and of `table` only, where these are given; with `lagging`
    those with, or without, a subscription that is not live.
    """

    subject: Subject
    limit: int
    max_bytes: int = PAGE_BYTES
    after: Place = START
    life: str = ""
    user: str | None = None
    connection: int | None = None
    table: str | None = None
    lagging: bool | None = None


class Kick(msgspec.Struct, frozen=True, tag=True):
    """Close a connection; answered by one row, or none where there is no such connection."""

    life: str
    number: int
    reason: str


class Why(msgspec.Struct, frozen=True, tag=True):
    """What became of the change `seq` at the subscriptions of a user; answered by one row."""

    seq: int
    user: str


Question = Listing | Kick | Why


class Answer(msgspec.Struct, frozen=True):
    """Rows as JSON; `last` is the place of the last one where more would follow, else None."""

    life: str
    rows: list[bytes]
    last: Place | None = None


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """Where the next page begins: after a place of a worker (from 1)."""

    worker: int
    life: str = ""
    after: Place = START

    def __str__(self) -> str:
        return base64.urlsafe_b64encode(msgspec.msgpack.encode(self)).rstrip(b"=").decode()

    @classmethod
    def parse(cls, text: str) -> "Cursor | None":
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            return _decode(raw)
        except (binascii.Error, ValueError, msgspec.DecodeError):
            return None


_decode = msgspec.msgpack.Decoder(Cursor).decode
