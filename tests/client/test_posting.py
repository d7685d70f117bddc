"""publish() of a connection: what is repeated, under which key, and what is raised."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from scripted import ACCEPTED, Scripted

from kalam_notify.client import (
    AuthenticationFailed,
    ChangeRefused,
    Connection,
    Published,
    Unreachable,
    connect,
)

CHANGE = {"table": "app.orders", "change_type": "insert", "row_data": {"id": 1}}
OK = (200, {}, ACCEPTED)


def connection(scripted: Scripted, **options: Any) -> Connection:
    return connect(scripted.url, **options)


async def test_a_post_is_one_batch_under_a_key_of_its_own(scripted: Scripted) -> None:
    scripted.replies = [OK] * 4
    db = connection(scripted, token="t")
    assert await db.publish(CHANGE) == Published(1, 0, 1, 1)
    await db.publish(CHANGE, {**CHANGE, "id": "evt-1"})
    await db.publish([CHANGE])
    await db.publish((change for change in [CHANGE]), idempotency_key="mine")
    await db.close()
    sent = [json.loads(body) for body in scripted.bodies]
    assert sent == [[CHANGE], [CHANGE, {**CHANGE, "id": "evt-1"}], [CHANGE], [CHANGE]]
    assert scripted.keys[3] == "mine"
    assert len(set(scripted.keys)) == 4
    assert set(scripted.tokens) == {"Bearer t"}


@pytest.mark.parametrize("lost", [None, (503, {"Retry-After": "0"}, b""), (502, {}, b"a proxy")])
async def test_a_post_whose_answer_got_lost_is_repeated_under_its_key(
    scripted: Scripted, lost: Any
) -> None:
    scripted.replies = [lost, lost, OK]
    db = connection(scripted)
    assert (await db.publish(CHANGE)).accepted == 1
    await db.close()
    assert len(scripted.keys) == 3
    assert len(set(scripted.keys)) == 1
    assert scripted.keys[0]


async def test_time_is_up_some_day(scripted: Scripted) -> None:
    db = connection(scripted)
    scripted.replies = [None] * 1000
    with pytest.raises(Unreachable, match=r"no answer within 0.3 s"):
        await db.publish(CHANGE, timeout=0.3)
    scripted.replies = [(503, {"Retry-After": "9"}, b'{"error":{"code":"OVERLOADED"}}')]
    with pytest.raises(ChangeRefused) as raised:
        await db.publish(CHANGE, timeout=0.3)
    assert (raised.value.status, raised.value.code) == (503, "OVERLOADED")
    await db.close()


async def test_a_refusal_is_raised_with_its_place_and_not_repeated(scripted: Scripted) -> None:
    error = {"code": "INVALID_CHANGE", "message": "no", "index": 2, "field": "row_data.id"}
    scripted.replies = [(400, {}, json.dumps({"error": error}).encode())]
    db = connection(scripted)
    with pytest.raises(ChangeRefused, match="no") as raised:
        await db.publish(CHANGE)
    refused = raised.value
    assert (refused.code, refused.index, refused.field) == ("INVALID_CHANGE", 2, "row_data.id")
    await db.close()


@pytest.mark.parametrize("make", [lambda it: it, lambda it: _later(it)])
async def test_a_function_is_asked_for_another_token_once(
    scripted: Scripted, make: Callable[[str], Any]
) -> None:
    tokens = iter("abcdef")
    refused = (401, {}, b'{"error":{"code":"UNAUTHORIZED","message":"expired"}}')
    scripted.replies = [refused, OK, refused, refused]
    db = connection(scripted, token=lambda: make(next(tokens)))
    assert (await db.publish(CHANGE)).accepted == 1
    with pytest.raises(AuthenticationFailed, match="expired"):
        await db.publish(CHANGE)
    assert scripted.tokens == ["Bearer a", "Bearer b", "Bearer c", "Bearer d"]
    await db.close()


async def _later(token: str) -> str:
    return token


async def test_values_of_python_have_their_json(scripted: Scripted) -> None:
    @dataclass
    class Order:
        id: UUID
        at: datetime
        big: int

    order = Order(UUID(int=5), datetime(2026, 1, 2, tzinfo=UTC), 2**64 - 1)
    scripted.replies = [OK]
    db = connection(scripted)
    await db.publish({**CHANGE, "row_data": order})
    assert json.loads(scripted.bodies[0])[0]["row_data"] == {
        "id": "00000000-0000-0000-0000-000000000005",
        "at": "2026-01-02T00:00:00Z",
        "big": 2**64 - 1,
    }
    await db.close()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({**CHANGE, "row_data": {"id": float("nan")}}, ValueError),
        ({**CHANGE, "row_data": {"id": "\ud800"}}, ValueError),
        ({**CHANGE, "row_data": {"id": object()}}, TypeError),
        ("app.orders", TypeError),
        (5, TypeError),
    ],
)
async def test_what_has_no_json_is_refused_and_not_sent(
    scripted: Scripted, change: Any, fault: type[Exception]
) -> None:
    db = connection(scripted)
    with pytest.raises(fault):
        await db.publish(change)
    assert scripted.bodies == []
    await db.close()
