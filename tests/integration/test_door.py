"""At the door: what strangers may hold, and for how long. Real sockets."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.server import Server
from helpers.wire import wire
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode

StartServer = Callable[..., Server]
SECONDS = 30.0

UPGRADE = (
    b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n%b\r\n"
)

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def stranger(server: Server, *, headers: bytes = b"", behind: bytes = b"") -> Stream:
    """An upgraded connection; `behind` is sent in one piece with the request."""
    reader, writer = await asyncio.open_connection(*server.url.removeprefix("http://").split(":"))
    writer.write(UPGRADE % headers + behind)
    return reader, writer


async def heard(stream: Stream, code: bytes | None = None) -> bytes:
    """All that is said until the server closes the socket; a close with `code` is answered."""
    reader, writer = stream
    said = b""
    async with asyncio.timeout(SECONDS):
        try:
            while piece := await reader.read(65536):
                said += piece
                if code is not None and code in said:
                    writer.write(Frame(Opcode.CLOSE, code).serialize(mask=True))
                    code = None
        except ConnectionResetError:
            pass
    writer.close()
    return said


def open_files(server: Server) -> int:
    assert server.process is not None
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))  # noqa: PTH208


def resident_bytes(server: Server) -> int:
    assert server.process is not None
    pages = Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


async def test_who_says_nothing_is_told_and_closed_at_once(start_server: StartServer) -> None:
    """The socket is closed by the server: the client never answers the close frame."""
    server = start_server(websocket={"auth_timeout": "300ms"})
    said = await heard(await stranger(server))
    assert b"auth_error" in said
    assert b"\x03\xf0" in said, "the close code 1008"


async def test_upgrades_of_strangers_keep_no_descriptors(start_server: StartServer) -> None:
    server = start_server(websocket={"auth_timeout": "300ms"})
    before = open_files(server)
    crowd = [await stranger(server) for _ in range(300)]
    for one in crowd:
        assert b"\x03\xf0" in await heard(one)
    assert open_files(server) <= before + 1


async def test_large_frames_of_strangers_take_no_memory(start_server: StartServer) -> None:
    server = start_server()
    before = resident_bytes(server)
    frame = b"\x81\xff" + (1 << 20).to_bytes(8, "big") + b"mask" + b"x" * 200_000
    crowd = [await stranger(server, behind=frame) for _ in range(200)]
    closed = [await heard(one) for one in crowd]
    grown = resident_bytes(server) - before
    assert all(b"\x03\xf1" in said for said in closed), "the close code 1009"
    assert grown < 20 << 20, f"{grown >> 20} MiB for {200 * 200_000 >> 20} MiB of strangers"


async def test_a_message_before_authentication_may_take_32_kib(start_server: StartServer) -> None:
    server = start_server()
    async with wire(server.ws_url) as client:
        await client.say(type="ping", x="x" * 32_000)
        await client.authenticate(server.token())
        await client.say(type="ping", x="x" * 900_000)
        await client.live("still-here", "SELECT * FROM app.orders")
    async with wire(server.ws_url) as client:
        await client.say(type="ping", x="x" * 33_000)
        assert (await client.closed())[0] == 1009


async def test_a_hundred_subscriptions_and_a_thousand_pages_are_no_flood(
    start_server: StartServer,
) -> None:
    server = start_server(websocket={"messages_per_second": 1, "message_burst": 150})
    server.post(
        *[
            {"table": "app.orders", "change_type": "insert", "row_data": {"id": n}}
            for n in range(1000)
        ]
    )
    pad = "x" * 150
    async with wire(server.ws_url, server.token()) as client:
        for number in range(99):
            await client.say(
                type="subscribe",
                subscription={
                    "id": str(number),
                    "sql": f"SELECT * FROM app.orders WHERE note = '{pad}{number}'",
                },
            )
        for _ in range(99):
            await client.hear_type("subscription_ack")
            await client.hear_type("initial_data_batch")
        await client.subscribe("pages", "SELECT * FROM app.orders", {"batch_size": 1})
        await client.hear_type("subscription_ack")
        pages = 0
        while True:
            batch = await client.hear_type("initial_data_batch")
            pages += 1
            if not batch["batch_control"]["has_more"]:
                break
            await client.say(type="next_batch", subscription_id="pages")
        assert pages == 1000


@pytest.mark.parametrize("kind", ["pings", "fragments"])
async def test_floods_of_small_frames_are_closed_and_nobody_else_is_hurt(
    start_server: StartServer, kind: str
) -> None:
    server = start_server(websocket={"messages_per_second": 1, "message_burst": 20})
    flood = {
        "pings": Frame(Opcode.PING, b"").serialize(mask=True) * 5_000,
        "fragments": Frame(Opcode.TEXT, b"", fin=False).serialize(mask=True)
        + Frame(Opcode.CONT, b"", fin=False).serialize(mask=True) * 5_000,
    }
    token = f"Authorization: Bearer {server.token('mallory')}\r\n".encode()
    async with wire(server.ws_url, server.token()) as healthy:
        await healthy.live("s", "SELECT * FROM app.orders")
        attacker = await stranger(server, headers=token, behind=flood[kind])
        await asyncio.to_thread(
            server.post, {"table": "app.orders", "change_type": "insert", "row_data": {"id": 1}}
        )
        assert (await healthy.hear_type("change"))["rows"][0]["id"] == 1
        said = await heard(attacker, b"\x03\xf0")
        assert b"\x03\xf0" in said, "the close code 1008"


# Addresses


LIMITED: dict[str, Any] = {
    "limits": {"connections_per_address": 1},
    "server": {"trusted_proxies": ["127.0.0.1"], "workers": 1},
}


def forwarded(server: Server, hops: str) -> connect:
    """A connection that a proxy passes on."""
    return connect(server.ws_url, additional_headers={"X-Forwarded-For": hops}, proxy=None)


@pytest.mark.parametrize(
    "spelled",
    ["192.0.2.7:4711", "::ffff:192.0.2.7", "[::ffff:192.0.2.7]:4711", "6.6.6.6, 192.0.2.7"],
)
async def test_one_address_is_one_however_it_is_spelled(
    start_server: StartServer, spelled: str
) -> None:
    server = start_server(**LIMITED)
    async with forwarded(server, "192.0.2.7"):
        with pytest.raises(InvalidStatus) as refusal:
            await forwarded(server, spelled)
        assert refusal.value.response.status_code == 429
        async with forwarded(server, "192.0.2.8"):
            pass


async def test_a_place_is_free_again_when_its_connection_has_closed(
    start_server: StartServer,
) -> None:
    server = start_server(limits={"connections_per_address": 1}, server={"workers": 1})
    for _ in range(3):
        async with wire(server.ws_url, server.token()) as client:
            with pytest.raises(InvalidStatus):
                await connect(server.ws_url, proxy=None)
            await client.say(type="ping")
