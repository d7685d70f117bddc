"""A client of streams and polls over real sockets, whose view is held to the promises."""

import json
import re
import socket
import zlib
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode, urlparse

from helpers.server import Answer, Server
from helpers.views import View

QUERY = "SELECT * FROM app.orders"


class Stream:
    """One stream of events, read as it comes. `seconds` is how long a read may hang."""

    def __init__(
        self,
        server: Server,
        *,
        headers: Mapping[str, str] | None = None,
        seconds: float = 30,
        receive_buffer: int | None = None,
        **asked: object,
    ) -> None:
        where = urlparse(server.url)
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(seconds)
        self.socket.connect((where.hostname, where.port))
        query = urlencode({"sql": QUERY, **asked})
        lines = [f"GET /v1/stream?{query} HTTP/1.1", f"Host: {where.netloc}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())
        self._unread = b""
        self._inflate: Any = None
        self.status, self.headers = self._head()
        if self.headers.get("content-encoding") == "gzip":
            self._inflate = zlib.decompressobj(31)
            self._unread = self._inflate.decompress(self._unread)
        self.last_id: str | None = None
        self.comments = 0
        self.view = View()

    def _head(self) -> tuple[int, dict[str, str]]:
        while b"\r\n\r\n" not in self._unread:
            self._more()
        head, _, self._unread = self._unread.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        pairs = (line.partition(": ") for line in lines)
        return int(first.split()[1]), {name.lower(): value for name, _, value in pairs}

    def _more(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise EOFError
        self._unread += data if self._inflate is None else self._inflate.decompress(data)

    @property
    def body(self) -> bytes:
        """What is left, up to the end."""
        try:
            while True:
                self._more()
        except EOFError:
            return self._unread

    def event(self) -> tuple[str, Any]:
        """The next event: its name, and its data."""
        while True:
            while b"\n\n" not in self._unread:
                self._more()
            text, _, self._unread = self._unread.partition(b"\n\n")
            fields = dict(re.findall(r"^(\w+): (.*)$", text.decode(), re.MULTILINE))
            if text.startswith(b":"):
                self.comments += 1
            if "id" in fields:
                self.last_id = fields["id"]
            if "data" in fields:
                return fields.get("event", "message"), json.loads(fields["data"])
            if text.startswith(b":"):
                return "comment", None

    def messages(self) -> Iterator[dict[str, Any]]:
        """The messages as they come, each taken into the view."""
        silence = self.comments + 4
        while True:
            name, data = self.event()
            assert self.comments < silence, "nothing but comments"
            if name == "message":
                self.view.apply(data)
                yield data

    def until(self, seq: int) -> None:
        """Read until the view has come to a position."""
        for _ in self.messages():
            if int(self.last_id or 0) >= seq:
                return

    def rows(self) -> dict[Any, dict[str, Any]]:
        return plain(self.view)

    def close(self) -> None:
        self.socket.close()


def plain(view: View) -> dict[Any, dict[str, Any]]:
    """A view's rows without what the server adds."""
    return {
        key: {name: value for name, value in row.items() if name != "_seq"}
        for key, row in view.rows.items()
    }


def poll(server: Server, headers: Mapping[str, str] | None = None, **asked: object) -> Answer:
    query = urlencode({"sql": QUERY, **asked})
    return server.request("GET", f"/v1/poll?{query}", **(headers or {}))
