"""Where a node stands, on a clock that stands still."""

import asyncio

import pytest

from kalam_notify.errors import LogUnavailable
from kalam_notify.log.nats.applying import AppliedMessage, NodeState, Owes
from kalam_notify.log.nats.message import NOTHING_SEEN, Seen
from kalam_notify.log.nats.standing import Standing


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def standing(clock: Clock) -> Standing:
    return Standing("S", clock)


def at(applied: int) -> NodeState:
    return NodeState("S", "then", applied, 7, 1, AppliedMessage(applied, f"m{applied}", 0))


def test_a_node_is_ready_once_it_is_level(standing: Standing) -> None:
    standing.hear(5)
    assert standing.why_not_ready(15) == (
        "this node has not caught up with the stream: 5 messages are left"
    )
    with pytest.raises(LogUnavailable):
        standing.require_level()
    standing.advance(at(5))
    standing.reached(5)
    standing.require_level()
    assert standing.why_not_ready(15) is None


def test_what_is_left_to_apply_or_to_publish_keeps_it_from_being_level(standing: Standing) -> None:
    standing.advance(at(4))
    standing.reached(5)
    assert not standing.is_level
    standing.advance(at(5)._replace(owes=Owes.EPOCH))
    standing.reached(5)
    assert not standing.is_level
    standing.advance(at(5))
    standing.part("another stream")
    standing.reached(5)
    assert not standing.is_level
    standing.rejoin()
    standing.reached(5)
    assert standing.is_level


def test_what_the_file_before_had_applied_does_not_make_another_one_level(
    standing: Standing,
) -> None:
    standing.advance(at(9))
    standing.reached(9)
    with standing.between_files():
        assert not standing.is_level
        # The stream was asked before, or is asked now, and the state is the old one still.
        standing.reached(9)
        assert not standing.is_level
        standing.advance(at(2))
    standing.reached(9)
    assert not standing.is_level
    standing.advance(at(9))
    standing.reached(9)
    assert standing.is_level


def test_a_file_that_was_to_be_left_and_was_not_can_be_level_again(standing: Standing) -> None:
    standing.advance(at(9))
    with pytest.raises(LogUnavailable), standing.between_files():
        raise LogUnavailable("no other file")
    assert not standing.is_level
    standing.reached(9)
    assert standing.is_level


def test_silence_counts_from_the_last_answer(standing: Standing, clock: Clock) -> None:
    standing.reached(0)
    clock.now += 15
    assert standing.why_not_ready(15) is None
    clock.now += 1
    assert standing.why_not_ready(15) == "the stream has not been reached for 16 s"
    assert standing.why_cut_off(60) is None
    clock.now += 50
    assert standing.why_cut_off(60) == "the stream has not been reached for 66 s"
    standing.hear(0)
    assert standing.why_not_ready(15) is None
    assert standing.why_cut_off(60) is None


def test_a_node_that_is_broken_does_not_become_whole_by_rejoining(standing: Standing) -> None:
    standing.reached(0)
    standing.part("another stream")
    assert standing.standstill == "another stream"
    standing.rejoin()
    assert standing.why_not_ready(15) is None
    standing.break_off("a newer format")
    standing.part("another stream")
    standing.rejoin()
    assert standing.why_not_ready(15) == "a newer format"
    standing.file_replaced()
    assert standing.standstill is None


def test_what_is_heard_is_passed_on_and_never_falls(standing: Standing) -> None:
    heard: list[int] = []
    standing.on_heard = heard.append
    for seq in (3, 2, 5):
        standing.hear(seq)
    assert heard == [3, 2, 5]
    assert (standing.heard, standing.lag) == (5, 5)


def test_a_message_tells_what_was_applied_last(standing: Standing) -> None:
    assert standing.seen == NOTHING_SEEN
    standing.advance(at(4))
    assert standing.seen == Seen(4, "m4", 7)


async def test_whoever_waits_is_woken_by_the_message_it_waits_for(standing: Standing) -> None:
    waiting = asyncio.create_task(standing.applied_upto(2))
    await asyncio.sleep(0)
    standing.advance(at(1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    standing.advance(at(2))
    await waiting
