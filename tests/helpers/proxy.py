"""A TCP proxy on loopback that cuts its connections, in the middle of whatever they carry."""

import asyncio
import contextlib
import threading
from collections.abc import Callable

_PIECE = 16 * 1024


class CuttingProxy:
    """Forwards to `target` until a connection has carried as many bytes down as it may.

    `allowance()` says how many those are for a new connection; None: without an end. It runs in a
    thread of its own; `cut` and `close` are for any thread. With `refuses_upgrades` it lets no
    WebSocket through, as many a proxy does.
    """

    def __init__(
        self,
        target: tuple[str, int],
        allowance: Callable[[], int | None],
        *,
        refuses_upgrades: bool = False,
    ) -> None:
        self.cuts = 0
        self.refused = 0
        self._refuses_upgrades = refuses_upgrades
        self._target = target
        self._allowance = allowance
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Reset every connection there is."""
        self._call(self._cut())

    def close(self) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, work):  # type: ignore[no-untyped-def]
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _cut(self) -> None:
        self.cuts += len(self._open) > 0
        for writer in list(self._open):
            writer.transport.abort()

    async def _close(self) -> None:
        self._server.close()
        await self._cut()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        first = b""
        if self._refuses_upgrades:
            first = await reader.read(_PIECE)
            if b"upgrade: websocket" in first.lower():
                self.refused += 1
                writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                writer.close()
                self._open.discard(writer)
                return
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            self._open.discard(writer)
            return
        up_writer.write(first)
        try:
            up = asyncio.create_task(_pump(reader, up_writer, None))
            down = asyncio.create_task(_pump(up_reader, writer, self._allowance()))
            await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
            if down.done() and not down.cancelled() and down.result():
                self.cuts += 1
            for task in (up, down):
                task.cancel()
        finally:
            self._open.discard(writer)
            writer.transport.abort()
            up_writer.transport.abort()


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, allowed: int | None
) -> bool:
    """Carry bytes until one side ends (False) or enough have been carried (True)."""
    with contextlib.suppress(OSError):
        while piece := await reader.read(_PIECE):
            if allowed is not None:
                piece = piece[:allowed]
                allowed -= len(piece)
            writer.write(piece)
            await writer.drain()
            if allowed == 0:
                return True
    return False
