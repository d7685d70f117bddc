"""A sink without a socket: takes frames up to a bound, and tells what it was given."""

import json
from typing import Any

from kalam_notify.model import ANONYMOUS, ConnectionId, Identity
from kalam_notify.protocol.close import Close
from kalam_notify.protocol.messages import text_frame
from kalam_notify.subscriptions.plans import NO_FD, SubscriptionHandle


class FakeConnection:
    """What the manager and the fan-out see of a connection."""

    def __init__(self, identity: Identity = ANONYMOUS, limit: int = 1 << 20) -> None:
        self.connection_id = ConnectionId(0)
        self.identity = identity
        self.address = "192.0.2.1"
        self.opened_at = 0.0
        self.deflates = False
        # No direct_fd: everything is offered.
        self.direct_fd = NO_FD
        self.subscriptions: dict[str, SubscriptionHandle] = {}
        self.limit = limit
        self.written = b""
        self.writes = 0
        self.waiting = 0
        self.is_stuck = False
        self.ended_with: Close | None = None

    @property
    def has_room(self) -> bool:
        return not self.waiting

    def offer(self, frames: bytes) -> bool:
        if self.waiting and self.waiting + len(frames) > self.limit:
            return False
        self.send_frames(frames)
        return True

    def complete(self, frames: bytes, sent: int) -> None:
        raise AssertionError("there is no direct_fd to complete for")

    def hold(self, frames: bytes) -> bool:
        return self.offer(frames)

    def flush(self) -> None:
        pass

    def take_held(self) -> tuple[int, bytes]:
        return NO_FD, b""

    def send(self, payload: bytes) -> None:
        self.send_frames(text_frame(payload))

    def send_frames(self, frames: bytes) -> None:
        self.written += frames
        self.writes += 1
        if self.is_stuck:
            self.waiting += len(frames)

    def drain(self) -> None:
        """The socket has taken everything."""
        self.is_stuck, self.waiting = False, 0

    def end(self, close: Close) -> None:
        self.ended_with = close

    def heard(self) -> list[dict[str, Any]]:
        """The messages written since the last call."""
        messages, rest = [], self.written
        self.written = b""
        while rest:
            assert rest[0] == 0x81, "an uncompressed text frame"
            length, start = rest[1], 2
            if length == 126:
                length, start = int.from_bytes(rest[2:4], "big"), 4
            elif length == 127:
                length, start = int.from_bytes(rest[2:10], "big"), 10
            messages.append(json.loads(rest[start : start + length]))
            rest = rest[start + length :]
        return messages
