"""What a connection may ask for, by the generic cell rate algorithm (ITU-T I.371).

Each message moves a theoretical arrival time forward by 1/rate; a message is over the limit when
that time has run further ahead of the clock than the burst allows. One float replaces a token
bucket's two, which counts with 25,000 connections.

Messages are counted, and so is the work they make. A message over the count is dropped, and ten
times over it is abuse. Work is known only when a message has been inflated and looked at, and then
there is no point in dropping it: whoever has made too much is not read until the debt is paid.
"""

from enum import Enum

TENFOLD = 10
FRAMES = 100
"""Fragments, pings and pongs allowed for each message: they cost little, but not nothing."""

MESSAGE_WORK = 8 * 1024
"""Bytes of work that each message of the rate entitles to, used or not: at the default rate a
message of 1 MiB, or a hundred queries of 4 KiB, fit the burst."""

SQL_WEIGHT = 4
"""How many bytes of other text a byte of SQL is as much work as."""


class Verdict(Enum):
    """What is to be done with a message."""

    PASS = "pass"
    DROP = "drop"
    ABUSE = "abuse"


class MessageRate:
    """One connection's use of the message rate, of ten times that rate, and of the work it allows.

    A dropped message does not count towards the rate, so that a client that slows down is heard
    again at once; it does count towards abuse.
    """

    __slots__ = ("_abuse_at", "_arrival_at", "_frames_at", "_work_at")

    def __init__(self) -> None:
        self._arrival_at = 0.0
        self._abuse_at = 0.0
        self._frames_at = 0.0
        self._work_at = 0.0

    def judge(self, now: float, rate: float, burst: int) -> Verdict:
        """Count one message at time `now` (seconds) against `rate` a second and `burst`."""
        abuse_at = max(self._abuse_at, now) + 1 / (rate * TENFOLD)
        # The burst's own last message fits: half a message of slack beats rounding.
        if abuse_at - now > (burst * TENFOLD + 0.5) / (rate * TENFOLD):
            return Verdict.ABUSE
        self._abuse_at = abuse_at
        arrival_at = max(self._arrival_at, now) + 1 / rate
        if arrival_at - now > (burst + 0.5) / rate:
            return Verdict.DROP
        self._arrival_at = arrival_at
        return Verdict.PASS

    def judge_frame(self, now: float, rate: float, burst: int) -> bool:
        """Count one frame that is no whole message; False: so many are abuse."""
        frames_at = max(self._frames_at, now) + 1 / (rate * FRAMES)
        if frames_at - now > (burst * FRAMES + 0.5) / (rate * FRAMES):
            return False
        self._frames_at = frames_at
        return True

    def charge(self, work: int, now: float, rate: float, burst: int) -> float:
        """Count `work` bytes that were done; the seconds after which more may be asked for."""
        self._work_at = max(self._work_at, now) + work / (rate * MESSAGE_WORK)
        seconds = self._work_at - now - burst / rate
        return seconds if seconds > 0.5 / rate else 0.0
