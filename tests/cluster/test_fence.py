"""Is it the same stream? What is decided, and what follows from it."""

from typing import Any

import pytest

from kalam_notify.log.nats.applying import AppliedMessage, NodeState
from kalam_notify.log.nats.fence import LostEnd, Parted, compare, compare_message
from kalam_notify.log.nats.link import StreamInfo, StreamMessage

LAST = AppliedMessage(10, "life-1", 1234)
STATE = NodeState("S", "then", 10, 0, 1, LAST)
FRESH = NodeState("S", "", 0, 0, 0)


def info(first: int = 1, last: int = 10, created: str = "then") -> StreamInfo:
    return StreamInfo(created, first, last, last - first + 1, 0, {}, None)


def message(mid: str = "life-1", at: int = 1234) -> StreamMessage:
    return StreamMessage(10, at, {"Kalam-Mid": mid}, b"")


@pytest.mark.parametrize(
    ("state", "seen"),
    [
        (STATE, info()),
        (STATE, info(last=500)),
        (STATE, info(first=11, last=20)),
        (FRESH, info(last=0)),
        (FRESH, info(last=500)),
        (FRESH, info(created="another")),
    ],
)
def test_a_stream_that_goes_on_where_the_file_ends_is_followed(
    state: NodeState, seen: StreamInfo
) -> None:
    compare(state, seen)


@pytest.mark.parametrize(
    ("state", "seen", "words", "owes_epoch", "can_replay"),
    [
        (FRESH, info(first=2), "has nothing of what came before", False, False),
        (STATE, info(created="later"), "made anew", False, False),
        (STATE, info(last=9), "lost its end", True, True),
        (STATE, info(first=3, last=9), "lost its end", True, False),
        (STATE, info(first=12, last=20), "been away since message 10", False, False),
    ],
)
def test_a_stream_that_does_not_is_told_with_what_may_be_done(
    state: NodeState, seen: StreamInfo, words: str, owes_epoch: bool, can_replay: bool
) -> None:
    with pytest.raises(Parted, match=words) as parted:
        compare(state, seen)
    assert (parted.value.owes_epoch, parted.value.can_replay) == (owes_epoch, can_replay)


def test_only_a_lost_end_is_to_be_confirmed() -> None:
    with pytest.raises(LostEnd):
        compare(STATE, info(last=9))
    with pytest.raises(Parted) as parted:
        compare(STATE, info(created="later", last=9))
    assert not isinstance(parted.value, LostEnd)


def test_the_message_that_was_applied_is_the_streams() -> None:
    compare_message(LAST, message(), STATE, info())


@pytest.mark.parametrize(
    "theirs", [None, message(mid="life-2"), message(at=1235), message()._replace(headers=None)]
)
def test_another_message_in_its_place_parts_them(theirs: Any) -> None:
    with pytest.raises(Parted, match="message 10 of the stream S is not the one") as parted:
        compare_message(LAST, theirs, STATE, info())
    assert parted.value.owes_epoch
    assert parted.value.can_replay
