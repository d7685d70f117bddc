"""What the servers say, in values of our own."""

import base64
from datetime import datetime
from typing import Any

import pytest

from kalam_notify.log.nats.faults import NoAnswer, NoStream, Refused, WrongLast, WrongStream
from kalam_notify.log.nats.stream import (
    check_config,
    direct_message,
    headers_of,
    millis,
    raise_error,
    stored_message,
    stream_info,
    wanted_config,
)


@pytest.mark.parametrize(
    ("text", "fraction"),
    [
        ("2026-02-28T23:59:59Z", 0),
        ("2026-02-28T23:59:59.9Z", 900),
        ("2026-02-28T23:59:59.0009999Z", 0),
        ("2026-02-28T23:59:59.001Z", 1),
        ("2026-02-28T23:59:59.123999999Z", 123),
    ],
)
def test_a_time_is_cut_to_milliseconds(text: str, fraction: int) -> None:
    whole = datetime.fromisoformat("2026-02-28T23:59:59+00:00").timestamp()
    assert millis(text) == int(whole) * 1000 + fraction


def test_both_ways_of_reading_a_message_come_to_the_same() -> None:
    own = {"Kalam-Mid": "x: 1", "Empty": ""}
    time = "2026-02-28T23:59:59.1239Z"
    added = {"Nats-Stream": "S", "Nats-Subject": "S.log", "Nats-Num-Pending": "3"}
    direct = direct_message({**own, **added, "Nats-Sequence": "7", "Nats-Time-Stamp": time}, b"d")
    raw = b"NATS/1.0\r\nKalam-Mid: x: 1\r\nEmpty: \r\n\r\n"
    stored = {
        "seq": 7,
        "time": time,
        "hdrs": base64.b64encode(raw).decode(),
        "data": base64.b64encode(b"d").decode(),
    }
    assert stored_message({"message": stored}) == direct
    assert direct.headers == own


def test_a_message_without_headers_has_none() -> None:
    bare = direct_message({"Nats-Sequence": "1", "Nats-Time-Stamp": "1970-01-01T00:00:01Z"}, b"")
    assert bare == (1, 1000, None, b"")
    assert stored_message({"message": {"seq": 1, "time": "1970-01-01T00:00:01Z"}}) == bare


def test_a_status_stands_among_the_headers() -> None:
    assert headers_of(b"NATS/1.0 204 EOB\r\nNats-Num-Pending: 0\r\n\r\n") == {
        "Status": "204",
        "Nats-Num-Pending": "0",
    }
    assert headers_of(b"NATS/1.0 404 Message Not Found\r\n\r\n") == {"Status": "404"}


@pytest.mark.parametrize(
    ("code", "err_code", "description", "fault"),
    [
        (400, 10071, "wrong last sequence: 12", WrongLast),
        (400, 10164, "wrong last sequence", WrongLast),
        (404, 10059, "stream not found", NoStream),
        (503, 10008, "JetStream system temporarily unavailable", NoAnswer),
        (400, 10052, "invalid", Refused),
    ],
)
def test_errors_are_told_apart(
    code: int, err_code: int, description: str, fault: type[Exception]
) -> None:
    error = {"code": code, "err_code": err_code, "description": description}
    with pytest.raises(fault) as told:
        raise_error({"error": error}, "S")
    if isinstance(told.value, WrongLast):
        assert told.value.last_seq == (12 if err_code == 10071 else None)


def test_an_answer_without_a_leader_is_none() -> None:
    with pytest.raises(NoAnswer, match="leader"):
        stream_info({"cluster": {"name": "kit"}})


def found(**other: Any) -> dict[str, Any]:
    """A stream as a server tells it that was made for a log."""
    return {**wanted_config("S", 1, 3600), "no_ack": False, "sealed": False, **other}


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"num_replicas": 3},
        {"max_age": 0},
        {"max_age": 7200 * 10**9},
        {"duplicate_window": 600 * 10**9},
        {"max_bytes": 10**9},
        {"compression": "s2"},
        {"republish": {"src": "S.>", "dest": "BELL.S.>", "headers_only": True}},
    ],
)
def test_an_operators_choices_are_left_alone(other: dict[str, Any]) -> None:
    check_config(found(**other), wanted_config("S", 1, 3600))


@pytest.mark.parametrize(
    "other",
    [
        {"subjects": ["S.>"]},
        {"storage": "memory"},
        {"retention": "workqueue"},
        {"discard": "new"},
        {"allow_direct": False},
        {"republish": None},
        {"republish": {"src": "S.>", "dest": "OTHER.S.>"}},
        {"deny_delete": False},
        {"deny_purge": False},
        {"max_age": 3599 * 10**9},
        {"duplicate_window": 119 * 10**9},
        {"no_ack": True},
        {"sealed": True},
        {"mirror": {"name": "O"}},
        {"subject_transform": {"src": ">", "dest": "x.>"}},
    ],
)
def test_a_stream_that_cannot_hold_a_log_is_told_by_its_field(other: dict[str, Any]) -> None:
    with pytest.raises(WrongStream) as told:
        check_config(found(**other), wanted_config("S", 1, 3600))
    assert told.value.field in other
    assert next(iter(other)) in str(told.value)


def test_a_stream_that_keeps_all_is_wanted_where_nothing_may_go() -> None:
    with pytest.raises(WrongStream, match="unlimited or more"):
        check_config(found(), wanted_config("S", 1, None))
