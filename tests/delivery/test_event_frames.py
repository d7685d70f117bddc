"""Messages as Server-Sent Events: the same bodies in another frame, plain and packed."""

import re
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalam_notify.delivery.payload import FrameSet
from kalam_notify.protocol.events import GZIP_HEADER, HEARTBEAT, Events, event, packed
from kalam_notify.protocol.messages import change_head, framed

BODIES = [b'"change_type":"insert","rows":[{"id":1,"_seq":"7"}]}', b'"change_type":"delete"}']


def text(framing: Events, *pieces: bytes) -> bytes:
    """What a reader of the stream sees."""
    if framing is Events.PLAIN:
        return b"".join(pieces)
    inflater = zlib.decompressobj(31)
    # Each piece is to be seen as soon as it has come.
    seen = [inflater.decompress(piece) for piece in (GZIP_HEADER, *pieces)]
    assert all(seen[1:])
    return b"".join(seen)


@pytest.mark.parametrize("framing", list(Events))
def test_every_message_is_an_event_with_its_position(framing: Events) -> None:
    frames = FrameSet(BODIES, 2, [7, 9])
    told = text(framing, frames.for_head(change_head("s", framing)))
    head = b'data: {"type":"change","subscription_id":"s",'
    assert told == head + BODIES[0] + b"\nid: 7\n\n" + head + BODIES[1] + b"\nid: 9\n\n"


@pytest.mark.parametrize("framing", list(Events))
def test_several_batches_keep_their_positions(framing: Events) -> None:
    joined = FrameSet.joined([FrameSet(BODIES[:1], 1, [7]), FrameSet(BODIES[1:], 1, [9])])
    told = text(framing, joined.for_head(change_head("s", framing)))
    assert re.findall(rb"^id: (\d+)$", told, re.MULTILINE) == [b"7", b"9"]


def test_heads_of_all_kinds_may_stand_in_one_chunk() -> None:
    frames = FrameSet(BODIES, 2, [7, 9])
    heads = [change_head("s", framing) for framing in (False, True, *Events)]
    data, sizes = frames.for_heads(heads)
    assert data == b"".join(map(frames.for_head, heads))
    assert sizes == [len(frames.for_head(head)) for head in heads]


@pytest.mark.parametrize("framing", list(Events))
def test_acknowledgements_comments_and_names(framing: Events) -> None:
    pieces = (
        framed(b'{"a":1}', framing),
        packed(HEARTBEAT, framing),
        event(b"{}", framing, b"close"),
    )
    assert text(framing, *pieces) == b'data: {"a":1}\n\n: \n\nevent: close\ndata: {}\n\n'


@given(st.lists(st.binary(max_size=2000).map(lambda raw: raw.replace(b"\n", b"")), max_size=5))
def test_what_is_packed_for_all_is_one_stream_for_each(bodies: list[bytes]) -> None:
    if not bodies:
        return
    frames = FrameSet(bodies, len(bodies), list(range(len(bodies))))
    plain = frames.for_head(change_head("x" * 20, Events.PLAIN))
    again = [frames.for_head(change_head("x" * 20, Events.GZIP)) for _ in range(2)]
    assert text(Events.GZIP, *again) == plain * 2
