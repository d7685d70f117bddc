"""The replication protocol: a slot's stream as messages, and what is told back. See
https://www.postgresql.org/docs/current/protocol-replication.html.

Between START_REPLICATION and the end both sides send CopyData whenever they like: the server
XLogData (`w`) and keepalives (`k`), this side how far it has come (`r`). psycopg's own cursors do
not know this mode, so libpq is driven by hand: what has come is taken without waiting, and where
nothing has, the event loop watches the socket.
"""

import asyncio
import struct
import time
from typing import Final, NamedTuple

import psycopg
from psycopg import pq

from kalam_notify.sources.base import SourceLost, SourceUnavailable
from kalam_notify.sources.postgres.connecting import Connection, why
from kalam_notify.sources.postgres.pgoutput import EPOCH
from kalam_notify.sources.postgres.positions import lsn_text

# A turn of the loop takes no more than this: some milliseconds of decoding.
READ_MESSAGES: Final = 200
READ_BYTES: Final = 256 * 1024
SILENCE_SECONDS: Final = 30
"""A server that is asked every second and says nothing for so long is gone."""

_XLOG_DATA = ord("w")
_KEEPALIVE = struct.Struct(">xQqB").unpack_from
_STATUS = struct.Struct(">cQQQqB").pack
_HEADER = 25


class Received(NamedTuple):
    """What has come at once."""

    messages: list[bytes]
    # Whether nothing has come that has not been read.
    is_all: bool


class Replication:
    """A stream of a slot over a connection made for replication. `start`, then `read` for ever."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        # Every transaction that commits before this LSN has been sent.
        self.sent = 0
        self._ready: asyncio.Future[None] | None = None
        self._fault: SourceUnavailable | None = None
        self._stored = 0
        self._is_streaming = False

    async def start(self, slot: str, lsn: int, publication: str) -> None:
        """Begin; raises SourceUnavailable, and SourceLost for a slot that has lost its WAL."""
        command = (
            f'START_REPLICATION SLOT "{slot}" LOGICAL {lsn_text(lsn)} ('
            f"proto_version '2', streaming 'on', publication_names '\"{publication}\"')"
        )
        self._pgconn.send_query(command.encode())
        while self._pgconn.flush():
            await self._wait(writing=True)
        while self._pgconn.is_busy():
            await self._wait()
            self._pgconn.consume_input()
        result = self._pgconn.get_result()
        if result is None or result.status != pq.ExecStatus.COPY_BOTH:
            raise _refusal(result, self._pgconn)
        self._stored = max(self._stored, lsn)
        self._is_streaming = True

    async def read(self) -> Received:
        """What has come, at least one message or keepalive."""
        if self._fault is not None:
            raise self._fault
        messages: list[bytes] = []
        size, seen, is_all = 0, False, False
        while len(messages) < READ_MESSAGES and size < READ_BYTES:
            length, data = self._pgconn.get_copy_data(1)
            if length > 0:
                seen = True
                message = self._take(bytes(data))
                if message is not None:
                    messages.append(message)
                    size += length
            elif length == 0:
                if seen:
                    is_all = True
                    break
                await self._wait()
                self._pgconn.consume_input()
            else:
                raise _refusal(self._pgconn.get_result(), self._pgconn)
        return Received(messages, is_all)

    def _take(self, data: bytes) -> bytes | None:
        if data[0] == _XLOG_DATA:
            return data[_HEADER:]
        sent, _, wants_reply = _KEEPALIVE(data)
        self.sent = max(self.sent, sent)
        if wants_reply:
            self.tell()
        return None

    def stored(self, lsn: int) -> None:
        """Everything before this LSN is on disk here."""
        if lsn > self._stored:
            self._stored = lsn
            if self._is_streaming:
                self.tell()

    def interrupt(self, fault: SourceUnavailable) -> None:
        """Have whoever reads, now or next, meet this fault."""
        self._fault = fault
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(fault)

    def tell(self, *, wants_reply: bool = False) -> None:
        """Say how far this side has come; `wants_reply`: and ask how far the server has."""
        now = int((time.time() - EPOCH) * 1e6)
        lsn = self._stored
        try:
            self._pgconn.put_copy_data(_STATUS(b"r", lsn, lsn, lsn, now, wants_reply))
            # What does not go out now goes with the next one.
            self._pgconn.flush()
        except psycopg.Error as fault:
            raise SourceUnavailable(why(fault)) from fault

    async def _wait(self, *, writing: bool = False) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        self._ready = ready
        socket = self._pgconn.socket

        def wake() -> None:
            if not ready.done():
                ready.set_result(None)

        add, remove = (
            (loop.add_writer, loop.remove_writer)
            if writing
            else (loop.add_reader, loop.remove_reader)
        )
        add(socket, wake)
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                await ready
        except TimeoutError:
            raise SourceUnavailable(f"nothing heard for {SILENCE_SECONDS} s") from None
        finally:
            remove(socket)


def _refusal(result: "pq.abc.PGresult | None", pgconn: "pq.abc.PGconn") -> SourceUnavailable:
    """Why a stream did not begin, or has ended."""
    if result is None or result.status in (
        pq.ExecStatus.COMMAND_OK,
        pq.ExecStatus.COPY_IN,
        pq.ExecStatus.TUPLES_OK,
    ):
        return SourceUnavailable("the database has ended the stream")
    message = " ".join(
        (result.error_message or pgconn.error_message).decode(errors="replace").split()
    )
    state = result.error_field(pq.DiagnosticField.SQLSTATE) or b""
    # Undefined slot; WAL removed or slot invalidated.
    if state in (b"42704", b"58P01") or (state == b"55000" and "replication slot" in message):
        return SourceLost(message)
    return SourceUnavailable(message or "the connection has ended")
