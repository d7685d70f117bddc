"""Heads and bodies compressed apart are one valid message together, for any inflater."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from kalam_notify.delivery.payload import FrameSet
from kalam_notify.protocol.deflate import WORTHWHILE_BYTES, deflate_body, deflate_head
from kalam_notify.protocol.messages import change_head

TAIL = b"\x00\x00\xff\xff"
TEXTS = st.lists(st.sampled_from([b"row", b'{"id":', b"\x00", b"\xff\xff", b"a" * 40])).map(
    b"".join
)


@given(head=TEXTS, body=TEXTS)
def test_zlib_reads_the_two_pieces_as_one_message(head: bytes, body: bytes) -> None:
    message = deflate_head(head) + deflate_body(body) + TAIL
    assert zlib.decompressobj(-15).decompress(message) == head + body


@given(messages=st.lists(st.tuples(TEXTS, TEXTS), max_size=5))
def test_a_receiver_that_keeps_its_window_reads_them_too(
    messages: list[tuple[bytes, bytes]],
) -> None:
    inflater = zlib.decompressobj(-15)
    for head, body in messages:
        assert inflater.decompress(deflate_head(head) + deflate_body(body) + TAIL) == head + body


@pytest.mark.parametrize("forgets", [True, False])
def test_websockets_client_reads_compressed_and_plain_frames_in_a_row(forgets: bool) -> None:
    client = ClientProtocol(parse_uri("ws://localhost/"), state=State.OPEN)
    client.extensions = [
        PerMessageDeflate(
            remote_no_context_takeover=forgets,
            local_no_context_takeover=True,
            remote_max_window_bits=15,
            local_max_window_bits=15,
        )
    ]
    large = (
        b'"rows":['
        + b",".join(b'{"id":%d,"pad":"%b"}' % (n, b"x" * 90) for n in range(500))
        + b"]}"
    )
    small = b'"rows":[{"id":1}]}'
    head = change_head("orders", True)
    expected = []
    for bodies in ([large, small], [small], [large]):
        client.receive_data(FrameSet(bodies, 1).for_head(head))
        expected += [change_head("orders", False) + body for body in bodies]
    frames = client.events_received()
    assert all(isinstance(frame, Frame) and frame.opcode is Opcode.TEXT for frame in frames)
    assert [bytes(frame.data) for frame in frames if isinstance(frame, Frame)] == expected


def test_what_compression_does_not_make_smaller_is_sent_as_it_is() -> None:
    head = change_head("s", True)
    small = FrameSet([b"x" * (WORTHWHILE_BYTES - 1)], 1).for_head(head)
    large = FrameSet([b"x" * WORTHWHILE_BYTES * 4], 1).for_head(head)
    assert small[0] == 0x81
    assert large[0] == 0xC1
    assert len(large) < WORTHWHILE_BYTES


def test_connections_without_compression_get_the_same_bodies_plain() -> None:
    frames = FrameSet([b'"rows":[]}'], 1)
    assert frames.for_head(change_head("s", False)) == (
        b'\x81\x31{"type":"change","subscription_id":"s","rows":[]}'
    )
