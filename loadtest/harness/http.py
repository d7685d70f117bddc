"""A keep-alive HTTP/1.1 connection that costs as little as asyncio allows."""

import asyncio
from urllib.parse import urlsplit

from loadtest.harness.faults import LoadTestFault


class HttpConnection:
    """One request at a time over one connection to `http://host:port`.

    It is made with the first request: a server cuts off who connects and then says nothing, and
    between the two thousands of subscribers may have to be waited for.
    """

    def __init__(self, base: str) -> None:
        self._to = urlsplit(base)
        self._writer: asyncio.StreamWriter | None = None

    async def _open(self) -> asyncio.StreamWriter:
        port = self._to.port or 80
        self._reader, writer = await asyncio.open_connection(self._to.hostname, port)
        return writer

    async def request(
        self, method: str, path: str, token: str | None = None, body: bytes = b""
    ) -> tuple[int, bytes]:
        """Send and read the whole answer: `(status, body)`."""
        bearer = f"Authorization: Bearer {token}\r\n" if token else ""
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {self._to.netloc}\r\n{bearer}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        if self._writer is None:
            self._writer = await self._open()
        self._writer.write(head.encode() + body)
        try:
            answer = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        except asyncio.IncompleteReadError as error:
            raise LoadTestFault(f"{method} {path}: the server hung up") from error
        status = int(answer.split(b" ", 2)[1])
        return status, await self._body(answer)

    async def _body(self, head: bytes) -> bytes:
        if b"transfer-encoding: chunked" in head:
            return await self._chunks()
        length = head.partition(b"content-length:")[2].split(b"\r\n")[0].strip()
        return await self._reader.readexactly(int(length or 0))

    async def _chunks(self) -> bytes:
        body = b""
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            body += await self._reader.readexactly(size)
            await self._reader.readexactly(2)
        await self._reader.readuntil(b"\r\n")
        return body

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
