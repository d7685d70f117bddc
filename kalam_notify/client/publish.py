"""Posting changes from a file or a pipe.

Lines of JSON are posted as they come, in batches of bounded size. A JSON document is one batch; an
array that is too large for that is taken apart, and posted in batches as well. Each batch has a key
of its own, so that one whose answer got lost is posted again without being stored twice.
"""

import os
import stat
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, Final, NamedTuple, TextIO

import msgspec

from kalam_notify.client.json_stream import LONGEST_ELEMENT, ArraySplitter, Malformed
from kalam_notify.client.plain_rows import Envelope
from kalam_notify.client.requests import Answer, Server

MAX_BATCH_LINES: Final = 1000
MAX_BATCH_BYTES: Final = 1024 * 1024
# An array up to these is posted whole: what a server takes in one batch by default.
WHOLE_CHANGES: Final = 10_000
WHOLE_BYTES: Final = 8 * 1024 * 1024 - 1024

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"

_is_json = msgspec.json.Decoder(msgspec.Raw).decode


class Batch(NamedTuple):
    """A body to post.

    `lines` is 0 for a JSON document; `changes` is how many there are in a part of an array.
    """

    body: bytes
    lines: int
    changes: int = 0

    @property
    def content_type(self) -> str:
        return "application/x-ndjson" if self.lines else "application/json"


def batches(source: BinaryIO, envelope: Envelope | None = None) -> Iterator[Batch]:
    """The batches of a stream, as soon as they are there; none of an empty one.

    With an `envelope` the stream is of rows. Raises Malformed.
    """
    head = _first_line(source)
    if _is_one_line_of_many(head):
        yield from _line_batches(source, head, envelope)
    elif head.lstrip().startswith(b"["):
        yield from _array_batches(source, head.lstrip()[1:], envelope)
    elif head.strip():
        document = head + source.read(LONGEST_ELEMENT)
        if source.read(1):
            raise Malformed(
                "this is neither an array nor lines of JSON, and too large for one change"
            )
        yield Batch(document if envelope is None else envelope.of(document), 0)


def row_batches(rows: Iterable[bytes], envelope: Envelope) -> Iterator[Batch]:
    """The batches of rows that are JSON without line breaks."""
    for group in _groups(map(envelope.of, rows)):
        yield Batch(b"\n".join(group), len(group))


def _array_batches(source: BinaryIO, head: bytes, envelope: Envelope | None) -> Iterator[Batch]:
    elements = _elements(source, head)
    if envelope is not None:
        elements = map(envelope.of, elements)
    held: list[bytes] = []
    size = 0
    for element in elements:
        held.append(element)
        size += len(element) + 1
        if len(held) > WHOLE_CHANGES or size > WHOLE_BYTES:
            break
    else:
        yield Batch(b"[" + b",".join(held) + b"]", 0)
        return
    for group in _groups(_chained(held, elements)):
        yield Batch(b"[" + b",".join(group) + b"]", 0, len(group))


def _chained(held: list[bytes], others: Iterator[bytes]) -> Iterator[bytes]:
    """`held` and then `others`; what has been passed on is not kept."""
    held.reverse()
    while held:
        yield held.pop()
    yield from others


def _elements(source: BinaryIO, head: bytes) -> Iterator[bytes]:
    splitter = ArraySplitter()
    piece = head
    while not splitter.is_complete:
        yield from splitter.feed(piece)
        piece = _read_some(source)
        if not piece:
            break
    while piece and not piece.strip():
        piece = _read_some(source)
    splitter.rest += piece
    splitter.end()


def _groups(changes: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Changes by the batch."""
    group: list[bytes] = []
    size = 0
    for change in changes:
        if group and (len(group) == MAX_BATCH_LINES or size + len(change) > MAX_BATCH_BYTES):
            yield group
            group, size = [], 0
        group.append(change)
        size += len(change) + 1
    if group:
        yield group


def _first_line(source: BinaryIO) -> bytes:
    """Up to the end of the first line that is not blank; of an array's no more than a piece."""
    head = b""
    while line := source.readline(MAX_BATCH_BYTES):
        if not head:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        head += line
        if line.strip():
            break
    if head.lstrip().startswith(b"{") and not head.endswith(b"\n"):
        head += source.readline(LONGEST_ELEMENT)
    return head


def _is_one_line_of_many(line: bytes) -> bool:
    if not line.lstrip().startswith(b"{"):
        return False
    try:
        _is_json(line)
    except msgspec.DecodeError:
        return False
    return True


def _line_batches(source: BinaryIO, head: bytes, envelope: Envelope | None) -> Iterator[Batch]:
    """Everything that waits in the stream goes into the next batch, as far as it fits."""
    yield from _pieces(head, envelope)
    waiting = b""
    while piece := _read_some(source):
        whole, newline, rest = piece.rpartition(b"\n")
        if not newline:
            waiting += piece
            if len(waiting) > LONGEST_ELEMENT:
                raise Malformed("a line has no end")
            continue
        yield from _pieces(waiting + whole, envelope)
        waiting = rest
    yield from _pieces(waiting, envelope)


def _read_some(source: BinaryIO) -> bytes:
    read1 = getattr(source, "read1", source.read)
    piece: bytes = read1(MAX_BATCH_BYTES)
    return piece


def _pieces(text: bytes, envelope: Envelope | None) -> Iterator[Batch]:
    lines: Iterable[bytes] = (line for line in text.split(b"\n") if line.strip())
    if envelope is not None:
        lines = map(envelope.of, lines)
    for group in _groups(lines):
        yield Batch(b"\n".join(group), len(group))


class Tally:
    """What has been accepted so far."""

    def __init__(self) -> None:
        self.accepted = 0
        self.duplicates = 0
        self.first_seq: int | None = None
        self.last_seq: int | None = None
        self.lines = 0
        self.changes = 0

    def add(self, answer: Answer, batch: Batch) -> None:
        body = answer.body
        self.accepted += body["accepted"]
        self.duplicates += body["duplicates"]
        self.lines += batch.lines
        self.changes += batch.changes
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


class Extent:
    """How much of a source has been read; how much there is, where it is a file."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self.total = _file_size(source)

    def read(self) -> int:
        return self._source.tell() if self.total else 0


def _file_size(source: BinaryIO) -> int:
    """0: it is not known."""
    try:
        found = os.fstat(source.fileno())
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


class Progress:
    """A line on a terminal that tells how far it has come; silent where there is no terminal."""

    def __init__(
        self,
        out: TextIO,
        extent: Extent | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._out = out
        self._extent = extent
        self._is_shown = out.isatty()
        self._clock = clock
        self._started = clock()

    def show(self, tally: Tally) -> None:
        if self._is_shown:
            done = tally.accepted + tally.duplicates
            seconds = max(self._clock() - self._started, 1e-6)
            progress = f"{self._share(seconds)}{done:,} changes, {done / seconds:,.0f}/s"
            self._out.write(f"\r{progress} \x1b[K")
            self._out.flush()

    def end(self) -> None:
        if self._is_shown:
            self._out.write("\r\x1b[K")
            self._out.flush()

    def _share(self, seconds: float) -> str:
        """How much of it is done and when the rest will be."""
        read = self._extent.read() if self._extent else 0
        if self._extent is None or not read:
            return ""
        share = min(1.0, read / self._extent.total)
        left = round(seconds * (1.0 - share) / share)
        hours, minutes = left // 3600, left // 60 % 60
        clock = f"{hours}:{minutes:02}:{left % 60:02}" if hours else f"{minutes}:{left % 60:02}"
        return f"{share:4.0%}  ETA {clock}  "


def post_all(
    server: Server,
    source: BinaryIO,
    tally: Tally,
    progress: Progress,
    found: Iterator[Batch] | None = None,
) -> str | None:
    """Post everything in `source`; answers the server's refusal, or None when it took all.

    `found` are the batches of `source`, where it is not JSON. Raises Malformed, Unreachable; what
    was posted before that is in.
    """
    run = uuid.uuid4().hex
    for number, batch in enumerate(found or batches(source)):
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
    if tally.changes:
        first = tally.changes + 1
        return f"{answer.fault}, counted from change {first} on; the changes before are in"
    return answer.fault


def publish_stream(server: Server, source: BinaryIO, found: Iterator[Batch] | None = None) -> int:
    """Post a stream, tell the outcome on stdout and stderr; answers the exit code.

    `found` are the batches of `source`, where it is not JSON.
    """
    tally, progress = Tally(), Progress(sys.stderr, Extent(source))
    try:
        refusal = post_all(server, source, tally, progress, found)
    finally:
        progress.end()
        print(tally, flush=True)
    if refusal is None:
        return 0
    print(f"refused: {refusal}", file=sys.stderr)
    return 1
