"""What a node reads of the stream, and when: the decisions of the tail. No I/O, no clock.

    IDLE ----- Ask ----> ASKED ----- answer ended, or silent for 1 s -----> IDLE
    IDLE ----- Look ---> LOOKING --- STREAM.INFO answered, or not --------> IDLE

There is one question at a time, which has a number: what still comes in answer to an earlier one is
passed over. Whatever comes is taken only if it follows directly on what was taken last, so nothing
is missing, doubled or out of order, whoever answers; and any replica may, also one that lags.

A message that is stored comes unasked, too: with the bell. That is the usual way, and saves half
the work of a node that keeps up. A node that does not, asks.

Nothing is asked while there is no room for it. Else at once, as long as the stream is known to go
on (`want`, from bells, own acknowledgements, and what answers tell); after a pause, where it gave
nothing nevertheless, for that replica lags; and now and then anyway, should a bell have been lost.

An answer that does not follow, many that give nothing, and one that says that nobody answers, make
doubt: then the leader is asked how the stream stands. It was trimmed (Trimmed), or does not hold
what it should three times in a row (Astray), or all is well and it is asked again.
"""

from enum import Enum
from typing import NamedTuple

from kalam_notify.log.nats.faults import Astray, Trimmed
from kalam_notify.log.nats.stream import StreamMessage

BATCH_MESSAGES = 256
BATCH_BYTES = 4 * 1024 * 1024

SILENCE_SECONDS = 1.0
LAG_SECONDS = 0.02
POLL_SECONDS = 0.5
"""How long a lost bell may go unnoticed, and room that nobody has told of."""

EMPTY_ANSWERS = 50
"""So many answers without a message, though there should be one, make doubt."""
STRAYS = 3

State = Enum("State", ["IDLE", "ASKED", "LOOKING"])


class Ask(NamedTuple):
    """Ask for the messages from `seq` on, under this number."""

    number: int
    seq: int


class Look(NamedTuple):
    """Ask the leader where the stream begins and ends."""


class Wait(NamedTuple):
    """There is nothing to do before this time, if nothing happens; None: at all."""

    until: float | None


class Reading:
    """Where one reader of the stream is. `upto` is the sequence that was taken last.

    Invariant: every message in `taken` follows on the one before it, over all calls, and the first
        of all on the `upto` that it began with.
    """

    def __init__(self, upto: int) -> None:
        self.upto = upto
        # The highest sequence that is known to be in the stream.
        self.want = upto
        self.state = State.IDLE
        self._number = 0
        # When something came last in answer to the question there is.
        self._heard_at = 0.0
        self._count = 0
        # When to ask where there should be more, and where nothing is known to be.
        self._again_at = self._poll_at = float("-inf")
        self._empty = self._strays = 0
        self._has_doubt = False
        self._run: list[StreamMessage] = []

    @property
    def is_asked(self) -> bool:
        """Whether an answer is under way."""
        return self.state is State.ASKED

    def hear(self, seq: int) -> None:
        """The stream is said to have a message of this sequence."""
        self.want = max(self.want, seq)

    def ring(self, message: StreamMessage, now: float, *, has_room: bool) -> None:
        """The stream has stored this message, which came unasked.

        It is taken where it is the next one, nothing else is under way, and there is room for it;
        else it is asked for when its time has come.
        """
        is_next = message.seq == self.upto + 1
        if self.state is State.IDLE and is_next and has_room and not self._has_doubt:
            self._run.append(message)
            self.upto += 1
            self._poll_at = now + POLL_SECONDS
        self.hear(message.seq)

    def taken(self) -> list[StreamMessage]:
        """The messages of an answer that has ended, once; empty while one is under way."""
        if self.state is State.ASKED or not self._run:
            return []
        run, self._run = self._run, []
        return run

    def step(self, now: float, *, has_room: bool) -> Ask | Look | Wait:
        """What to do now: a question that is put from here on, or to wait."""
        if self.state is State.LOOKING:
            return Wait(None)
        if self.state is State.ASKED:
            if now < self._heard_at + SILENCE_SECONDS:
                return Wait(self._heard_at + SILENCE_SECONDS)
            self.state = State.IDLE
            self._again_at = self._poll_at = now
        if self._run:
            # Not behind what has not been fetched.
            return Wait(now)
        if self._has_doubt and now >= self._again_at:
            self.state = State.LOOKING
            return Look()
        if not has_room:
            return Wait(now + POLL_SECONDS)
        due = self._again_at if self.want > self.upto or self._has_doubt else self._poll_at
        if now < due:
            return Wait(due)
        self.state = State.ASKED
        self._number += 1
        self._heard_at, self._count = now, 0
        return Ask(self._number, self.upto + 1)

    def receive(self, number: int, message: StreamMessage, now: float) -> None:
        """A message has come in answer to a question."""
        if self.state is not State.ASKED or number != self._number:
            return
        if message.seq != self.upto + 1:
            # The rest of the answer is of no use either.
            self._strays += 1
            self._has_doubt = True
            self._end(now)
            return
        self._run.append(message)
        self.upto += 1
        self.want = max(self.want, self.upto)
        self._heard_at = now
        self._count += 1
        self._empty = self._strays = 0

    def end(self, number: int, now: float, *, pending: int = 0, nobody: bool = False) -> None:
        """The answer is complete; the replica that gave it has so many more.

        `nobody`: there was no replica to give it.
        """
        if self.state is not State.ASKED or number != self._number:
            return
        if pending:
            self.hear(self.upto + pending)
        self._has_doubt = self._has_doubt or nobody
        self._end(now)

    def _end(self, now: float) -> None:
        self.state = State.IDLE
        self._poll_at = now + POLL_SECONDS
        if self._count:
            self._again_at = now
        elif self.want > self.upto or self._has_doubt:
            self._again_at = now + LAG_SECONDS
            self._empty += 1
            if self._empty % EMPTY_ANSWERS == 0:
                self._has_doubt = True

    def looked(self, first_seq: int, last_seq: int) -> None:
        """The leader has told how the stream stands; raises Trimmed, Astray."""
        self.state = State.IDLE
        self._has_doubt = False
        if first_seq > self.upto + 1:
            raise Trimmed(first_seq)
        if last_seq < self.want:
            self._strays += 1
        self.hear(last_seq)
        if self._strays >= STRAYS:
            raise Astray(
                f"the stream ({first_seq} to {last_seq}) does not give what follows on {self.upto},"
                f" though it was said to reach {self.want}"
            )

    def looked_in_vain(self, now: float) -> None:
        """The leader has not answered: it is asked again after a pause."""
        self.state = State.IDLE
        self._again_at = now + LAG_SECONDS
