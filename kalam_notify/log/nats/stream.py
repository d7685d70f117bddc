"""What the servers say of a stream and of its messages, in values of our own. No I/O.

A message can be read in two ways, that differ in everything but what they say: STREAM.MSG.GET
answers JSON, with headers and data in base 64; a direct get answers the message itself, with
headers of the server's beside those of whoever published it. Both come to the same StreamMessage.

The shapes are those of https://docs.nats.io/reference/reference-protocols/nats_api_reference and of
ADR-31 (https://github.com/nats-io/nats-architecture-and-design).
"""

import base64
from calendar import timegm
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from kalam_notify.log.nats.faults import NoAnswer, NoStream, Refused, WrongLast, WrongStream

SECOND = 1_000_000_000
"""The API tells durations in nanoseconds."""

DUPLICATE_SECONDS = 120.0

SEQUENCE = "Nats-Sequence"
TIME_STAMP = "Nats-Time-Stamp"
STATUS = "Status"
"""The key that a status line (`NATS/1.0 204 EOB`) is found under."""

# What a server adds to a message that is got directly, or that is republished.
_ADDED = (
    "Nats-Stream",
    "Nats-Subject",
    SEQUENCE,
    TIME_STAMP,
    "Nats-Num-Pending",
    "Nats-Last-Sequence",
    "Nats-UpTo-Sequence",
)

_NO_MESSAGE = 10037
_NO_STREAM = 10059
NAME_IN_USE = 10058
# In a cluster the second comes without the sequence.
_WRONG_LAST = (10071, 10164)
_UNAVAILABLE = 503


class StreamMessage(NamedTuple):
    """A message of the stream. `at` is when it was stored, in Unix milliseconds.

    `headers` are those it was published with; None where it has none.
    """

    seq: int
    at: int
    headers: Mapping[str, str] | None
    data: bytes


class PubAck(NamedTuple):
    """A message is stored, as `seq`; `duplicate`: it was already, and has not been again."""

    seq: int
    duplicate: bool


class StreamInfo(NamedTuple):
    """A stream as its leader tells it. `created` is the server's text: equal means the same."""

    created: str
    first_seq: int
    last_seq: int
    messages: int
    bytes: int
    config: Mapping[str, Any]
    leader: str | None


def millis(time_stamp: str) -> int:
    """Unix milliseconds of an RFC 3339 time of the servers, the rest cut off.

    They write up to nine digits of a second, and leave zeros at the end away.
    """
    whole, _, fraction = time_stamp.removesuffix("Z").partition(".")
    return _seconds(whole) * 1000 + int(fraction[:3].ljust(3, "0"))


@lru_cache(maxsize=4)
def _seconds(text: str) -> int:
    day, _, clock = text.partition("T")
    year, month, date = map(int, day.split("-"))
    hour, minute, second = map(int, clock.split(":"))
    return timegm((year, month, date, hour, minute, second))


def direct_message(headers: dict[str, str], data: bytes) -> StreamMessage:
    """A message that a direct get gave; takes the server's headers out of `headers`."""
    seq, at = int(headers[SEQUENCE]), millis(headers[TIME_STAMP])
    for name in _ADDED:
        headers.pop(name, None)
    return StreamMessage(seq, at, headers or None, data)


def stored_message(answer: Mapping[str, Any]) -> StreamMessage:
    """A message that STREAM.MSG.GET gave."""
    found = answer["message"]
    raw = base64.b64decode(found.get("hdrs") or b"")
    data = base64.b64decode(found.get("data") or b"")
    return StreamMessage(found["seq"], millis(found["time"]), headers_of(raw), data)


def headers_of(raw: bytes) -> dict[str, str] | None:
    """Headers in a message's own form; a status line is put under `STATUS`."""
    first, *lines = raw.decode("utf-8", "replace").split("\r\n")
    headers: dict[str, str] = {}
    if status := first[9:12]:  # behind NATS/1.0
        headers[STATUS] = status
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers[name] = value.strip()
    return headers or None


def stream_info(answer: Mapping[str, Any]) -> StreamInfo:
    """What STREAM.INFO or STREAM.CREATE answered; raises NoAnswer where there is no leader."""
    cluster = answer.get("cluster")
    leader = cluster.get("leader") if cluster else None
    if cluster and not leader:
        raise NoAnswer("the stream has no leader at the moment")
    state = answer["state"]
    return StreamInfo(
        answer["created"],
        state["first_seq"],
        state["last_seq"],
        state["messages"],
        state["bytes"],
        answer["config"],
        leader,
    )


def raise_error(answer: Mapping[str, Any], name: str) -> None:
    """Nothing where the answer is none of an error."""
    error = answer.get("error")
    if error is None:
        return
    code, description = error.get("err_code", 0), error.get("description", "an error")
    if code == _NO_STREAM:
        raise NoStream(name)
    if code in _WRONG_LAST:
        last = description.rpartition(":")[2].strip()
        raise WrongLast(int(last) if last.isdigit() else None)
    if error.get("code") == _UNAVAILABLE:
        raise NoAnswer(f"{description} (NATS error {code})")
    raise Refused(code, description)


def is_no_message(answer: Mapping[str, Any]) -> bool:
    """Whether STREAM.MSG.GET has answered that there is no such message."""
    error = answer.get("error")
    return error is not None and error.get("err_code") == _NO_MESSAGE


def wanted_config(name: str, replicas: int, max_age: float | None) -> dict[str, Any]:
    """A stream that can hold a log. `max_age` is in seconds; None: messages stay for ever."""
    age = round((max_age or 0) * SECOND)
    window = round(DUPLICATE_SECONDS * SECOND)
    return {
        "name": name,
        "subjects": [f"{name}.log"],
        "storage": "file",
        "retention": "limits",
        "discard": "old",
        "num_replicas": replicas,
        "max_age": age,
        # The servers allow no window that is longer than messages stay.
        "duplicate_window": min(window, age) if age else window,
        "allow_direct": True,
        "republish": {"src": f"{name}.>", "dest": f"BELL.{name}.>"},
        "deny_delete": True,
        "deny_purge": True,
    }


# What no log can do without, beside what it is made with: nothing is changed, or taken out, or left
# unacknowledged. Absent means the same as the value here.
_NEVER: dict[str, Any] = {
    "no_ack": False,
    "sealed": False,
    "allow_rollup_hdrs": False,
    "allow_msg_ttl": False,
    "mirror": None,
    "sources": None,
    "subject_transform": None,
}


def check_config(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise WrongStream unless a stream like `found` serves who wants one like `wanted`.

    Replicas are the operator's choice, and so is keeping messages for longer.
    """
    name = wanted["name"]
    for field, value in (*wanted.items(), *_NEVER.items()):
        has = found.get(field)
        shown: tuple[Any, Any] = has, value
        match field:
            case "name" | "num_replicas":
                continue
            case "max_age":
                is_well = not has or (value and has >= value)
                shown = _age(has), f"{_age(value)} or more"
            case "duplicate_window":
                is_well = (has or 0) >= value
                shown = _age(has), f"{_age(value)} or more"
            case "republish":
                has = {key: (has or {}).get(key) for key in value}
                is_well, shown = has == value, (has, value)
            case _:
                is_well = has == value or not (has or value)
        if not is_well:
            raise WrongStream(name, field, *shown)


def _age(nanoseconds: int | None) -> str:
    return f"{nanoseconds / SECOND:g}s" if nanoseconds else "unlimited"
