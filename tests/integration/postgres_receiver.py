"""A stand-in for the daemon's POST /v1/changes, with faults on demand."""

import http.server
import json
import threading
from collections.abc import Callable
from typing import Any

Change = dict[str, Any]
Answer = Callable[[list[Change]], int]
"""What to do with a batch: an HTTP status; 0 breaks the connection. Only 200 stores it."""


class Receiver:
    """Stores each change once, by id, as the contract says; `answer` decides on each batch.

    `after` is called when a batch is stored and before it is acknowledged; True withholds the
    acknowledgement.
    """

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.batches: list[list[Change]] = []
        self.duplicates = 0
        self.answer: Answer = lambda batch: 200
        self.after: Callable[[list[Change]], bool] = lambda batch: False
        self._ids: set[str] = set()
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"receiver": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def take(self, batch: list[Change]) -> tuple[int, dict[str, Any]]:
        with self._lock:
            status = self.answer(batch)
            if status != 200:
                return status, {"error": {"code": "X", "message": "as told", "index": 0}}
            new = [change for change in batch if change["id"] not in self._ids]
            self._ids.update(change["id"] for change in new)
            self.batches.append(batch)
            self.changes += new
            self.duplicates += len(batch) - len(new)
            if self.after(batch):
                return 0, {}
            return 200, {"accepted": len(new), "duplicates": len(batch) - len(new)}

    def of(self, table: str) -> list[Change]:
        return [change for change in self.changes if change["table"] == table]

    def rows(self, table: str, key: str) -> dict[Any, Any]:
        """The rows that upserts and deletes leave behind, by their key."""
        rows: dict[Any, Any] = {}
        for change in self.of(table):
            if change["change_type"] == "delete":
                rows.pop(change["old_data"][key], None)
            else:
                rows[change["row_data"][key]] = change["row_data"]
        return rows


class _Handler(http.server.BaseHTTPRequestHandler):
    receiver: Receiver
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        batch = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, answer = self.receiver.take(batch)
        if status == 0:
            self.close_connection = True
            return
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass
