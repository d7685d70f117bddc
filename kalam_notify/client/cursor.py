"""Where a subscription stands: the highest seq that everything up to it has been seen of.

Rows and changes of a subscription come in ascending order of `_seq`, so the highest one seen is a
position to resume from; whatever comes again from below it has been seen before.
"""

from collections.abc import Mapping
from typing import Any


def seq_of(row: Mapping[str, Any]) -> int | None:
    """The `_seq` of a row, a decimal string on the wire; None when there is none."""
    seq = row.get("_seq")
    if isinstance(seq, str) and seq.isascii() and seq.isdigit():
        return int(seq)
    return seq if type(seq) is int else None


class Cursor:
    """A position in the server's log; None before the first."""

    __slots__ = ("position",)

    def __init__(self, position: int | None = None) -> None:
        self.position = position

    def restart(self) -> None:
        """Forget the position: the server's log no longer holds it, or is another log."""
        self.position = None

    def advance(self, seq: int | None) -> bool:
        """Move to `seq`; False when it does not lie ahead (None, no seq, is always news)."""
        if seq is None:
            return True
        if self.position is not None and seq <= self.position:
            return False
        self.position = seq
        return True
