"""Where a node stands: how far it has come with the stream, and whether it can go on. No I/O.

One process keeps one of these; the one that applies writes most of it, the others read it off the
node's file. It lives on the event loop.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator

from kalam_notify.errors import LogUnavailable
from kalam_notify.log.nats.applying import NodeState
from kalam_notify.log.nats.message import NOTHING_SEEN, Seen

_logger = logging.getLogger(__name__)

BEHIND_SECONDS = 10.0
"""How long whoever asks for what the stream holds waits for this node to apply it."""


class Standing:
    """`clock` gives monotonic seconds."""

    def __init__(self, stream: str, clock: Callable[[], float]) -> None:
        self._clock = clock
        # How far the stream has been applied to the file, and what it is known to hold.
        self.state = NodeState(stream, "", 0, 0, 0)
        self.heard = 0
        # Told of every sequence that is heard of.
        self.on_heard: Callable[[int], object] = lambda seq: None
        self._more = asyncio.Event()
        # Whether everything that was in the stream when it was first asked has been applied: until
        # then nothing is read from the file, which would tell of a past.
        self._is_level = False
        # Whether the file is another one by now, or about to be: until that one's state is known,
        # what is known was of the one before.
        self._is_between = False
        # Why this node cannot go on: for as long as this process lives, or until it has found its
        # way back to the stream.
        self._broken: str | None = None
        self._parted: str | None = None
        # When the stream was last known to be there: it has answered, or given something.
        self._answered_at = clock()

    # -- how far ---------------------------------------------------------------------------------

    @property
    def lag(self) -> int:
        """Messages that the stream is known to hold and this node has not applied."""
        return max(0, self.heard - self.state.applied)

    @property
    def seen(self) -> Seen:
        """What a message of this node's tells of how far it is."""
        last = self.state.last
        return NOTHING_SEEN if last is None else Seen(last.seq, last.mid, self.state.digest)

    def hear(self, seq: int) -> None:
        """The stream has answered, and is known to reach this sequence."""
        self._answered_at = self._clock()
        self.heard = max(self.heard, seq)
        self.on_heard(seq)

    def advance(self, state: NodeState) -> None:
        """The file stands here now: wake whoever waits for it."""
        self.state = state
        self._more.set()
        self._more = asyncio.Event()

    async def more(self, seconds: float) -> None:
        """Wait for the file to be brought on, for so long at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._more.wait()

    async def applied_upto(self, seq: int) -> None:
        """Wait until a message has been applied; raises LogUnavailable where that takes long."""
        give_up = self._clock() + BEHIND_SECONDS
        while self.state.applied < seq:
            left = give_up - self._clock()
            if left <= 0:
                raise LogUnavailable("this node is behind the stream")
            await self.more(left)

    # -- whether it has caught up ------------------------------------------------------------------

    @property
    def is_level(self) -> bool:
        """Whether what the file tells is no past: it has been as far as the stream was."""
        return self._is_level

    @property
    def can_be_level(self) -> bool:
        """Whether nothing stands against it but what is left to apply and to publish."""
        return self.standstill is None and not self._is_between

    def reached(self, last_seq: int) -> None:
        """The stream was seen to end there: level if all of it has been applied, and nothing owed.

        What the state says counts now, whatever it was when the stream was asked.
        """
        has_all = self.state.applied >= last_seq and not self.state.owes
        self._is_level = self.can_be_level and has_all

    @contextlib.contextmanager
    def between_files(self) -> Iterator[None]:
        """The file is left for another one, whose state is to be known (`advance`) at the end."""
        self._is_between, self._is_level = True, False
        try:
            yield
        finally:
            self._is_between = False

    # -- whether it can go on --------------------------------------------------------------------

    @property
    def silence(self) -> float:
        """Seconds since the stream was last known to be there."""
        return self._clock() - self._answered_at

    @property
    def standstill(self) -> str | None:
        """Why this node does not go on with the stream; None: it does, or tries to."""
        return self._broken or self._parted

    def part(self, reason: str) -> None:
        """The node does not go on until it has found its way back."""
        if self._parted != reason:
            _logger.error("%s", reason)
        self._parted = reason

    def rejoin(self) -> None:
        """It is on its way again."""
        self._parted = None

    def break_off(self, reason: str) -> None:
        """The node does not go on with this file."""
        if self._broken != reason:
            _logger.error("%s", reason)
        self._broken = reason

    def file_replaced(self) -> None:
        """There is another file, which may do."""
        self._broken = None

    def require_level(self) -> None:
        """Raise LogUnavailable until this node has once caught up."""
        if not self.is_level:
            raise LogUnavailable("this node has not caught up with the stream yet")

    def why_not_ready(self, stale_after: float) -> str | None:
        """Why clients are not to come here."""
        if self.standstill is not None:
            return self.standstill
        if not self.is_level:
            return f"this node has not caught up with the stream: {self.lag} messages are left"
        return self.why_cut_off(stale_after)

    def why_cut_off(self, seconds: float) -> str | None:
        """That the stream has been silent for longer than this."""
        if self.silence <= seconds:
            return None
        return f"the stream has not been reached for {self.silence:.0f} s"
