"""A conversation without a socket: what is counted, and what is done about it."""

import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from kalam_notify.model import Identity, Role, UserId
from kalam_notify.protocol import close
from kalam_notify.protocol.messages import NextBatch, SubscriptionRequest
from kalam_notify.protocol.session import MESSAGE_WORK, Action, Reply, Session, Throttle

NOW = 1_000_000.0
LIMITS: Any = SimpleNamespace(messages_per_second=50, message_burst=200)
ALICE = Identity(user_id=UserId("alice"), role=Role.USER, claims={}, expires_at=None)


@pytest.fixture
def session() -> Session:
    session = Session(anonymous_allowed=False)
    session.verified(ALICE)
    return session


def said(
    session: Session, now: float = NOW, awaited: bool = False, **message: Any
) -> Sequence[Action]:
    text = json.dumps(message)
    return session.receive(text, now, LIMITS, size=len(text), awaits=lambda _: awaited)


def subscribe(session: Session, number: int, sql: str) -> Sequence[Action]:
    return said(session, type="subscribe", subscription={"id": f"s{number}", "sql": sql})


@pytest.mark.parametrize("sql_bytes", [200, 2400, 4000])
def test_a_hundred_subscriptions_at_once_are_never_throttled(
    session: Session, sql_bytes: int
) -> None:
    sql = "SELECT * FROM app.orders WHERE note = '".ljust(sql_bytes - 1, "x") + "'"
    for number in range(100):
        (request,) = subscribe(session, number, sql)
        assert isinstance(request, SubscriptionRequest)


def test_long_queries_in_a_row_are_not_heard_until_they_are_paid_off(session: Session) -> None:
    sql = "SELECT * FROM app.orders WHERE note = '".ljust(16_000, "x") + "'"
    heard = [subscribe(session, number, sql) for number in range(40)]
    assert [len(actions) for actions in heard[:25]] == [1] * 25
    request, throttle = heard[-1]
    assert isinstance(request, SubscriptionRequest), "what was heard is served"
    assert isinstance(throttle, Throttle)
    assert 1 < throttle.seconds < 5


def test_one_message_of_the_largest_size_is_no_reason_to_wait(session: Session) -> None:
    assert session.receive('{"type":"ping"}', NOW, LIMITS, size=1 << 20) == ()


def test_a_few_messages_that_inflate_are(session: Session) -> None:
    waits = [session.receive('{"type":"ping"}', NOW, LIMITS, size=1 << 20) for _ in range(4)]
    (throttle,) = waits[-1]
    assert isinstance(throttle, Throttle)
    assert throttle.seconds == pytest.approx(((4 << 20) / MESSAGE_WORK - 200) / 50)


def test_dropped_and_binary_messages_are_work_too(session: Session) -> None:
    for _ in range(200):
        said(session, type="ping")
    dropped = session.receive("{}", NOW, LIMITS, size=4 << 20)
    assert [type(action) for action in dropped] == [Reply, Throttle]
    other = Session(anonymous_allowed=True)
    assert [type(one) for one in other.binary(NOW, LIMITS, size=4 << 20)] == [Reply, Throttle]


def test_pages_that_were_sent_are_asked_for_as_often_as_one_likes(session: Session) -> None:
    for _ in range(1000):
        actions = said(session, awaited=True, type="next_batch", subscription_id="s", last_seq_id=7)
        assert actions == (NextBatch("s", 7),)
    assert said(session, type="ping") == (), "and nothing else was counted meanwhile"


def test_asking_for_pages_that_were_not_sent_counts(session: Session) -> None:
    heard = [said(session, type="next_batch", subscription_id="s") for _ in range(201)]
    assert heard[199] == (NextBatch("s"),)
    (dropped,) = heard[200]
    assert isinstance(dropped, Reply)
    assert b"RATE_LIMIT_EXCEEDED" in dropped.payload


def test_nothing_passes_for_a_next_batch_but_a_next_batch(session: Session) -> None:
    for _ in range(200):
        said(session, type="ping")
    for text in ('{"type":"ping","x":"next_batch"}', '{"type":"next_batch"}', "next_batch"):
        (dropped,) = session.receive(text, NOW, LIMITS, awaits=lambda _: True)
        assert isinstance(dropped, Reply)


def test_ten_times_over_the_rate_closes(session: Session) -> None:
    heard = [said(session, type="ping") for _ in range(2001)]
    assert heard[2000] == (close.ABUSE,)
    assert said(session, type="ping") == ()
