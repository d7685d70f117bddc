"""The socket pair between the supervisor and one worker: messages in frames.

A frame is four bytes of length, big-endian, and the message in MessagePack.
"""

import asyncio
import contextlib
import socket
from typing import Generic, TypeVar

import msgspec

from kalam_notify.supervision.messages import FromWorker, ToWorker

In = TypeVar("In")
Out = TypeVar("Out")

_encoder = msgspec.msgpack.Encoder()


class Channel(Generic[In, Out]):
    """One end."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        decoder: "msgspec.msgpack.Decoder[In]",
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = decoder

    async def receive(self) -> In | None:
        """The next message; None when the other side has gone."""
        try:
            length = int.from_bytes(await self._reader.readexactly(4), "big")
            return self._decoder.decode(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    def send(self, message: Out) -> None:
        """Send without waiting; to a side that has gone it goes nowhere."""
        if not self._writer.is_closing():
            body = _encoder.encode(message)
            self._writer.write(len(body).to_bytes(4, "big") + body)

    async def close(self) -> None:
        """Send what was given, then close."""
        self._writer.close()
        # The other side may have been faster.
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


async def supervisor_end(pair: socket.socket) -> Channel[FromWorker, ToWorker]:
    """The supervisor's end, on its event loop."""
    reader, writer = await asyncio.open_unix_connection(sock=pair)
    return Channel(reader, writer, msgspec.msgpack.Decoder(FromWorker))


async def worker_end(pair: socket.socket) -> Channel[ToWorker, FromWorker]:
    """The worker's end, on its event loop."""
    reader, writer = await asyncio.open_unix_connection(sock=pair)
    return Channel(reader, writer, msgspec.msgpack.Decoder(ToWorker))
