"""Closing is a vocabulary: every code this server closes with, and what a client does next."""

from enum import Enum
from typing import NamedTuple


class Reconnect(Enum):
    """What a client should do after a close."""

    ITS_CHOICE = "its choice"
    JITTERED = "yes, after a random delay"
    NO = "no: the client is at fault and would be closed again"
    WITH_NEW_TOKEN = "with a new token"
    AFTER_A_PAUSE = "yes, after a pause"


class Close(NamedTuple):
    """A close code and the reason sent with it."""

    code: int
    reason: str


RECONNECT: dict[int, Reconnect] = {
    1000: Reconnect.ITS_CHOICE,
    1001: Reconnect.JITTERED,
    1002: Reconnect.NO,
    1007: Reconnect.NO,
    1008: Reconnect.WITH_NEW_TOKEN,
    1009: Reconnect.NO,
    1011: Reconnect.AFTER_A_PAUSE,
    1013: Reconnect.AFTER_A_PAUSE,
}

NORMAL = Close(1000, "")
SHUTTING_DOWN = Close(1001, "server shutting down")
BROKEN_COMPRESSION = Close(1002, "this does not inflate")
SUBPROTOCOL = Close(1002, "this subprotocol is not spoken here: offer none, or bearer and a token")
INVALID_UTF8 = Close(1007, "invalid UTF-8")
AUTH_FAILED = Close(1008, "authentication failed")
AUTH_TIMEOUT = Close(1008, "authentication timed out")
AUTH_EXPIRED = Close(1008, "token expired")
AUTH_REVOKED = Close(1008, "token revoked")
ABUSE = Close(1008, "message rate exceeded tenfold")
TOO_LARGE = Close(1009, "the message is too large")
HEARTBEAT_TIMEOUT = Close(1011, "heartbeat timeout")
INTERNAL_FAULT = Close(1011, "internal error")
KEYS_UNAVAILABLE = Close(1013, "the keys for tokens cannot be had at the moment")
CUT_OFF = Close(1013, "this server is cut off from its log")
SLOW_READER = Close(1013, "slow reader: took no data in time")
NO_ROOM = Close(1013, "too many messages have come in part")
BEHIND_RETENTION = Close(1013, "slow reader: fell behind the log's retention")


def unreadable(why: str) -> Close:
    """The close for a message that is not one of the protocol's; `why` fits a close frame."""
    return Close(1011, why.encode()[:120].decode(errors="ignore"))
