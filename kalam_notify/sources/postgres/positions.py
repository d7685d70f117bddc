"""Where in PostgreSQL's history something stands: LSNs, positions, and the cut of a copy. No I/O.

A *position* is where the stream has been told up to: the end of the last whole transaction, and
how many changes of the one after it, which is told again from its beginning and in the same order.
It names the cluster and the timeline it is of, for an LSN alone means nothing in another one.

A *cut* is a snapshot: which transactions a copy has seen. Transactions become visible in about the
order of their commits, and only about: so it is asked of each of them by its number, as
pg_visible_in_snapshot does, until the stream has passed every one that the copy can have seen.
"""

from collections.abc import Sequence

import msgspec

_HALF, _WHOLE = 1 << 31, 1 << 32


def lsn_number(text: str) -> int:
    """An LSN as the byte it stands for: `16/B374D848` -> 0x16B374D848."""
    high, _, low = text.partition("/")
    return int(high, 16) << 32 | int(low, 16)


def lsn_text(number: int) -> str:
    return f"{number >> 32:X}/{number & 0xFFFFFFFF:X}"


class Position(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a slot's changes have been told."""

    # pg_control's system identifier; an integer beyond 2^53, so text.
    system: str
    timeline: int
    # Every transaction whose commit ends here or before has been told whole.
    lsn: int
    # Of the transaction that commits at this LSN, this many changes have been told.
    commit: int = 0
    done: int = 0

    def encode(self) -> str:
        return msgspec.json.encode(self).decode()


def decode_position(text: str) -> Position:
    return msgspec.json.decode(text, type=Position)


class Cut(msgspec.Struct, frozen=True):
    """Which transactions a copy has seen: those before `xmax` that were not `running`.

    Transaction numbers have 64 bits. Every transaction that was seen commits before the LSN `upto`.
    """

    xmin: int
    xmax: int
    running: frozenset[int]
    upto: int

    def sees(self, xid: int) -> bool:
        """Whether the copy has seen the transaction of this number, of 32 bits."""
        # The one nearest to the snapshot: numbers of 32 bits come round.
        distance = (xid - self.xmax + _HALF) % _WHOLE - _HALF
        full = self.xmax + distance
        return full < self.xmin or (full < self.xmax and full not in self.running)

    def covers(self, xid: int, commit_lsn: int) -> bool:
        """Whether the stream need not tell this transaction."""
        return commit_lsn < self.upto and self.sees(xid)

    def sees_all(self, xids: Sequence[int]) -> bool:
        return all(map(self.sees, xids))

    def encode(self) -> str:
        return msgspec.json.encode(self).decode()


def parse_cut(snapshot: str, upto: int) -> Cut:
    """The cut of pg_current_snapshot()'s text, `xmin:xmax:xip,...`."""
    xmin, xmax, running = snapshot.split(":")
    return Cut(int(xmin), int(xmax), frozenset(int(xid) for xid in running.split(",") if xid), upto)


def decode_cut(text: str) -> Cut:
    return msgspec.json.decode(text, type=Cut)


def left_behind(reached: Position, timeline: int, history: str) -> bool:
    """Whether a server on `timeline` never had what has been told up to a position.

    `history` is its timeline's history file: a line for each timeline before, with the LSN at
    which it was left.
    """
    if reached.timeline == timeline:
        return False
    for line in history.splitlines():
        parts = line.split()
        if len(parts) >= 2 and parts[0] == str(reached.timeline):
            return reached.lsn > lsn_number(parts[1]) or reached.commit > lsn_number(parts[1])
    return True
