"""A connection's outbox: the one owner of what waits for its socket, and of the way there.

The kernel's send is nearly all of what a delivery costs, so bytes go straight to the descriptor as
long as nothing waits in front of them; the rest of a partial write, and everything behind it, goes
through the transport, which keeps the order and says when it has drained.

    state    means                                            where bytes go
    DIRECT   nothing waits in the transport                   to the descriptor (TLS: the transport)
    QUEUED   bytes wait in the transport; a drain will come   behind them, up to the limit
    CLOSED   the transport is closing, or closed              nowhere

    event                    DIRECT        QUEUED       CLOSED
    bytes taken whole        DIRECT        -            CLOSED
    bytes taken in part      QUEUED        QUEUED       CLOSED
    the transport drained    DIRECT        DIRECT       CLOSED
    closed                   CLOSED        CLOSED       CLOSED

Beside these, bytes can be *held*: taken, but written only at the next flush, so that several
messages become one system call. Held bytes are nobody's fault; only *queued* ones, which stand in
the transport, say anything about the peer's reading. A peer is slow when bytes are queued and its
socket has taken none of them for a while: `stalled_for` tells how long. What our own kernel has
taken says little: its buffer grows to megabytes and asks for more when a third of it is free, so a
peer that reads steadily takes nothing from the transport for minutes. So what the kernel still
holds counts as not taken, where it can be asked (SIOCOUTQ, tcp(7)).

Whoever may write without asking keeps a copy of one number, `direct_fd`: the descriptor while the
outbox is DIRECT and holds nothing, else NO_FD. Every change of it is told to the owner.
Invariant: bytes written to `direct_fd` never overtake bytes that were taken before.

While its owner hears what has come, in one turn of the loop, the outbox is *corked*: what is said
meanwhile is held, and `direct_fd` stays, for nobody else writes before the turn is over.

The transport's high-water mark is 0: it calls `pause_writing` as soon as a byte waits, and
`resume_writing` when none does. A write whose bytes all leave at once pauses nothing, and nothing
would resume it: so a partial write by itself changes no state, the transport's call does.

Descriptors are reused: `direct_fd` must be NO_FD before the transport closes its own. Both uvloop
and asyncio close it only after `connection_lost`, where the owner calls `close`.
"""

import asyncio
import os
import sys
from enum import Enum
from fcntl import ioctl
from termios import TIOCOUTQ
from typing import Protocol

from kalam_notify.subscriptions.plans import NO_FD, SubscriptionHandle, set_direct_fd


class OutboxState(Enum):
    DIRECT = "direct"
    QUEUED = "queued"
    CLOSED = "closed"


_DIRECT, _QUEUED, _CLOSED = OutboxState.DIRECT, OutboxState.QUEUED, OutboxState.CLOSED


class Owner(Protocol):
    """Who keeps copies of `direct_fd`."""

    def direct_fd_moved(self) -> None:
        """`direct_fd` is another one now."""


class Outbox:
    """The sending side of one connection."""

    __slots__ = (
        "_fd",
        "_held",
        "_is_corked",
        "_limit",
        "_owner",
        "_queued_ever",
        "_socket_fd",
        "_taken_seen",
        "_transport",
        "direct_fd",
        "held",
        "stalled_since",
    )

    def __init__(self, owner: Owner, transport: asyncio.Transport, limit: int) -> None:
        """For the transport of an open socket; nothing may be sent before `start`.

        `limit` (bytes) is how much may be queued before an offer is refused.
        """
        self._owner: Owner | None = owner
        self._transport = transport
        self._limit = limit
        is_plain = transport.get_extra_info("sslcontext") is None
        sock = transport.get_extra_info("socket")
        # Whose kernel buffer is asked about; NO_FD: nobody's.
        self._socket_fd: int = NO_FD if sock is None else sock.fileno()
        # Where bytes go without the transport; NO_FD: nowhere but through it.
        self._fd = self._socket_fd if is_plain else NO_FD
        # What is held for the next flush, and how many bytes that is.
        self._held: list[bytes] | None = None
        self.held = 0
        self._is_corked = False
        # Bytes that ever went through the transport, and how many of them the peer had taken when
        # last looked at (but for a constant); None: the next look begins.
        self._queued_ever = 0
        self._taken_seen: int | None = 0
        # Since when (monotonic seconds) queued bytes have not been seen to move; None: the
        # transport has not called for a pause.
        self.stalled_since: float | None = None
        self.direct_fd = self._fd

    def start(self, now: float) -> None:
        """Begin to send; `now` is monotonic, in seconds, as everywhere here.

        The transport may call `pause_writing` out of this call already.
        """
        self._transport.set_write_buffer_limits(high=0)
        if self._transport.get_write_buffer_size():
            self.blocked(now)

    # What is known

    @property
    def state(self) -> OutboxState:
        if self._owner is None:
            return _CLOSED
        return _DIRECT if self.stalled_since is None else _QUEUED

    @property
    def queued(self) -> int:
        """Bytes that stand in the transport."""
        return self._transport.get_write_buffer_size()

    @property
    def waiting(self) -> int:
        """Bytes that the socket has not been given yet, held or queued."""
        return self.held + self._transport.get_write_buffer_size()

    @property
    def has_room(self) -> bool:
        """Whether nothing is queued, and so no drain is to be waited for."""
        return self.direct_fd >= 0 or self._transport.get_write_buffer_size() == 0

    @property
    def is_over_limit(self) -> bool:
        """Whether more is queued than an offer could have made it."""
        return (
            self.stalled_since is not None and self._transport.get_write_buffer_size() > self._limit
        )

    def stalled_for(self, now: float) -> float:
        """For how many seconds bytes have been queued of which the socket has taken none.

        Told as of the last look: never longer than it was.
        """
        queued = self._transport.get_write_buffer_size()
        if not queued or self.stalled_since is None:
            return 0.0
        taken = self._taken(queued)
        if taken != self._taken_seen:
            self._taken_seen, self.stalled_since = taken, now
        return now - self.stalled_since

    def _taken(self, queued: int) -> int:
        return self._queued_ever - queued - _unacknowledged(self._socket_fd)

    # What the transport and its owner tell

    def blocked(self, now: float) -> None:
        """Bytes wait in the transport from `now` on."""
        if self.state is not _CLOSED:
            self.stalled_since = now
            self._taken_seen = self._taken(self._transport.get_write_buffer_size())
            self._move_direct_fd()

    def drained(self) -> None:
        """The transport has written everything."""
        if self.state is not _CLOSED:
            self.stalled_since = None
            self._move_direct_fd()

    def close(self) -> None:
        """Write nothing any more; what was held is dropped, and the owner let go."""
        self.stalled_since = None
        self._held, self.held = None, 0
        self._fd = self._socket_fd = NO_FD
        self._move_direct_fd()
        self._owner = None

    def _move_direct_fd(self) -> None:
        is_free = self.stalled_since is None and self._held is None
        direct_fd = self._fd if is_free else NO_FD
        if direct_fd != self.direct_fd:
            self.direct_fd = direct_fd
            if self._owner is not None:
                self._owner.direct_fd_moved()

    # Bytes in

    def offer(self, frames: bytes) -> bool:
        """Hand over whole frames; False: they would not fit, and nothing was taken.

        False only while bytes are queued: when they have drained, the owner hears of it.
        """
        if self._held is not None:
            self.flush()
        if self.state is _QUEUED and self._is_full(len(frames)):
            # A closing transport will not drain; whoever was refused would wait for it.
            return self._transport.is_closing()
        self._write(frames)
        return True

    def push(self, data: bytes) -> None:
        """Hand over whole frames whatever waits: answers, pings, the close frame."""
        if self._held is not None:
            self.flush()
        self._write(data)

    def hold(self, frames: bytes) -> bool:
        """Take whole frames for the next flush; False: they would not fit."""
        if self.held + len(frames) > self._limit:
            self.flush()
        if self.state is _QUEUED and self._is_full(self.held + len(frames)):
            return False
        self.defer(frames)
        return True

    def defer(self, frames: bytes) -> None:
        """Take whole frames for the next flush, whatever waits."""
        if self._held is None:
            self._held = []
            if not self._is_corked:
                self._move_direct_fd()
        self._held.append(frames)
        self.held += len(frames)

    def say(self, frames: bytes) -> None:
        """Like `push`, but while it is corked held until it is not."""
        if self._is_corked:
            self.defer(frames)
        else:
            self.push(frames)

    def cork(self) -> None:
        """Hold what is said, until `uncork` in the same turn of the loop."""
        self._is_corked = True

    def uncork(self) -> None:
        """Write what was said meanwhile as one piece."""
        self._is_corked = False
        self.flush()

    def flush(self) -> None:
        """Write what was held as one piece."""
        if self._held is None:
            return
        frames = self._take_held()
        if frames:
            self._write(frames)

    def take_held(self) -> tuple[int, bytes]:
        """What was held, for the caller to write to this descriptor at once, and `complete`.

        (NO_FD, b"") where there is nothing, or where it had to go another way.
        """
        if self.state is _DIRECT and self._fd >= 0 and self._held is not None:
            return self._fd, self._take_held()
        self.flush()
        return NO_FD, b""

    def complete(self, frames: bytes, sent: int) -> None:
        """Take what a direct write did not: all but the first `sent` bytes; -1: it is broken."""
        if sent < 0:
            # The peer is gone; the transport finds out by itself and says connection_lost.
            self.close_direct()
            self._transport.abort()
        else:
            self._queue(memoryview(frames)[sent:])

    def close_direct(self) -> None:
        """Never write directly again: the descriptor is about to close."""
        self._fd = NO_FD
        self._move_direct_fd()

    # Bytes out

    def _take_held(self) -> bytes:
        held, self._held, self.held = self._held, None, 0
        if held is None:
            return b""
        if self.direct_fd < 0:
            self._move_direct_fd()
        return held[0] if len(held) == 1 else b"".join(held)

    def _write(self, frames: bytes) -> None:
        if self.direct_fd < 0:
            self._queue(frames)
            return
        try:
            sent = os.write(self.direct_fd, frames)
        except BlockingIOError:
            sent = 0
        except OSError:
            sent = -1
        if sent != len(frames):
            self.complete(frames, sent)

    def _queue(self, data: bytes | memoryview) -> None:
        transport = self._transport
        if self._owner is None or transport.is_closing():
            return
        if not transport.get_write_buffer_size():
            # These begin to wait now, whenever the last ones did; the next look starts the clock.
            self._taken_seen = None
        self._queued_ever += len(data)
        transport.write(data)

    def _is_full(self, more: int) -> bool:
        """Whether the transport holds too much for `more` bytes to be added.

        Invariant: True only while the transport holds bytes, for then, and only then, it will
        call `resume_writing`, and whoever was refused is fed.
        """
        queued = self._transport.get_write_buffer_size()
        return queued > 0 and queued + more > self._limit


def _unacknowledged(fd: int) -> int:
    """Bytes that the kernel holds for a socket's peer; 0 where it does not tell."""
    if fd < 0 or not sys.platform.startswith("linux"):
        return 0
    try:
        return int.from_bytes(ioctl(fd, TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:
        return 0


class OutboxSink:
    """A connection as the fan-out and the feeder see it (`Sink`), where all goes to its outbox."""

    __slots__ = ("outbox", "subscriptions")

    outbox: Outbox
    # By the client's own names for them.
    subscriptions: dict[str, SubscriptionHandle]

    @property
    def direct_fd(self) -> int:
        return self.outbox.direct_fd

    @property
    def has_room(self) -> bool:
        return self.outbox.has_room

    @property
    def waiting(self) -> int:
        return self.outbox.waiting

    def offer(self, frames: bytes) -> bool:
        return self.outbox.offer(frames)

    def hold(self, frames: bytes) -> bool:
        return self.outbox.hold(frames)

    def take_held(self) -> tuple[int, bytes]:
        return self.outbox.take_held()

    def complete(self, frames: bytes, sent: int) -> None:
        self.outbox.complete(frames, sent)

    def flush(self) -> None:
        self.outbox.flush()

    def direct_fd_moved(self) -> None:
        set_direct_fd(self.subscriptions.values(), self.outbox.direct_fd)
