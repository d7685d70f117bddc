"""An HTTP server that answers what a test tells it to answer."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ACCEPTED = b'{"accepted":1,"duplicates":0,"first_seq":1,"last_seq":1}'
Reply = tuple[int, dict[str, str], bytes] | None
"""Status, headers, body; None hangs up without an answer."""


class Scripted:
    """An HTTP server that gives its replies one after the other and keeps what it was asked."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.keys: list[str | None] = []
        self.tokens: list[str | None] = []
        self.bodies: list[bytes] = []
        self.url = ""


@contextmanager
def scripted_server() -> Iterator[Scripted]:
    script = Scripted()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            script.keys.append(self.headers["Idempotency-Key"])
            script.tokens.append(self.headers["Authorization"])
            script.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            reply = script.replies.pop(0)
            if reply is None:
                self.close_connection = True
                return
            status, headers, body = reply
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    script.url = f"http://127.0.0.1:{server.server_port}"
    yield script
    server.shutdown()
    thread.join()
    server.server_close()
