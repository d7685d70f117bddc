"""A running digest of the changes that a log has stored, by which two logs see that they agree.

CRC-32 (ISO 3309, as zlib has it), chained over the changes in their order: seq and old seq as 64
bits each, little-endian, the kind's first letter, and the new row's JSON. It finds what a defect or
a bad disk has made unequal; it is no proof against somebody who means harm.
"""

import struct
from collections.abc import Sequence
from itertools import chain
from sqlite3 import Connection
from zlib import crc32

from kalam_notify.model import Change

_PLACE = struct.Struct("<QQc").pack
_AT_ONCE = 128
_LETTERS = {"insert": b"i", "update": b"u", "delete": b"d"}


class Digest:
    """`value` after all changes that were added, 32 bits; begins where another one has ended."""

    __slots__ = ("value",)

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def add(self, changes: Sequence[Change]) -> None:
        """Take in changes that follow on those before."""
        # The sum of a whole is that of its parts one after the other: so there are few calls.
        for start in range(0, len(changes), _AT_ONCE):
            some = changes[start : start + _AT_ONCE]
            places = map(
                _PLACE,
                [change.seq for change in some],
                [change.old_seq or 0 for change in some],
                [_LETTERS[change.kind] for change in some],
            )
            rows = [b"" if change.row is None else change.row.json for change in some]
            parts = chain.from_iterable(zip(places, rows, strict=True))
            self.value = crc32(b"".join(parts), self.value)

    def add_stored(self, connection: Connection, after: int, upto: int) -> None:
        """Take in the changes of a span of a file's log."""
        value = self.value
        query = "SELECT seq, old_seq, kind, row FROM log WHERE seq > ? AND seq <= ? ORDER BY seq"
        for seq, old_seq, kind, row in connection.execute(query, (after, upto)):
            value = crc32(_PLACE(seq, old_seq or 0, kind[:1]), value)
            if row is not None:
                value = crc32(row, value)
        self.value = value
