"""States are tables: what may follow what, for a subscription and for a connection."""

import pytest
from helpers.sinks import FakeConnection

from kalam_notify.filters import bind
from kalam_notify.model import (
    ANONYMOUS,
    SHARED,
    ConnectionId,
    LiveQueryId,
    TableDef,
    TableId,
    UserId,
)
from kalam_notify.protocol import session
from kalam_notify.protocol.session import MessageRate, Verdict
from kalam_notify.sql import Limits, parse
from kalam_notify.subscriptions import plans as handles
from kalam_notify.subscriptions.plans import (
    Counts,
    SubscriptionHandle,
    SubscriptionState,
    TablePlans,
)

TABLE = TableDef(TableId("app.orders"), "shared", "public", ("id",))


def fresh_handle() -> SubscriptionHandle:
    query = bind(parse("SELECT * FROM app.orders", Limits(100, 10)), TABLE, ANONYMOUS)
    plan = TablePlans(SHARED, Counts()).acquire(query)
    live_query_id = LiveQueryId(UserId(""), ConnectionId(1), "s")
    return SubscriptionHandle(live_query_id, FakeConnection(), plan, "", None)


def test_every_state_of_either_table_can_end_and_says_what_it_takes() -> None:
    for state in SubscriptionState:
        assert handles.TRANSITIONS[state][handles.Event.ENDED] is SubscriptionState.CLOSED
    for connection_state in session.State:
        row = session.TRANSITIONS[connection_state]
        assert row[session.Event.ENDED] is session.State.CLOSED


def test_a_subscription_goes_from_loading_to_live_and_back_when_its_socket_is_full() -> None:
    handle = fresh_handle()
    seen = [handle.state]
    handle.loaded(7)
    seen.append(handle.state)
    handle.level()
    seen.append(handle.state)
    assert handle.plan.live == [handle]
    handle.overfull(9)
    seen.append(handle.state)
    assert handle.plan.live == []
    assert handle.cursor == 9
    assert [state.value for state in seen] == ["loading", "catching_up", "live", "catching_up"]


def test_ending_twice_does_no_harm_and_takes_a_live_one_from_its_plan() -> None:
    handle = fresh_handle()
    handle.loaded(0)
    handle.level()
    handle.ended()
    handle.ended()
    assert handle.is_closed
    assert handle.plan.live == []


@pytest.mark.parametrize(("rate", "burst"), [(50, 200), (1, 5), (1000, 1)])
def test_the_burst_passes_one_more_is_dropped_and_time_forgives(rate: int, burst: int) -> None:
    bucket = MessageRate()
    assert [bucket.judge(0.0, rate, burst) for _ in range(burst)] == [Verdict.PASS] * burst
    assert bucket.judge(0.0, rate, burst) is Verdict.DROP
    assert bucket.judge(1.0 / rate, rate, burst) is Verdict.PASS


def test_ten_times_the_burst_is_abuse() -> None:
    bucket = MessageRate()
    verdicts = [bucket.judge(0.0, 10, 20) for _ in range(201)]
    assert verdicts[:20] == [Verdict.PASS] * 20
    assert verdicts[20:200] == [Verdict.DROP] * 180
    assert verdicts[200] is Verdict.ABUSE
