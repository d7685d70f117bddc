"""A WebSocket client that says and hears exactly what is on the wire."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConcurrencyError, ConnectionClosed

SECONDS = 20.0
"""How long a test waits for what must come; never how long it waits for nothing."""


class Wire:
    """One connection; messages are dicts."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def say(self, **message: Any) -> None:
        await self.socket.send(json.dumps(message))

    async def hear(self, seconds: float = SECONDS) -> dict[str, Any]:
        """The next message."""
        async with asyncio.timeout(seconds):
            message: dict[str, Any] = json.loads(await self.socket.recv())
        return message

    async def hear_type(self, kind: str) -> dict[str, Any]:
        """The next message, which must be of this type."""
        message = await self.hear()
        assert message["type"] == kind, message
        return message

    async def authenticate(self, token: str) -> dict[str, Any]:
        await self.say(type="authenticate", method="jwt", token=token)
        return await self.hear_type("auth_success")

    async def subscribe(self, name: str, sql: str, options: Any = None) -> None:
        subscription = {"id": name, "sql": sql, "options": options}
        await self.say(type="subscribe", subscription=subscription)

    async def live(self, name: str, sql: str, options: Any = None) -> dict[str, Any]:
        """Subscribe, and hear it through to its ready batch; the ack."""
        await self.subscribe(name, sql, options)
        ack = await self.hear_type("subscription_ack")
        assert ack["subscription_id"] == name
        batch = await self.hear_type("initial_data_batch")
        while batch["batch_control"]["has_more"]:
            await self.say(type="next_batch", subscription_id=name)
            batch = await self.hear_type("initial_data_batch")
        return ack

    async def closed(self) -> tuple[int, str]:
        """Hear everything that still comes; the close code and reason."""
        async with asyncio.timeout(SECONDS):
            try:
                while True:
                    await self.socket.recv()
            except ConnectionClosed:
                pass
        return self.socket.close_code or 0, self.socket.close_reason or ""

    async def leave(self) -> None:
        """Close, and read on until the server has answered.

        A client whose queue is full of what nobody has asked for would not see the answer, and
        would wait for it until its patience ends.
        """
        async with asyncio.TaskGroup() as both:
            both.create_task(self.socket.close())
            both.create_task(self._forget())

    async def _forget(self) -> None:
        with suppress(ConnectionClosed, ConcurrencyError):
            while True:
                await self.socket.recv()

    async def settled(self, token: str) -> list[dict[str, Any]]:
        """Everything heard before an echo of now: what has not come by then is not coming.

        Messages of a connection are answered in order, so a renewed authentication is the echo.
        """
        await self.say(type="authenticate", method="jwt", token=token)
        heard = []
        while (message := await self.hear())["type"] != "auth_success":
            heard.append(message)
        return heard


@asynccontextmanager
async def wire(url: str, token: str | None = None, **options: Any) -> AsyncIterator[Wire]:
    """A connection, authenticated by header where a token is given (auth_success is heard)."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    options.setdefault("compression", None)
    options.setdefault("max_size", None)
    async with connect(url, additional_headers=headers, proxy=None, **options) as socket:
        client = Wire(socket)
        if token is not None:
            await client.hear_type("auth_success")
        try:
            yield client
        finally:
            await client.leave()
