"""Posting changes from a file or a pipe.

A JSON document is one batch and is posted as it is. Lines of JSON are posted as they come, in
batches of bounded size, each with a key of its own, so that a batch whose answer got lost is
posted again without being stored twice.
"""

import sys
import time
import uuid
from collections.abc import Iterator
from typing import BinaryIO, Final, NamedTuple, TextIO

import msgspec

from kalam_notify.client.requests import Answer, Server

MAX_BATCH_LINES: Final = 1000
MAX_BATCH_BYTES: Final = 1024 * 1024

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"

_is_json = msgspec.json.Decoder(msgspec.Raw).decode


class Batch(NamedTuple):
    """A body to post; `lines` is 0 for a JSON document."""

    body: bytes
    lines: int

    @property
    def content_type(self) -> str:
        return "application/x-ndjson" if self.lines else "application/json"


def batches(source: BinaryIO) -> Iterator[Batch]:
    """The batches of a stream, as soon as they are there; none of an empty one."""
    head = _first_line(source)
    if _is_one_line_of_many(head):
        yield from _line_batches(source, head)
    elif head.strip():
        yield Batch(head + source.read(), 0)


def _first_line(source: BinaryIO) -> bytes:
    """Up to the end of the first line that is not blank."""
    head = b""
    while line := source.readline():
        if not head:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        head += line
        if line.strip():
            break
    return head


def _is_one_line_of_many(line: bytes) -> bool:
    if not line.lstrip().startswith(b"{"):
        return False
    try:
        _is_json(line)
    except msgspec.DecodeError:
        return False
    return True


def _line_batches(source: BinaryIO, head: bytes) -> Iterator[Batch]:
    """Everything that waits in the stream goes into the next batch, as far as it fits."""
    yield from _pieces(head)
    waiting = b""
    while piece := _read_some(source):
        whole, newline, rest = piece.rpartition(b"\n")
        if not newline:
            waiting += piece
            continue
        yield from _pieces(waiting + whole)
        waiting = rest
    yield from _pieces(waiting)


def _read_some(source: BinaryIO) -> bytes:
    read1 = getattr(source, "read1", source.read)
    piece: bytes = read1(MAX_BATCH_BYTES)
    return piece


def _pieces(text: bytes) -> Iterator[Batch]:
    lines: list[bytes] = []
    size = 0
    for line in text.split(b"\n"):
        if not line.strip():
            continue
        if lines and (len(lines) == MAX_BATCH_LINES or size + len(line) > MAX_BATCH_BYTES):
            yield Batch(b"\n".join(lines), len(lines))
            lines, size = [], 0
        lines.append(line)
        size += len(line) + 1
    if lines:
        yield Batch(b"\n".join(lines), len(lines))


class Tally:
    """What has been accepted so far."""

    def __init__(self) -> None:
        self.accepted = 0
        self.duplicates = 0
        self.first_seq: int | None = None
        self.last_seq: int | None = None
        self.lines = 0

    def add(self, answer: Answer, batch: Batch) -> None:
        body = answer.body
        self.accepted += body["accepted"]
        self.duplicates += body["duplicates"]
        self.lines += batch.lines
        if body["first_seq"] is not None:
            if self.first_seq is None:
                self.first_seq = body["first_seq"]
            self.last_seq = body["last_seq"]

    def __str__(self) -> str:
        first, last = ("-" if seq is None else seq for seq in (self.first_seq, self.last_seq))
        return (
            f"accepted={self.accepted} duplicates={self.duplicates} "
            f"first_seq={first} last_seq={last}"
        )


class Progress:
    """A line on a terminal that tells how far it has come; silent where there is no terminal."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._is_shown = out.isatty()
        self._started = time.monotonic()

    def show(self, tally: Tally) -> None:
        if self._is_shown:
            done = tally.accepted + tally.duplicates
            seconds = max(time.monotonic() - self._started, 1e-6)
            self._out.write(f"\r{done:,} changes, {done / seconds:,.0f}/s \x1b[K")
            self._out.flush()

    def end(self) -> None:
        if self._is_shown:
            self._out.write("\r\x1b[K")
            self._out.flush()


def post_all(server: Server, source: BinaryIO, tally: Tally, progress: Progress) -> str | None:
    """Post everything in `source`; answers the server's refusal, or None when it took all."""
    run = uuid.uuid4().hex
    for number, batch in enumerate(batches(source)):
        headers = {"Content-Type": batch.content_type, "Idempotency-Key": f"{run}-{number}"}
        answer = server.ask("POST", "/v1/changes", batch.body, headers)
        if answer.status != 200 or not isinstance(answer.body, dict):
            return _refusal(answer, tally)
        tally.add(answer, batch)
        progress.show(tally)
    return None


def _refusal(answer: Answer, tally: Tally) -> str:
    if tally.lines:
        return f"{answer.fault}, counted from line {tally.lines + 1} on; the lines before are in"
    return answer.fault


def publish_stream(server: Server, source: BinaryIO) -> int:
    """Post a stream, tell the outcome on stdout and stderr; answers the exit code."""
    tally, progress = Tally(), Progress(sys.stderr)
    try:
        refusal = post_all(server, source, tally, progress)
    finally:
        progress.end()
        print(tally, flush=True)
    if refusal is None:
        return 0
    print(f"refused: {refusal}", file=sys.stderr)
    return 1
