"""Asking over HTTP: what is tried again, how often, and how long it waits in between."""

import io
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from kalam_notify.client.publish import MAX_BATCH_LINES, Progress, Tally, batches, post_all
from kalam_notify.client.requests import MAX_TRIES, Server, Unreachable

ACCEPTED = b'{"accepted":1,"duplicates":0,"first_seq":1,"last_seq":1}'
Reply = tuple[int, dict[str, str], bytes] | None
"""Status, headers, body; None hangs up without an answer."""


class Scripted:
    """An HTTP server that gives its replies one after the other and keeps what it was asked."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.keys: list[str | None] = []
        self.bodies: list[bytes] = []
        self.url = ""


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    script = Scripted()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            script.keys.append(self.headers["Idempotency-Key"])
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


def post(scripted: Scripted, waits: list[float]) -> str | None:
    server = Server(scripted.url, "token", wait=waits.append)
    try:
        return post_all(server, io.BytesIO(b'{"a":1}\n'), Tally(), Progress(io.StringIO()))
    finally:
        server.close()


def test_a_busy_server_is_asked_again_when_it_says(scripted: Scripted) -> None:
    waits: list[float] = []
    scripted.replies = [
        (503, {"Retry-After": "2"}, b"{}"),
        (429, {"Retry-After": "9999"}, b"{}"),
        (503, {"Retry-After": "soon"}, b"{}"),
        (503, {}, b""),
        (200, {}, ACCEPTED),
    ]
    assert post(scripted, waits) is None
    assert waits == [2, 30, 1, 1]
    assert len(set(scripted.keys)) == 1


def test_a_server_that_stays_busy_is_given_up(scripted: Scripted) -> None:
    error = b'{"error":{"code":"OVERLOADED","message":"later"}}'
    scripted.replies = [(503, {}, error)] * MAX_TRIES
    assert post(scripted, []) == "OVERLOADED: later"
    assert scripted.replies == []


def test_an_answer_that_got_lost_is_asked_for_with_the_same_key(scripted: Scripted) -> None:
    scripted.replies = [None, None, (200, {}, ACCEPTED)]
    assert post(scripted, []) is None
    assert len(scripted.keys) == 3
    assert len(set(scripted.keys)) == 1
    assert len(set(scripted.bodies)) == 1


def test_a_server_that_hangs_up_for_ever_is_unreachable(scripted: Scripted) -> None:
    scripted.replies = [None] * MAX_TRIES
    with pytest.raises(Unreachable):
        post(scripted, [])


def test_refusals_are_not_repeated(scripted: Scripted) -> None:
    error = b'{"error":{"code":"INVALID_CHANGE","message":"no","index":0,"field":"table"}}'
    scripted.replies = [(400, {}, error)]
    assert post(scripted, []) == "INVALID_CHANGE: no (index 0, field table)"


def test_an_answer_that_is_not_ours_is_a_refusal_too(scripted: Scripted) -> None:
    scripted.replies = [(200, {}, b"<html>a proxy</html>")]
    assert post(scripted, []) == "HTTP 200"


def split(text: bytes) -> list[tuple[int, int]]:
    """The lines and the bytes of each batch."""
    return [(batch.lines, len(batch.body)) for batch in batches(io.BytesIO(text))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b" \n", []),
        (b"[1, 2]", [(0, 6)]),
        (b'{\n"a":1}', [(0, 8)]),
        (b'\n\n{"a":1}', [(1, 7)]),
        (b'{"a":1}\r\n\n{"b":2}', [(1, 8), (1, 7)]),
        (b"no json", [(0, 7)]),
    ],
)
def test_documents_are_posted_whole_and_lines_in_batches(
    text: bytes, expected: list[tuple[int, int]]
) -> None:
    assert split(text) == expected


def test_batches_of_lines_are_bounded_in_number_and_size() -> None:
    many = split(b'{"a":1}\n' * 2501)
    assert sum(lines for lines, _ in many) == 2501
    assert max(lines for lines, _ in many) == MAX_BATCH_LINES
    wide = split((b'{"a":"' + b"x" * 300_000 + b'"}\n') * 8)
    assert sum(lines for lines, _ in wide) == 8
    assert max(size for _, size in wide) <= 1024 * 1024


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("make", "is_told"), [(Terminal, True), (io.StringIO, False)])
def test_progress_is_for_terminals(make: Callable[[], io.StringIO], is_told: bool) -> None:
    out = make()
    progress = Progress(out)
    tally = Tally()
    tally.accepted = 12_345
    progress.show(tally)
    assert ("12,345 changes" in out.getvalue()) is is_told
    progress.end()
    assert bool(out.getvalue()) is is_told
