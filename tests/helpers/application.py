"""The HTTP application of a worker, to be called without a client."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from kalam_notify.config import Config, parse_address
from kalam_notify.endpoints import Sockets
from kalam_notify.sockets.listeners import bind
from kalam_notify.worker import Worker


class Reply(msgspec.Struct):
    """What an application answered."""

    status: int
    headers: dict[str, str]
    body: bytes


@asynccontextmanager
async def application(config: Config) -> AsyncIterator[Any]:
    """The ASGI application of a worker that serves `config` on a port of its own."""
    worker = Worker(config, lambda: config)
    ready = asyncio.Event()
    address = parse_address("127.0.0.1:0")
    assert address is not None
    serving = asyncio.create_task(worker.serve(Sockets(bind(address), None), ready.set))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait([serving, waiting], return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        serving.result()
    (listener,) = worker._listening
    try:
        yield listener._config.app
    finally:
        worker.stop()
        await serving


async def ask(
    application: Any,
    method: str,
    target: str,
    headers: list[tuple[bytes, bytes]],
    body: bytes = b"",
) -> Reply:
    """One request; `headers` are raw, names in lower case."""
    path, _, query = target.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 2900),
        "client": ("127.0.0.1", 1),
        "scheme": "http",
        "method": method,
        "root_path": "",
        "path": path,
        "raw_path": path.encode("latin-1", "replace"),
        "query_string": query.encode("latin-1", "replace"),
        "headers": headers,
        "state": {},
    }
    pieces = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return pieces.pop() if pieces else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await application(scope, receive, send)
    starts = [one for one in sent if one["type"] == "http.response.start"]
    assert len(starts) == 1, sent
    answered = {
        name.decode("latin-1"): value.decode("latin-1") for name, value in starts[0]["headers"]
    }
    return Reply(starts[0]["status"], answered, b"".join(one.get("body", b"") for one in sent))
