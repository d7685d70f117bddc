"""Asking over HTTP: what is tried again, how often, and how long it waits in between."""

import io
from collections.abc import Callable

import pytest
from scripted import ACCEPTED, Scripted

from kalam_notify.client.publish import MAX_BATCH_LINES, Progress, Tally, batches, post_all
from kalam_notify.client.requests import MAX_TRIES, Server, Unreachable


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
