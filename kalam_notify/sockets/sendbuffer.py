"""A socket's bounded send buffer: bytes offered, taken or refused, never waited for.

The kernel's send is nearly all of what a delivery costs, so bytes go straight to the descriptor
as long as nothing waits in front of them; the rest of a partial write, and everything behind it,
goes through the transport, which keeps the order and says when it has drained. Under TLS every
byte goes through the transport.

The transport's high-water mark is 0: it calls `pause_writing` as soon as a byte waits, and
`resume_writing` when none does. So "may write directly" is one number, the direct_fd, kept by those
two calls: the descriptor, or NO_FD. The fan-out keeps a copy of it (subscriptions/roster.py) and is
told of every change by `_direct_fd_moved`.

Descriptors are reused: direct_fd must be NO_FD before the transport closes its own. Both uvloop
and asyncio close it only after `connection_lost`, which calls `shut`.
"""

import asyncio
import os

from kalam_notify.subscriptions.roster import NO_FD


class SendBuffer:
    """The writing side of one connection; WebSocketConnection is one."""

    __slots__ = (
        "_fd",
        "_limit",
        "_pending",
        "_pending_size",
        "_queued",
        "_transport",
        "direct_fd",
    )

    _transport: asyncio.Transport

    def attach(self, transport: asyncio.Transport, limit: int) -> None:
        """Take the transport of an open socket; `limit` is send_buffer_bytes."""
        self._transport = transport
        self._limit = limit
        # What is held for the next flush.
        self._pending: list[bytes] | None = None
        self._pending_size = 0
        # Bytes that ever went through the transport.
        self._queued = 0
        transport.set_write_buffer_limits(high=0)
        if transport.get_extra_info("sslcontext") is None:
            self._fd = transport.get_extra_info("socket").fileno()
        else:
            self._fd = NO_FD
        self.direct_fd = NO_FD if transport.get_write_buffer_size() else self._fd

    def shut(self) -> None:
        """Write nothing directly any more."""
        self._fd = NO_FD
        self._move_direct_fd(NO_FD)

    def drained(self) -> None:
        """The transport has written everything."""
        self._move_direct_fd(self._fd)

    def blocked(self) -> None:
        """Bytes wait in the transport."""
        self._move_direct_fd(NO_FD)

    def _move_direct_fd(self, direct_fd: int) -> None:
        if direct_fd != self.direct_fd:
            self.direct_fd = direct_fd
            self._direct_fd_moved()

    def _direct_fd_moved(self) -> None:
        """For whoever keeps a copy of the direct_fd."""

    @property
    def waiting(self) -> int:
        """Bytes that the socket has not taken yet."""
        return self._transport.get_write_buffer_size() + self._pending_size

    @property
    def queued(self) -> int:
        """Those of them that stand in the transport: only they tell of the peer's reading."""
        return self._transport.get_write_buffer_size()

    @property
    def taken(self) -> int:
        """Bytes that the socket has taken from the transport: grows as the peer reads."""
        return self._queued - self._transport.get_write_buffer_size()

    @property
    def has_room(self) -> bool:
        """Whether nothing waits in the transport, and so no drain is to be waited for."""
        return self.direct_fd >= 0 or self._transport.get_write_buffer_size() == 0

    def offer(self, frames: bytes) -> bool:
        """Hand over whole frames; False: they would not fit, and nothing was taken."""
        if self._pending is not None:
            self.flush()
        if self.direct_fd < 0:
            return self._offer_behind(frames)
        try:
            sent = os.write(self.direct_fd, frames)
        except BlockingIOError:
            sent = 0
        except OSError:
            sent = -1
        if sent != len(frames):
            self.complete(frames, sent)
        return True

    def complete(self, frames: bytes, sent: int) -> None:
        """Take what the socket did not: all but the first `sent` bytes; -1: it is broken."""
        self._move_direct_fd(NO_FD)
        if sent < 0:
            # The peer is gone; the transport finds out by itself and says connection_lost.
            self._transport.abort()
        else:
            self._queue(memoryview(frames)[sent:])

    def _offer_behind(self, frames: bytes) -> bool:
        if self._transport.is_closing():
            return True
        if self._is_full(len(frames)):
            return False
        self._queue(frames)
        return True

    def _is_full(self, more: int) -> bool:
        """Whether the transport holds too much for `more` bytes to be added.

        Invariant: True only while the transport holds bytes, for then, and only then, it will
        call `resume_writing`, and whoever was refused is fed.
        """
        waiting = self._transport.get_write_buffer_size()
        return waiting > 0 and waiting + more > self._limit

    def _queue(self, data: bytes | memoryview) -> None:
        self._queued += len(data)
        self._transport.write(data)

    def hold(self, frames: bytes) -> bool:
        """Take whole frames for the next flush; False: they would not fit."""
        if self._pending_size + len(frames) > self._limit:
            self.flush()
        if self.direct_fd < 0 and self._is_full(self._pending_size + len(frames)):
            return False
        self.defer(frames)
        return True

    def defer(self, frames: bytes) -> None:
        """Take whole frames for the next flush, whatever waits."""
        if self._pending is None:
            self._pending = []
        self._pending.append(frames)
        self._pending_size += len(frames)

    def flush(self) -> None:
        """Write what was held as one piece."""
        pending = self._pending
        if pending is None:
            return
        frames = pending[0] if len(pending) == 1 else b"".join(pending)
        self._pending, self._pending_size = None, 0
        if self.direct_fd >= 0:
            self.offer(frames)
        elif not self._transport.is_closing():
            self._queue(frames)
