"""A transport without an event loop: what stands in it leaves when the test says so."""

import asyncio
from typing import Any


class FakeTransport(asyncio.Transport):
    """Calls its protocol like a real one with a high-water mark of 0.

    Under `tls`, or without a `socket`, every byte goes through `write`; a `socket` is written to
    directly by whoever may.
    """

    def __init__(self, protocol: Any, socket: Any = None) -> None:
        super().__init__()
        self._protocol = protocol
        self._socket = socket
        # What the kernel takes at once; None: everything.
        self.room: int | None = None
        self.waiting = b""
        self.sent = b""
        self.is_reading = True
        self.is_closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "sslcontext":
            return None if self._socket is not None else "tls"
        return self._socket if name == "socket" else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == 0

    def get_write_buffer_size(self) -> int:
        return len(self.waiting)

    def is_closing(self) -> bool:
        return self.is_closed

    def write(self, data: Any) -> None:
        was_empty = not self.waiting
        self.waiting += bytes(data)
        if was_empty:
            taken = len(self.waiting) if self.room is None else min(self.room, len(self.waiting))
            self._take(taken)
            if self.waiting:
                self._protocol.pause_writing()

    def take(self, count: int | None = None) -> None:
        """The kernel takes so many of the bytes that wait; None: all of them."""
        had = bool(self.waiting)
        self._take(len(self.waiting) if count is None else count)
        if had and not self.waiting:
            self._protocol.resume_writing()

    def _take(self, count: int) -> None:
        self.sent += self.waiting[:count]
        self.waiting = self.waiting[count:]
        if self.room is not None:
            self.room -= count

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True


class SocketTransport(FakeTransport):
    """Writes to a real socket, as much as it takes; `pump` is what an event loop would do.

    While `is_clogged` the socket takes nothing.
    """

    is_clogged = False

    def _take(self, count: int) -> None:
        try:
            sent = self._socket.send(self.waiting) if self.waiting and not self.is_clogged else 0
        except BlockingIOError:
            sent = 0
        self.waiting = self.waiting[sent:]

    def pump(self) -> None:
        """The socket is writable again: write on."""
        self.is_clogged = False
        self.take()
