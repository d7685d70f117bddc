"""Bytes in, messages out: what one socket sends, without a socket."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import State as WireState
from websockets.server import ServerProtocol

from kalam_notify.protocol import close
from kalam_notify.sockets.inbound import Binary, Heard, Inbound, Piece, Text, frame_size

LIMIT = 1000


def inbound(limit: int = LIMIT, *, compressed: bool = False) -> tuple[Inbound, ServerProtocol]:
    wire = ServerProtocol(state=WireState.OPEN)
    if compressed:
        wire.extensions = [PerMessageDeflate(True, True, 15, 15)]
    return Inbound(wire, limit), wire


def frame(opcode: Opcode, data: bytes, *, fin: bool = True, rsv1: bool = False) -> bytes:
    made = bytearray(Frame(opcode, data, fin).serialize(mask=True))
    made[0] |= 0x40 if rsv1 else 0
    return bytes(made)


def text(content: str) -> bytes:
    return frame(Opcode.TEXT, content.encode())


def deflated(content: bytes) -> bytes:
    maker = zlib.compressobj(wbits=-15)
    return (maker.compress(content) + maker.flush(zlib.Z_SYNC_FLUSH))[:-4]


def heard(side: Inbound, data: bytes) -> list[Heard]:
    """Everything that is heard of these bytes."""
    side.take(data)
    found = []
    while (one := side.next()) is not None:
        found.append(one)
    return found


def test_a_message_is_heard_when_it_has_come_whole() -> None:
    side, _ = inbound()
    data = text("hello")
    assert [heard(side, data[n : n + 1]) for n in range(len(data) - 1)] == [[]] * (len(data) - 1)
    assert heard(side, data[-1:]) == [Text("hello", 5)]


def test_one_message_at_a_time_is_heard_and_the_rest_waits_unseen() -> None:
    side, wire = inbound()
    side.take(text("one") + frame(Opcode.PING, b"x") + text("two"))
    assert side.next() == Text("one", 3)
    assert wire.data_to_send() == [], "the ping was not looked at"
    assert side.next() == Piece(1)
    assert side.unread == len(text("two"))
    assert side.next() == Text("two", 3)
    assert side.next() is None


@given(
    st.lists(st.sampled_from([0, 1, 125, 126, 300, 65535, 65536, 70000]), min_size=1, max_size=4),
    st.lists(st.integers(1, 70000), min_size=1, max_size=20),
)
def test_how_bytes_are_cut_up_makes_no_difference(sizes: list[int], cuts: list[int]) -> None:
    side, _ = inbound(1 << 20)
    data = b"".join(text("x" * size) for size in sizes)
    found, at = [], 0
    for cut in [*cuts, len(data)]:
        found += heard(side, data[at : at + cut])
        at += cut
    assert found == [Text("x" * size, size) for size in sizes]
    assert side.held == 0


def test_fragments_are_one_message_and_count_as_pieces() -> None:
    side, _ = inbound()
    parts = [
        frame(Opcode.TEXT, "é".encode()[:1], fin=False),
        frame(Opcode.PING, b"between"),
        frame(Opcode.CONT, b"", fin=False),
        frame(Opcode.CONT, "é".encode()[1:]),
    ]
    assert heard(side, b"".join(parts)) == [Piece(1), Piece(7), Piece(0), Text("é", 2)]


def test_binary_messages_have_a_size_and_no_content() -> None:
    side, _ = inbound()
    assert heard(side, frame(Opcode.BINARY, b"\xff" * 9)) == [Binary(9)]


def test_what_is_not_utf8_is_refused() -> None:
    side, _ = inbound()
    assert heard(side, frame(Opcode.TEXT, b"\xff")) == [close.INVALID_UTF8]


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT, LIMIT + 1])
@pytest.mark.parametrize("parts", [1, 3])
def test_a_message_takes_its_limit_and_no_more(size: int, parts: int) -> None:
    side, wire = inbound()
    data = b"x" * size
    cut = [data[n * size // parts : (n + 1) * size // parts] for n in range(parts)]
    for number, part in enumerate(cut):
        opcode = Opcode.CONT if number else Opcode.TEXT
        found = heard(side, frame(opcode, part, fin=number == parts - 1))
    if size <= LIMIT:
        assert found == [Text("x" * size, size)]
    else:
        assert found == []
        assert wire.close_sent is not None
        assert wire.close_sent.code == 1009


def test_a_frame_too_large_is_refused_at_its_header() -> None:
    side, wire = inbound()
    heard(side, b"\x81\xff" + (1 << 20).to_bytes(8) + b"mask" + b"x" * 100)
    assert wire.close_sent is not None
    assert wire.close_sent.code == 1009
    assert heard(side, b"x" * 100_000) == []
    assert side.held == 0, "what follows is thrown away"


def test_a_limit_that_is_raised_holds_from_the_next_message_on() -> None:
    side, _ = inbound(10)
    assert heard(side, text("small")) == [Text("small", 5)]
    side.limit = LIMIT
    assert heard(side, text("x" * LIMIT)) == [Text("x" * LIMIT, LIMIT)]


def test_a_compressed_message_is_bounded_by_what_it_inflates_to() -> None:
    for size, fits in ((LIMIT - 1, True), (LIMIT, True), (LIMIT + 1, False), (50 * LIMIT, False)):
        side, _ = inbound(compressed=True)
        found = heard(side, frame(Opcode.TEXT, deflated(b"x" * size), rsv1=True))
        assert found == [Text("x" * size, size) if fits else close.TOO_LARGE]


def test_a_compressed_message_in_fragments_is_inflated_once_it_is_whole() -> None:
    side, _ = inbound(compressed=True)
    data = deflated(b"hello hello hello")
    first = frame(Opcode.TEXT, data[:5], fin=False, rsv1=True)
    assert heard(side, first) == [Piece(5)]
    assert heard(side, frame(Opcode.CONT, data[5:])) == [Text("hello hello hello", 17)]
    assert heard(side, text("plain")) == [Text("plain", 5)], "the next one says for itself"


def test_damaged_compression_breaks_the_framing() -> None:
    side, _ = inbound(compressed=True)
    assert heard(side, frame(Opcode.TEXT, b"\xff\xff", rsv1=True)) == [close.BROKEN_COMPRESSION]


@pytest.mark.parametrize(
    ("data", "compressed"),
    [
        (frame(Opcode.TEXT, b"x", rsv1=True), False),
        (frame(Opcode.PING, b"x", rsv1=True), True),
        (frame(Opcode.TEXT, b"x", fin=False) + frame(Opcode.CONT, b"x", rsv1=True), True),
        (frame(Opcode.CONT, b"x"), False),
        (b"\x81\x01x", False),
    ],
    ids=["not negotiated", "on a ping", "on a continuation", "nothing to continue", "unmasked"],
)
def test_broken_framing_is_refused(data: bytes, compressed: bool) -> None:
    side, wire = inbound(compressed=compressed)
    assert [one for one in heard(side, data) if not isinstance(one, Piece)] == []
    assert wire.close_sent is not None
    assert wire.close_sent.code == 1002


def test_what_is_held_is_told_at_every_stage() -> None:
    side, _ = inbound()
    data = text("x" * 500)
    side.take(data[:3])
    side.next()
    assert side.held == 3, "a header in part"
    heard(side, data[3:300])
    assert 280 <= side.held <= 300, "a frame in part"
    heard(side, data[300:])
    assert side.held == 0
    heard(side, frame(Opcode.TEXT, b"y" * 100, fin=False))
    assert side.held == 100, "a message in part"
    side.take(text("unheard"))
    assert side.held == 100 + len(text("unheard"))
    side.drop()
    assert side.held == 0


def test_after_the_close_frame_nothing_is_heard() -> None:
    side, wire = inbound()
    assert heard(side, frame(Opcode.CLOSE, b"\x03\xe8") + text("late")) == []
    assert wire.state is not WireState.OPEN
    assert heard(side, text("later")) == []
    assert side.held == 0


def test_a_long_frame_in_many_parts_is_copied_in_proportion_to_its_length() -> None:
    """Each byte is taken once, however small the pieces it comes in."""
    side, wire = inbound(1 << 20)
    data = text("x" * 100_000)
    for at in range(0, len(data), 100):
        heard(side, data[at : at + 100])
        assert side.unread < 14
    assert len(wire.reader.buffer) == 0


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
@pytest.mark.parametrize("mask", [True, False])
def test_the_size_of_a_frame_stands_in_its_header(size: int, mask: bool) -> None:
    made = Frame(Opcode.TEXT, b"x" * size).serialize(mask=mask)
    assert frame_size(b"before" + made, 6) == len(made)
    assert frame_size(made[:1], 0) == 0
