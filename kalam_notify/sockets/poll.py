"""The connection behind one long poll: it keeps what it is told until its request takes it.

Messages come as events (protocol/events.py), each with the position that it brings its reader to.
"""

import asyncio
import re

from kalam_notify.model import ConnectionId, Identity
from kalam_notify.protocol import close
from kalam_notify.protocol.close import Close
from kalam_notify.protocol.events import Events, event
from kalam_notify.protocol.messages import Framing
from kalam_notify.sockets.asked import refusal_in
from kalam_notify.subscriptions.plans import NO_FD, SubscriptionHandle


class Poll:
    """The connection behind one request. Full beyond `limit` bytes of messages."""

    def __init__(self, identity: Identity, address: str, limit: int) -> None:
        self.connection_id = ConnectionId(0)
        self.address = address
        self.opened_at = 0.0
        self.subscriptions: dict[str, SubscriptionHandle] = {}
        self.deflates: Framing = Events.PLAIN
        self.identity = identity
        # Set by whatever ends a wait: a message, a refusal, the end of the connection.
        self.wake = asyncio.Event()
        # Why it is over, before or instead of an answer.
        self.ended: Close | None = None
        # Whether a change has come, not only what answers the request itself.
        self.has_changes = False
        # Up to where it has been told everything.
        self.position: int | None = None
        self.error: tuple[str, str] | None = None
        self._limit = limit
        self._events: list[bytes] = []
        self._size = 0
        self._is_full = False

    # What the manager and the fan-out see

    @property
    def direct_fd(self) -> int:
        # Asked for when the subscription joins the live ones: it has been told all there was.
        self.wake.set()
        return NO_FD

    @property
    def has_room(self) -> bool:
        return not self._is_full and self.ended is None

    @property
    def waiting(self) -> int:
        return self._size

    def offer(self, frames: bytes) -> bool:
        self._is_full = self._size > 0 and self._size + len(frames) > self._limit
        if not self._is_full:
            self._take(frames)
        self.has_changes = True
        self.wake.set()
        return not self._is_full

    def hold(self, frames: bytes) -> bool:
        return self.offer(frames)

    def flush(self) -> None:
        """Nothing is held apart."""

    def take_held(self) -> tuple[int, bytes]:
        return NO_FD, b""

    def complete(self, frames: bytes, sent: int) -> None:
        """Nothing is written past it."""

    def send(self, payload: bytes) -> None:
        code, message = refusal_in(payload)
        self.error = code, message
        self._take(event(payload, Events.PLAIN))
        self.wake.set()

    def send_frames(self, frames: bytes) -> None:
        self._take(frames)
        self.wake.set()

    def end(self, reason: Close) -> None:
        self.ended = self.ended or reason
        self.wake.set()

    def token_revoked(self) -> None:
        self.end(close.AUTH_REVOKED)

    def abort(self) -> None:
        self.end(close.SHUTTING_DOWN)

    # What the request takes

    def _take(self, events: bytes) -> None:
        self._events.append(events)
        self._size += len(events)

    def taken(self) -> list[bytes]:
        """The messages so far, as JSON; the position follows them."""
        text = b"".join(self._events)
        self._events, self._size = [], 0
        payloads = []
        for data, seq in _EVENT.findall(text):
            payloads.append(data)
            if seq:
                self.position = int(seq)
        return payloads


# Neither part has a line end of its own.
_EVENT = re.compile(rb"data: ([^\n]*)\n(?:id: (\d+)\n)?\n")
