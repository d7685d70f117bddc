"""Whether a socket is read: one owner of the transport's pause_reading and resume_reading.

Several parts of a connection have reasons to stop hearing a client for a while, and none may wake
it while another still has one. Each reason is held and released by whoever has it; reading goes on
when none is left. What was read before the pause waits, unheard, in the connection's Inbound.
"""

import asyncio
from enum import Enum
from typing import Final


class Reason(Enum):
    """Why a client is not heard at the moment."""

    SEND_BUFFER = 1  # answers pile up, for it does not read them
    KEY = 2  # the key its token is signed with is being fetched
    RATE = 4  # it has made more work than its rate allows
    REQUESTS = 8  # requests of its own wait to be served
    TURN = 16  # it has been heard for long enough; others first


# No reason, but the end: nothing is heard any more.
_SHUT: Final = 32


class ReadingGate:
    """Open while there is no reason against reading."""

    __slots__ = ("_held", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        # The values of the reasons held, added up: there may be 25,000 of these.
        self._held = 0

    @property
    def is_open(self) -> bool:
        return not self._held

    def holds(self, reason: Reason) -> bool:
        return bool(self._held & reason.value)

    def hold(self, reason: Reason) -> None:
        """Stop reading for this reason, whatever others there are."""
        if not self._held and not self._transport.is_closing():
            self._transport.pause_reading()
        self._held |= reason.value

    def release(self, reason: Reason) -> bool:
        """A reason is gone; True: it was the last one, and reading goes on."""
        if not self._held & reason.value:
            return False
        self._held &= ~reason.value
        return self._resumes()

    def release_all(self) -> bool:
        """No reason counts any more; True: there was one, and reading goes on."""
        if not self._held or self._held & _SHUT:
            return False
        self._held = 0
        return self._resumes()

    def shut(self) -> None:
        """Nothing is read any more, whoever releases what."""
        self._held |= _SHUT

    def _resumes(self) -> bool:
        if self._held or self._transport.is_closing():
            return False
        self._transport.resume_reading()
        return True
