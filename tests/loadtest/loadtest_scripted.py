"""A WebSocket server that says exactly what a test tells it to, true or false."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from loadtest.harness.rows import load_text


def compact(message: Any) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def row(n: int, seq: int, **columns: Any) -> dict[str, Any]:
    """Row n as the load test posts it, at `seq`."""
    return {"id": n, "x_load": load_text(n, 1, 45), **columns, "_seq": str(seq)}


def change(*rows: dict[str, Any], **others: Any) -> str:
    message = {"type": "change", "subscription_id": "live", "change_type": "insert", "rows": rows}
    return compact({**message, **others}).decode()


class ScriptedServer:
    """Accepts every upgrade, acknowledges every subscribe, and keeps what it heard."""

    def __init__(self, window: bool | None) -> None:
        self._window = window
        self.subscribes: list[dict[str, Any]] = []
        self.pongs: asyncio.Queue[bytes] = asyncio.Queue()
        self.writer: asyncio.StreamWriter | None = None
        self.address = ("127.0.0.1", 0)
        # Whether a live-only ack is followed by an empty ready batch.
        self.follows_up = False

    def _protocol(self) -> ServerProtocol:
        """`window` None: no compression; True: the server keeps its window between messages."""
        if self._window is None:
            return ServerProtocol()
        deflate = ServerPerMessageDeflateFactory(server_no_context_takeover=not self._window)
        return ServerProtocol(extensions=[deflate])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.ws, self.writer = self._protocol(), writer
        while data := await reader.read(65536):
            self.ws.receive_data(data)
            for event in self.ws.events_received():
                if isinstance(event, Request):
                    self.ws.send_response(self.ws.accept(event))
                elif isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                    self._answer(json.loads(bytes(event.data)))
                elif isinstance(event, Frame) and event.opcode is Opcode.PONG:
                    self.pongs.put_nowait(bytes(event.data))
            self.flush()
        writer.close()

    def _answer(self, message: dict[str, Any]) -> None:
        subscription = message["subscription"]
        self.subscribes.append(subscription)
        control = {"batch_num": 0, "has_more": False, "status": "ready", "last_seq_id": 0}
        ack = {"type": "subscription_ack", "subscription_id": subscription["id"]}
        self.ws.send_text(compact({**ack, "batch_control": control}))
        if subscription["options"] is not None or self.follows_up:
            control["last_seq_id"] = (subscription["options"] or {"from": 0})["from"]
            batch = {"type": "initial_data_batch", "subscription_id": subscription["id"]}
            self.ws.send_text(compact({**batch, "rows": [], "batch_control": control}))

    def say(self, text: str) -> None:
        self.ws.send_text(text.encode())
        self.flush()

    def flush(self) -> None:
        self.raw(self.taken())

    def taken(self) -> bytes:
        """The bytes the protocol wants sent, for tests that cut them up."""
        return b"".join(self.ws.data_to_send())

    def raw(self, data: bytes) -> None:
        assert self.writer is not None
        self.writer.write(data)


@asynccontextmanager
async def scripted(window: bool | None = None) -> AsyncIterator[ScriptedServer]:
    told = ScriptedServer(window)
    server = await asyncio.start_server(told.serve, "127.0.0.1", 0)
    told.address = server.sockets[0].getsockname()[:2]
    async with server:
        yield told
        if told.writer is not None:
            told.writer.close()
