"""Which of several nodes tells a source: a chain of marks, each of which names the one before it.

    claim <- batch <- batch <- claim of another node <- batch <- ...
                ^---------- batch of the first node: refused, for it is not the last mark any more

Nodes that share a log (`EventLog.cluster`) may all follow one source. A lock in the source sees to
it that one does at a time, and that another goes on when it dies (`Source.alone`). But no lock is
proof against a node that was frozen, or against a batch that was long on its way: they come when
somebody else has gone on. So every batch names the mark that it follows on, and the log takes none
that does not follow on the last one, on every node alike. Names are not given twice: no mark is
taken for another one, not even after a log that has lost its end.
"""

import secrets

from msgspec.structs import replace

from kalam_notify.model.sourced import SourceMark


class Marks:
    """The links of one session, which follow on `last`."""

    def __init__(self, last: str) -> None:
        self.last = last
        self._life = secrets.token_hex(8)
        self._count = 0

    def following(self, mark: SourceMark) -> SourceMark:
        """The mark, as one that follows on the last one that was stored."""
        self._count += 1
        return replace(mark, follows=self.last, id=f"{self._life}-{self._count}")

    def stored(self, mark: SourceMark) -> None:
        """The log has taken it."""
        self.last = mark.id or ""
