"""A server that says what a test tells it to say, over a real WebSocket."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

# A guard against hanging: a script that waits in vain would keep the server from ending.
SCRIPT_SECONDS = 60.0

Script = Callable[["Peer"], Awaitable[None]]


class Peer:
    """The server's end of one connection, in the words of the protocol."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket

    @property
    def authorization(self) -> str | None:
        assert self.socket.request is not None
        return self.socket.request.headers.get("Authorization")

    async def receive(self, kind: str) -> dict[str, Any]:
        message: dict[str, Any] = orjson.loads(await self.socket.recv())
        assert message["type"] == kind, message
        return message

    async def any(self, *kinds: str) -> dict[str, Any] | None:
        """The next message, one of `kinds`; None when the client has gone."""
        try:
            message: dict[str, Any] = orjson.loads(await self.socket.recv())
        except ConnectionClosed:
            return None
        assert message["type"] in kinds, message
        return message

    async def subscribe(self) -> dict[str, Any]:
        """Wait for a subscribe; answers its `subscription`."""
        subscription: dict[str, Any] = (await self.receive("subscribe"))["subscription"]
        return subscription

    async def say(self, kind: str, **fields: Any) -> None:
        await self.socket.send(orjson.dumps({"type": kind, **fields}).decode())

    async def ack(
        self,
        last_seq: int,
        resumed: bool | None = None,
        *,
        id: str = "q",
        has_more: bool = False,
        key: tuple[str, ...] = ("id",),
    ) -> None:
        fields: dict[str, Any] = {} if resumed is None else {"resumed": resumed}
        columns = [*key, "a"]
        await self.say(
            "subscription_ack",
            subscription_id=id,
            total_rows=0,
            batch_control=control(last_seq, has_more),
            schema=[
                {"name": name, "data_type": "Text", "index": place}
                | ({"flags": ["pk"]} if name in key else {})
                for place, name in enumerate(columns)
            ],
            **fields,
        )

    async def batch(
        self, rows: list[dict[str, Any]], last_seq: int, *, id: str = "q", has_more: bool = False
    ) -> None:
        await self.say(
            "initial_data_batch",
            subscription_id=id,
            rows=rows,
            batch_control=control(last_seq, has_more),
        )

    async def change(
        self, kind: str, rows: Any = None, old: Any = None, *, id: str = "q", **fields: Any
    ) -> None:
        if rows is not None:
            fields["rows"] = rows
        if old is not None:
            fields["old_values"] = old
        await self.say("change", subscription_id=id, change_type=kind, **fields)

    async def close(self, code: int, reason: str = "") -> None:
        await self.socket.close(code, reason)

    async def until_closed(self) -> None:
        await self.socket.wait_closed()


def control(last_seq: int, has_more: bool) -> dict[str, Any]:
    status = "loading" if has_more else "ready"
    return {"batch_num": 0, "has_more": has_more, "status": status, "last_seq_id": last_seq}


def row(id: Any, seq: int, **columns: Any) -> dict[str, Any]:
    return {"id": id, **columns, "_seq": str(seq)}


class FakeServer:
    """Plays one script per connection, in order; a connection too many fails the test."""

    def __init__(self, scripts: list[Script]) -> None:
        self._scripts = scripts
        self.faults: list[BaseException] = []
        self.refusals: list[int] = []
        self.retry_after: str | None = None
        self.connections = 0
        self.done = asyncio.Event()
        self.url = ""

    async def play(self, socket: ServerConnection) -> None:
        try:
            script = self._scripts[self.connections]
            self.connections += 1
            async with asyncio.timeout(SCRIPT_SECONDS):
                await script(Peer(socket))
        except BaseException as fault:
            self.faults.append(fault)
            raise
        finally:
            if self.connections == len(self._scripts) or self.faults:
                self.done.set()

    def refuse(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer the next handshake with a status in place of the upgrade."""
        assert request.path == "/v1/ws"
        if self.faults:
            return connection.respond(403, "the script has failed\n")
        if not self.refusals:
            return None
        response = connection.respond(self.refusals.pop(0), "not now\n")
        if self.retry_after is not None:
            response.headers["Retry-After"] = self.retry_after
        return response


@asynccontextmanager
async def fake_server(
    *scripts: Script, refusals: tuple[int, ...] = ()
) -> AsyncIterator[FakeServer]:
    server = FakeServer(list(scripts))
    server.refusals = list(refusals)
    async with serve(
        server.play, "127.0.0.1", 0, process_request=server.refuse, close_timeout=1
    ) as listener:
        port = next(iter(listener.sockets)).getsockname()[1]
        server.url = f"http://127.0.0.1:{port}"
        yield server
    assert not server.faults, server.faults
