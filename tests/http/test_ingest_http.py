"""POST /v1/changes over real sockets."""

import asyncio
import gzip
import http.client
import json
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import orjson
import pytest
import uvicorn
from ingest_fixtures import Limits, Settings, body, insert, tables
from starlette.applications import Starlette

from kalam_notify.errors import AuthenticationFailed, LogUnavailable
from kalam_notify.http import ingest as ingest_module
from kalam_notify.http.answers import ERROR_HANDLERS
from kalam_notify.http.ingest import Gate, create_ingest_routes
from kalam_notify.model import Identity, PostedChange, Role, UserId
from kalam_notify.model.changes import Appended
from kalam_notify.model.tables import Catalog

Reply = tuple[int, dict[str, str], Any]


class ListLog:
    """The two methods of an event log that ingest uses, and a hand on its latch."""

    def __init__(self) -> None:
        self.stored: list[PostedChange] = []
        self.batch_keys: list[str | None] = []
        self.latch = asyncio.Event()
        self.latch.set()
        self.asked = asyncio.Event()
        self.fault: Exception | None = None

    async def append(self, batch: Sequence[PostedChange], batch_key: str | None = None) -> Appended:
        self.asked.set()
        await self.latch.wait()
        if self.fault is not None:
            raise self.fault
        self.batch_keys.append(batch_key)
        first = len(self.stored) + 1
        self.stored.extend(batch)
        return Appended(len(batch), 0, first, len(self.stored))

    def recent(self, after: int) -> None:
        return None


class Counts:
    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.tables: dict[str, int] = {}

    def request(self, status: int) -> None:
        self.statuses.append(status)

    def ingested(self, table: str, changes: int) -> None:
        self.tables[table] = self.tables.get(table, 0) + changes


async def authorize(authorization: str | None, api_key: str | None) -> Identity:
    roles = {"Bearer service": Role.SERVICE, "Bearer user": Role.USER}
    if api_key == "key" or authorization in roles:
        return Identity(UserId("feeder"), roles.get(authorization or "", Role.SERVICE))
    raise AuthenticationFailed("this token does not hold")


class WatchedGate(Gate):
    """A gate that can be waited at."""

    def __init__(self) -> None:
        self.moved = asyncio.Event()
        super().__init__()

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        self.moved.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self.moved.clear()
            await self.moved.wait()


class AnnouncedUvicorn(uvicorn.Server):
    """A server that says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


class Server:
    """A uvicorn server on a free port, with ingest mounted as the real application does it."""

    def __init__(self) -> None:
        self.log = ListLog()
        self.limits = Limits()
        self.gate = WatchedGate()
        self.counts = Counts()
        self.catalog = Catalog(tables())
        routes = create_ingest_routes(
            self.log,  # type: ignore[arg-type]  # the part of a log that ingest uses
            self.catalog,
            authorize,
            lambda: Settings(self.limits),
            metrics=self.counts,
            gate=self.gate,
        )
        app = Starlette(routes=routes, exception_handlers=ERROR_HANDLERS)
        config = uvicorn.Config(app, port=0, log_level="warning", lifespan="off")
        self.uvicorn = AnnouncedUvicorn(config)
        self.port = 0

    async def start(self) -> asyncio.Task[None]:
        task = asyncio.create_task(self.uvicorn.serve())
        await self.uvicorn.listening.wait()
        self.port = self.uvicorn.servers[0].sockets[0].getsockname()[1]
        return task

    async def ask(
        self,
        raw: Any = b"[]",
        *,
        method: str = "POST",
        path: str = "/v1/changes",
        token: str | None = "service",
        **headers: str,
    ) -> Reply:
        """One request on a connection of its own; header names are written with underscores."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            named["Authorization"] = f"Bearer {token}"
        return await asyncio.to_thread(_ask, self.port, method, path, raw, named)

    async def error(self, *arguments: Any, **named: Any) -> tuple[int, str]:
        status, _, answer = await self.ask(*arguments, **named)
        assert set(answer) == {"error"}
        assert set(answer["error"]) <= {"code", "message", "index", "field"}
        return status, answer["error"]["code"]


def _ask(port: int, method: str, path: str, raw: Any, headers: dict[str, str]) -> Reply:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, raw, headers)
        response = connection.getresponse()
        text = response.read()
    finally:
        connection.close()
    names = {name.lower(): value for name, value in response.getheaders()}
    return response.status, names, json.loads(text) if text else None


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    task = await server.start()
    yield server
    server.log.latch.set()
    server.uvicorn.should_exit = True
    await task


async def test_an_array_is_stored_and_counted(server: Server) -> None:
    status, headers, answer = await server.ask(
        body(insert(), insert({"a": 1}, table="app.events"), insert({"id": 2}))
    )
    assert status == 200
    assert headers["content-type"] == "application/json"
    assert answer == {"accepted": 3, "duplicates": 0, "first_seq": 1, "last_seq": 3}
    assert server.counts.tables == {"app.orders": 2, "app.events": 1}
    assert server.counts.statuses == [200]


async def test_every_form_of_body_is_taken(server: Server) -> None:
    one = orjson.dumps(insert())
    for raw, headers in [
        (one, {}),
        (b"[" + one + b"]", {"Content_Type": "application/json; charset=utf-8"}),
        (one + b"\n" + one, {"Content_Type": "application/x-ndjson"}),
        (gzip.compress(one), {"Content_Encoding": "gzip", "Content_Type": "application/json"}),
        (iter([one[:10], one[10:]]), {}),  # chunked
    ]:
        status, _, answer = await server.ask(raw, **headers)
        assert status == 200, answer
    assert len(server.log.stored) == 6


async def test_an_empty_batch_accepts_nothing(server: Server) -> None:
    _, _, answer = await server.ask(b"[]")
    assert answer == {"accepted": 0, "duplicates": 0, "first_seq": None, "last_seq": None}


async def test_a_big_compressed_batch_is_taken(server: Server) -> None:
    raw = body(*(insert({"id": n, "a": str(n**9)}) for n in range(1000)))
    status, _, answer = await server.ask(gzip.compress(raw), Content_Encoding="gzip")
    assert (status, answer["accepted"]) == (200, 1000)


async def test_the_header_is_the_key_of_the_batch(server: Server) -> None:
    await server.ask(body(insert(id="mine")), Idempotency_Key="k-1")
    assert server.log.batch_keys == ["k-1"]
    assert server.log.stored[0].id == "mine"
    for key in ("", "k" * 257):
        status, _, answer = await server.ask(body(insert()), Idempotency_Key=key)
        assert (status, answer["error"]["code"]) == (400, "INVALID_CHANGE")
        assert answer["error"]["field"] == "Idempotency-Key"
    assert (await server.ask(body(insert()), Idempotency_Key="k" * 256))[0] == 200


async def test_an_api_key_authenticates(server: Server) -> None:
    assert (await server.ask(body(insert()), token=None, X_API_Key="key"))[0] == 200


async def test_who_may_not_post_is_told_so(server: Server) -> None:
    assert await server.error(body(insert()), token=None) == (401, "UNAUTHORIZED")
    assert await server.error(body(insert()), token="wrong") == (401, "UNAUTHORIZED")
    assert await server.error(body(insert()), token="user") == (403, "FORBIDDEN")
    assert await server.error(b"x" * 2_000_000, token=None) == (401, "UNAUTHORIZED")
    assert server.log.stored == []
    assert server.counts.statuses == [401, 401, 403, 401]


async def test_the_place_of_a_fault_is_told(server: Server) -> None:
    status, _, answer = await server.ask(body(insert(), insert({"id": None})))
    assert status == 400
    assert answer["error"]["code"] == "INVALID_CHANGE"
    assert answer["error"]["index"] == 1
    assert answer["error"]["field"] == "row_data.id"
    assert server.log.stored == []


async def test_bad_bodies_and_headers_are_refused(server: Server) -> None:
    assert await server.error(b"{") == (400, "INVALID_JSON")
    assert await server.error(b"") == (400, "INVALID_JSON")
    assert await server.error(b"[" * 100_000) == (400, "INVALID_JSON")
    assert await server.error(body(insert(table="a.b"))) == (400, "UNKNOWN_TABLE")
    assert await server.error(b"x", Content_Encoding="gzip") == (400, "INVALID_JSON")
    unsupported = (415, "UNSUPPORTED_MEDIA_TYPE")
    assert await server.error(b"[]", Content_Type="text/plain") == unsupported
    assert await server.error(b"[]", Content_Encoding="br") == unsupported


async def test_other_paths_and_methods_get_the_same_error_shape(server: Server) -> None:
    assert await server.error(path="/v1/nothing") == (404, "NOT_FOUND")
    status, headers, answer = await server.ask(method="GET")
    assert (status, answer["error"]["code"]) == (405, "METHOD_NOT_ALLOWED")
    assert "POST" in headers["allow"]
    assert (await server.ask(method="HEAD"))[0] == 405
    status, headers, _ = await server.ask(method="OPTIONS", token=None)
    assert (status, headers["allow"]) == (204, "POST, OPTIONS")


async def test_a_body_holds_max_body_bytes_and_no_more(server: Server) -> None:
    raw = body(insert({"id": 1, "a": "x" * 1000}))
    for limit, expected in [(len(raw) + 1, 200), (len(raw), 200), (len(raw) - 1, 413)]:
        server.limits.max_body_bytes = limit
        assert (await server.ask(raw))[0] == expected
        assert (await server.ask(iter([raw])))[0] == expected
        zipped = gzip.compress(raw)
        assert (await server.ask(zipped, Content_Encoding="gzip"))[0] == expected
    assert server.gate.held == 0


async def test_large_bodies_get_their_answer_and_not_a_reset(server: Server) -> None:
    large = b" " * 9_000_000
    assert await server.error(large) == (413, "TOO_LARGE")
    assert await server.error(iter([large] * 3)) == (413, "TOO_LARGE")
    bomb = gzip.compress(b" " * 20_000_000)
    assert await server.error(bomb, Content_Encoding="gzip") == (413, "TOO_LARGE")


async def test_batches_and_rows_are_bounded(server: Server) -> None:
    server.limits.max_batch_changes = 1
    assert await server.error(body(insert(), insert())) == (413, "TOO_LARGE")
    assert await server.error(body(insert({"id": 1, "a": "x" * 5000}))) == (413, "TOO_LARGE")


async def test_posts_beyond_the_gate_are_told_to_come_again(server: Server) -> None:
    server.limits.ingest_queue_bytes = 100
    server.log.latch.clear()
    raw = body(insert())
    first = asyncio.create_task(server.ask(raw))
    await server.log.asked.wait()
    assert server.gate.held == len(raw)
    for again in (raw, iter([raw])):
        status, headers, answer = await server.ask(again)
        assert (status, headers["retry-after"]) == (503, "1")
        assert answer["error"]["code"] == "OVERLOADED"
    server.log.latch.set()
    assert (await first)[0] == 200
    assert server.gate.held == 0
    assert (await server.ask(raw))[0] == 200


async def test_a_log_that_takes_nothing_is_overload(server: Server) -> None:
    server.log.fault = LogUnavailable("disk full")
    status, headers, answer = await server.ask(body(insert()))
    assert (status, answer["error"]["code"]) == (503, "OVERLOADED")
    assert headers["retry-after"] == "1"
    assert "disk" not in answer["error"]["message"]


async def test_our_own_fault_is_a_500_in_the_same_shape(server: Server) -> None:
    server.log.fault = RuntimeError("secret detail")
    status, _, answer = await server.ask(body(insert()))
    assert (status, answer["error"]["code"]) == (500, "INTERNAL")
    assert "secret" not in answer["error"]["message"]


async def test_a_closed_gate_takes_no_post(server: Server) -> None:
    server.gate.close()
    assert await server.error(body(insert())) == (503, "OVERLOADED")


async def test_a_reload_holds_from_the_next_request_on(server: Server) -> None:
    assert await server.error(body(insert(table="new.one"))) == (400, "UNKNOWN_TABLE")
    server.catalog.replace((), auto_create=True)
    assert (await server.ask(body(insert(table="new.one"))))[0] == 200


async def test_a_client_that_leaves_in_its_body_stores_nothing(server: Server) -> None:
    raw = body(insert())
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = (
        "POST /v1/changes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer service\r\n"
        f"Content-Length: {len(raw) + 5}\r\n\r\n"
    )
    writer.write(head.encode() + raw)
    await server.gate.until(lambda: server.gate.held == len(raw))
    writer.close()
    await server.gate.until(lambda: server.gate.open_posts == 0)
    assert server.gate.held == 0
    assert server.log.stored == []
    assert server.counts.statuses == []


async def head_of_answer(server: Server, *headers: str, content: bytes = b"") -> bytes:
    """What is answered to a request whose body does not come to its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = ["POST /v1/changes HTTP/1.1", "Host: x", "X-API-Key: key", *headers, "", ""]
    writer.write("\r\n".join(head).encode() + content)
    answer = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    return answer.lower()


async def test_too_large_a_body_is_refused_before_it_is_sent(server: Server) -> None:
    answer = await head_of_answer(server, "Content-Length: 2000000")
    assert b" 413 " in answer
    assert b"connection: close" not in answer
    answer = await head_of_answer(server, "Content-Length: 200000000000")
    assert b" 413 " in answer
    assert b"connection: close" in answer


async def test_a_client_that_asks_first_is_told_to_go_on_or_not(server: Server) -> None:
    asking = "Expect: 100-continue"
    assert b" 100 continue" in await head_of_answer(server, "Content-Length: 5", asking)
    assert b" 413 " in await head_of_answer(server, "Content-Length: 2000000", asking)


async def test_a_body_that_stands_still_is_given_up(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_module, "STALL_SECONDS", 0.01)
    answer = await head_of_answer(server, "Content-Length: 5", content=b"[")
    assert b" 408 " in answer
    await server.gate.until(lambda: server.gate.open_posts == 0)
    assert server.gate.held == 0


async def test_many_posts_share_one_connection(server: Server) -> None:
    def post_twice() -> list[int]:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        statuses = []
        for raw in (body(insert()), b"{", body(insert())):
            connection.request("POST", "/v1/changes", raw, {"X-API-Key": "key"})
            response = connection.getresponse()
            response.read()
            statuses.append(response.status)
        connection.close()
        return statuses

    assert await asyncio.to_thread(post_twice) == [200, 400, 200]
