"""What the tail decides, by calling it: no server, and a clock of the test's own."""

import random

import pytest

from kalam_notify.log.nats.faults import Astray, Trimmed
from kalam_notify.log.nats.reading import (
    EMPTY_ANSWERS,
    LAG_SECONDS,
    POLL_SECONDS,
    SILENCE_SECONDS,
    STRAYS,
    Ask,
    Look,
    Reading,
    Wait,
)
from kalam_notify.log.nats.stream import StreamMessage


def message(seq: int) -> StreamMessage:
    return StreamMessage(seq, 0, None, b"")


class Reader:
    """A reading with a clock, asked by words."""

    def __init__(self, upto: int = 0) -> None:
        self.now = 100.0
        self.reading = Reading(upto)
        self.has_room = True

    def step(self) -> Ask | Look | Wait:
        return self.reading.step(self.now, has_room=self.has_room)

    def ring(self, seq: int) -> None:
        self.reading.ring(message(seq), self.now, has_room=self.has_room)

    def taken(self) -> list[int]:
        return [one.seq for one in self.reading.taken()]

    def asks(self) -> Ask:
        action = self.step()
        assert isinstance(action, Ask)
        return action

    def comes(self, ask: Ask, *seqs: int, pending: int = 0) -> list[int]:
        """A complete answer; what is taken of it."""
        for seq in seqs:
            self.reading.receive(ask.number, message(seq), self.now)
        self.reading.end(ask.number, self.now, pending=pending)
        return [one.seq for one in self.reading.taken()]


def test_it_asks_at_once_for_what_follows() -> None:
    reader = Reader(7)
    assert reader.asks().seq == 8


def test_there_is_one_question_at_a_time_whatever_rings() -> None:
    reader = Reader()
    ask = reader.asks()
    reader.reading.hear(5)
    assert reader.step() == Wait(reader.now + SILENCE_SECONDS)
    assert reader.comes(ask, 1, 2) == [1, 2]
    assert reader.asks() == Ask(ask.number + 1, 3)


def test_nothing_is_taken_before_the_answer_has_ended() -> None:
    reader = Reader()
    ask = reader.asks()
    reader.reading.receive(ask.number, message(1), reader.now)
    assert reader.reading.taken() == []
    reader.reading.end(ask.number, reader.now)
    assert reader.reading.taken() == [message(1)]
    assert reader.reading.taken() == []


def test_an_answer_that_leaves_some_is_followed_by_a_question_at_once() -> None:
    reader = Reader()
    assert reader.comes(reader.asks(), 1, 2, pending=3) == [1, 2]
    assert reader.reading.want == 5
    assert reader.asks().seq == 3


def test_without_a_bell_it_asks_now_and_then() -> None:
    reader = Reader()
    reader.comes(reader.asks())
    assert reader.step() == Wait(reader.now + POLL_SECONDS)
    reader.now += POLL_SECONDS
    assert reader.asks().seq == 1


def test_a_bell_is_followed_at_once() -> None:
    reader = Reader()
    reader.comes(reader.asks())
    reader.reading.hear(1)
    assert reader.asks().seq == 1


def test_a_replica_that_lags_is_asked_again_after_a_pause() -> None:
    reader = Reader()
    reader.reading.hear(1)
    reader.comes(reader.asks())
    assert reader.step() == Wait(reader.now + LAG_SECONDS)
    reader.now += LAG_SECONDS
    assert reader.comes(reader.asks(), 1) == [1]


def test_without_room_nothing_is_asked() -> None:
    reader = Reader()
    reader.has_room = False
    reader.reading.hear(9)
    assert reader.step() == Wait(reader.now + POLL_SECONDS)
    reader.has_room = True
    assert reader.asks().seq == 1


def test_a_silent_question_is_given_up_with_what_it_gave() -> None:
    reader = Reader()
    first = reader.asks()
    reader.now += SILENCE_SECONDS / 2
    reader.reading.receive(first.number, message(1), reader.now)
    assert reader.step() == Wait(reader.now + SILENCE_SECONDS)
    reader.now += SILENCE_SECONDS
    assert isinstance(reader.step(), Wait)
    assert reader.reading.taken() == [message(1)]
    second = reader.asks()
    assert second == Ask(first.number + 1, 2)
    # It was only late.
    reader.reading.receive(first.number, message(2), reader.now)
    reader.reading.end(first.number, reader.now)
    assert reader.reading.upto == 1
    assert reader.comes(second, 2, 3) == [2, 3]


def test_a_gap_is_not_taken_and_the_leader_is_asked() -> None:
    reader = Reader()
    assert reader.comes(reader.asks(), 1, 3, 4) == [1]
    reader.now += LAG_SECONDS
    assert reader.step() == Look()
    assert reader.step() == Wait(None)
    reader.reading.looked(1, 4)
    assert reader.comes(reader.asks(), 2, 3, 4) == [2, 3, 4]


def test_what_was_trimmed_is_told() -> None:
    reader = Reader(3)
    reader.comes(reader.asks(), 9)
    reader.now += LAG_SECONDS
    assert reader.step() == Look()
    with pytest.raises(Trimmed) as told:
        reader.reading.looked(9, 12)
    assert told.value.first_seq == 9


def test_a_stream_that_was_trimmed_up_to_where_we_are_goes_on() -> None:
    reader = Reader(3)
    reader.comes(reader.asks(), 9)
    reader.now += LAG_SECONDS
    reader.step()
    reader.reading.looked(4, 3)
    assert reader.reading.upto == 3


def test_going_astray_again_and_again_is_told() -> None:
    reader = Reader()
    for _ in range(STRAYS - 1):
        reader.comes(reader.asks(), 2)
        reader.now += LAG_SECONDS
        assert reader.step() == Look()
        reader.reading.looked(1, 5)
    reader.comes(reader.asks(), 2)
    reader.now += LAG_SECONDS
    assert reader.step() == Look()
    with pytest.raises(Astray, match="what follows on 0"):
        reader.reading.looked(1, 5)


def test_going_astray_now_and_then_is_forgotten() -> None:
    reader = Reader()
    for seq in range(1, 3 * STRAYS):
        reader.comes(reader.asks(), seq + 1)
        reader.now += LAG_SECONDS
        assert reader.step() == Look()
        reader.reading.looked(1, 100)
        assert reader.comes(reader.asks(), seq) == [seq]


def empty_answers(reader: Reader) -> None:
    for _ in range(EMPTY_ANSWERS):
        reader.comes(reader.asks())
        reader.now += LAG_SECONDS


def test_a_stream_that_was_trimmed_to_its_end_is_noticed() -> None:
    reader = Reader()
    reader.reading.hear(5)
    empty_answers(reader)
    assert reader.step() == Look()
    with pytest.raises(Trimmed):
        reader.reading.looked(6, 5)


def test_a_stream_that_lost_its_end_is_noticed() -> None:
    reader = Reader()
    reader.reading.hear(5)
    for _ in range(STRAYS - 1):
        empty_answers(reader)
        assert reader.step() == Look()
        reader.reading.looked(1, 4)
    empty_answers(reader)
    assert reader.step() == Look()
    with pytest.raises(Astray):
        reader.reading.looked(1, 4)


def test_a_replica_that_lags_for_long_is_waited_for() -> None:
    reader = Reader()
    reader.reading.hear(5)
    for _ in range(2 * STRAYS):
        empty_answers(reader)
        assert reader.step() == Look()
        reader.reading.looked(1, 5)
    assert reader.comes(reader.asks(), 1) == [1]


def test_nobody_there_makes_doubt_until_the_leader_answers() -> None:
    reader = Reader()
    ask = reader.asks()
    reader.reading.end(ask.number, reader.now, nobody=True)
    assert reader.step() == Wait(reader.now + LAG_SECONDS)
    for _ in range(3):
        reader.now += LAG_SECONDS
        assert reader.step() == Look()
        reader.reading.looked_in_vain(reader.now)
    reader.now += LAG_SECONDS
    assert reader.step() == Look()
    reader.reading.looked(1, 2)
    assert reader.comes(reader.asks(), 1, 2) == [1, 2]


def test_a_message_that_comes_with_the_bell_is_taken_and_nothing_is_asked() -> None:
    reader = Reader(4)
    assert reader.comes(reader.asks()) == []
    reader.ring(5)
    reader.ring(6)
    assert reader.taken() == [5, 6]
    assert reader.step() == Wait(reader.now + POLL_SECONDS)


def test_a_bell_ahead_of_what_was_taken_is_asked_for() -> None:
    reader = Reader(4)
    assert reader.comes(reader.asks()) == []
    reader.ring(6)
    assert reader.taken() == []
    assert reader.asks().seq == 5


def test_a_bell_of_what_was_taken_says_nothing() -> None:
    reader = Reader(4)
    assert reader.comes(reader.asks()) == []
    reader.ring(4)
    reader.ring(5)
    reader.ring(5)
    assert reader.taken() == [5]
    assert reader.step() == Wait(reader.now + POLL_SECONDS)


def test_what_rings_while_an_answer_is_under_way_is_not_taken_twice() -> None:
    reader = Reader()
    ask = reader.asks()
    reader.ring(1)
    assert reader.comes(ask, 1) == [1]
    assert reader.step() == Wait(reader.now + POLL_SECONDS)


def test_a_bell_is_not_taken_where_there_is_no_room_or_doubt() -> None:
    reader = Reader()
    assert reader.comes(reader.asks()) == []
    reader.has_room = False
    reader.ring(1)
    assert reader.taken() == []
    assert reader.step() == Wait(reader.now + POLL_SECONDS)
    reader.has_room = True
    ask = reader.asks()
    reader.reading.receive(ask.number, message(9), reader.now)
    reader.ring(1)
    assert reader.taken() == []
    assert reader.step() == Wait(reader.now + LAG_SECONDS)
    reader.now += LAG_SECONDS
    assert reader.step() == Look()
    reader.ring(1)
    reader.reading.looked(1, 1)
    assert reader.comes(reader.asks(), 1) == [1]


@pytest.mark.parametrize("seed", range(200))
def test_whatever_answers_say_all_is_taken_once_and_in_order(seed: int) -> None:
    """Replicas lag, skip, repeat, fall silent, and answer late; bells come or do not."""
    rng = random.Random(seed)
    reader, end, taken = Reader(), 60, []
    late: list[tuple[Ask, int]] = []
    while reader.reading.upto < end:
        reader.now += rng.choice([0.001, LAG_SECONDS, POLL_SECONDS, SILENCE_SECONDS])
        reader.has_room = rng.random() < 0.8
        if rng.random() < 0.3:
            reader.reading.hear(rng.randint(1, end))
        if rng.random() < 0.3:
            reader.ring(min(end, reader.reading.upto + rng.randint(0, 3)))
        for ask, seq in late:
            reader.reading.receive(ask.number, message(seq), reader.now)
        match reader.step():
            case Look():
                reader.reading.looked(1, end)
            case Ask() as ask:
                has_upto = rng.randint(ask.seq - 1, end)
                seqs = list(range(ask.seq, min(has_upto, ask.seq + rng.randint(0, 20)) + 1))
                if seqs and rng.random() < 0.1 and reader.reading._strays < STRAYS - 1:
                    seqs.insert(rng.randrange(len(seqs)), rng.randint(1, end))
                if rng.random() < 0.2:
                    late = [(ask, seq) for seq in seqs]
                    continue
                for seq in seqs:
                    reader.reading.receive(ask.number, message(seq), reader.now)
                if rng.random() < 0.8:
                    pending = max(0, has_upto - reader.reading.upto)
                    reader.reading.end(ask.number, reader.now, pending=pending)
            case Wait():
                pass
        taken += [one.seq for one in reader.reading.taken()]
    reader.now += SILENCE_SECONDS
    reader.step()
    taken += [one.seq for one in reader.reading.taken()]
    assert taken == list(range(1, end + 1))
