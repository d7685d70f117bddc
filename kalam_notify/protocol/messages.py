"""The messages of the dialect: read with their options, written, and framed.

What clients say and what they are told: one frozen value per message type.

Client messages are decoded and validated in one step (`decode`); server messages are made as
JSON text by the functions below. Bodies shared by many subscribers are encoded elsewhere
(delivery/payload.py); here are the ones that belong to a single connection.

The `options` of a subscribe: numbers and words, told from everything that is not one.

Server frames as bytes: RFC 6455 section 5.2, unmasked, final, text.

The fan-out makes frames itself, because one frame is made for thousands of sockets; everything
else that a connection says goes through websockets' ServerProtocol.

What a subscriber's messages start with: the only bytes of a delivery that are its own.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from struct import Struct
from typing import Any, Literal

import msgspec
import orjson

from kalam_notify.errors import KalamNotifyError, SubscriptionRefused
from kalam_notify.model import Identity
from kalam_notify.protocol.deflate import deflate_head
from kalam_notify.protocol.events import EventHead, Events, event

PROTOCOL_ERRORS = "protocol"
RATE_ERRORS = "rate_limit"
"""The `subscription_id` of errors that are about no subscription."""


class Unreadable(KalamNotifyError):
    """A text message that is none of the protocol's; the connection cannot go on."""


class MalformedAuthentication(Unreadable):
    """An `authenticate` of the wrong shape: answered with auth_error before the close."""


class Authenticate(msgspec.Struct, frozen=True, tag_field="type", tag="authenticate"):
    """`method` is always jwt; what else `protocol` asks for, json without compression is spoken."""

    method: str
    token: str
    protocol: Any = None


class SubscriptionRequest(msgspec.Struct, frozen=True):
    """What a client wants to see. `options` is checked by protocol/messages.py.

    `params` are the values of `$1`, `$2`, ... in `sql`, checked when they are bound.
    """

    id: str
    sql: str
    options: dict[str, Any] | None = None
    params: Any = None


class Subscribe(msgspec.Struct, frozen=True, tag_field="type", tag="subscribe"):
    """Start (or, with an id in use, replace) a subscription."""

    subscription: SubscriptionRequest


class NextBatch(msgspec.Struct, frozen=True, tag_field="type", tag="next_batch"):
    """Ask for the page after `last_seq_id` (absent: the next one)."""

    subscription_id: str
    last_seq_id: int | str | None = None


class Unsubscribe(msgspec.Struct, frozen=True, tag_field="type", tag="unsubscribe"):
    """End a subscription; not answered."""

    subscription_id: str


class Ping(msgspec.Struct, frozen=True, tag_field="type", tag="ping"):
    """A sign of life; not answered."""


ClientMessage = Authenticate | Subscribe | NextBatch | Unsubscribe | Ping

_decoder = msgspec.json.Decoder(ClientMessage)
_type_decoder = msgspec.json.Decoder(dict[str, Any])


def decode(text: str) -> ClientMessage:
    """The message that `text` is; raises Unreadable, or MalformedAuthentication."""
    try:
        message: ClientMessage = _decoder.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _fault(text, error) from None
    if isinstance(message, Authenticate) and message.method != "jwt":
        raise MalformedAuthentication("authenticate: method must be 'jwt'")
    return message


def _fault(text: str, error: Exception) -> Unreadable:
    try:
        kind = _type_decoder.decode(text).get("type")
    except (msgspec.DecodeError, RecursionError):
        return Unreadable(f"not a JSON object: {error}")
    if kind == "authenticate":
        return MalformedAuthentication(f"authenticate: {error}")
    if isinstance(kind, str) and len(kind) > _LONGEST_KIND:
        return Unreadable("message not understood: type is none that is known")
    return Unreadable(f"message not understood: {error}")


# What is longer is no slip in a type's name, and may be a token in the wrong place.
_LONGEST_KIND = 32

_SUBSCRIPTION_ID = re.compile(r"[^\x00-\x1f\x7f-\x9f]{1,128}")


def is_subscription_id(text: str) -> bool:
    """1-128 code points, not blank, no control characters."""
    return _SUBSCRIPTION_ID.fullmatch(text) is not None and not text.isspace()


def auth_success(identity: Identity) -> bytes:
    return orjson.dumps(
        {
            "type": "auth_success",
            "user": identity.user_id,
            "user_id": identity.user_id,
            "role": identity.role.label,
            "protocol": {"serialization": "json", "compression": "none"},
        }
    )


def auth_error(message: str) -> bytes:
    return orjson.dumps({"type": "auth_error", "message": message})


def error(subscription_id: str, code: str, message: str) -> bytes:
    return orjson.dumps(
        {"type": "error", "subscription_id": subscription_id, "code": code, "message": message}
    )


def subscription_ack(
    subscription_id: str,
    batch_control: Mapping[str, Any],
    schema: Sequence[Mapping[str, Any]],
    resumed: bool | None,
    notices: Sequence[str] = (),
) -> bytes:
    message: dict[str, Any] = {
        "type": "subscription_ack",
        "subscription_id": subscription_id,
        "total_rows": 0,
        "batch_control": batch_control,
        "schema": schema,
    }
    if resumed is not None:
        message["resumed"] = resumed
    if notices:
        message["notices"] = notices
    return orjson.dumps(message)


def batch_control(batch_num: int, has_more: bool, last_seq_id: int) -> dict[str, Any]:
    """Where a page stands in its snapshot; `has_more` false is what makes it `ready`."""
    status = "ready" if not has_more else "loading_batch" if batch_num else "loading"
    return {
        "batch_num": batch_num,
        "has_more": has_more,
        "status": status,
        "last_seq_id": last_seq_id,
    }


def batch_body(rows: Sequence[bytes], control: Mapping[str, Any]) -> bytes:
    """An `initial_data_batch` behind its head; `rows` are JSON objects already encoded."""
    return b'"rows":[%b],"batch_control":%b}' % (b",".join(rows), orjson.dumps(control))


def empty_batch(subscription_id: str, control: Mapping[str, Any]) -> bytes:
    """A whole `initial_data_batch` without rows."""
    return orjson.dumps(
        {
            "type": "initial_data_batch",
            "subscription_id": subscription_id,
            "rows": (),
            "batch_control": control,
        }
    )


MAX_SEQ = 2**53 - 1
"""The largest integer that every JSON reader holds exactly."""


UNREACHABLE = MAX_SEQ
"""A position beyond every log: resuming from it is answered as `on_gap` says."""

OnGap = Literal["snapshot", "error"]
"""What comes where the log does not reach back to `from`: everything anew, or a refusal."""


class Options(msgspec.Struct, frozen=True):
    """How a subscription begins when it is not live only."""

    batch_size: int
    last_rows: int | None = None
    from_seq: int | None = None
    on_gap: OnGap = "error"
    # Whether integers that a double cannot hold exactly are told as text.
    bigints_as_text: bool = False


def parse_options(
    raw: dict[str, Any] | None, *, batch_size: int, max_batch_size: int
) -> Options | None:
    """The options asked for, None for live only; raises SubscriptionRefused (UNSUPPORTED).

    `batch_size` is what stands where the client names none. `from` wins over its alias
    `from_seq_id`, and over `last_rows`. An option of null counts as absent.
    """
    if raw is None:
        return None
    raw = {name: value for name, value in raw.items() if value is not None}
    if "batch_size" in raw:
        batch_size = max(_integer("batch_size", raw["batch_size"]), 1)
    batch_size = min(batch_size, max_batch_size)
    last_rows = None
    if "last_rows" in raw:
        last_rows = _bounded("last_rows", _integer("last_rows", raw["last_rows"]))
    from_seq = None
    for name in ("from_seq_id", "from"):
        if name in raw:
            from_seq = parse_seq(name, raw[name])
    on_gap = _on_gap(raw.get("on_gap", "error"))
    return Options(batch_size, last_rows, from_seq, on_gap, _bigints_as_text(raw.get("bigints")))


def _bigints_as_text(value: object) -> bool:
    if value is None or value == "string":
        return value is not None
    raise SubscriptionRefused("UNSUPPORTED", 'option bigints must be "string"')


def _on_gap(value: object) -> OnGap:
    if value == "snapshot":
        return "snapshot"
    if value == "error":
        return "error"
    raise SubscriptionRefused("UNSUPPORTED", 'option on_gap must be "snapshot" or "error"')


def parse_seq(name: str, value: object) -> int:
    """A position: a non-negative integer below 2**53, or its decimal string."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 16:
        value = int(value)
    return _bounded(name, _integer(name, value))


def _integer(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise SubscriptionRefused("UNSUPPORTED", f"option {name} must be an integer")
    return value


def _bounded(name: str, value: int) -> int:
    if not 0 <= value <= MAX_SEQ:
        raise SubscriptionRefused("UNSUPPORTED", f"option {name} must be from 0 to 2^53 - 1")
    return value


_FIN_TEXT = 0x81
_FIN_TEXT_COMPRESSED = 0xC1  # RSV1 marks a permessage-deflate message, RFC 7692 section 6
_MEDIUM = Struct("!BBH").pack
_LONG = Struct("!BBQ").pack


def frame_header(length: int, *, compressed: bool = False) -> bytes:
    """The 2, 4 or 10 bytes in front of a text message of `length` payload bytes."""
    first = _FIN_TEXT_COMPRESSED if compressed else _FIN_TEXT
    if length < 126:
        return bytes((first, length))
    if length < 65536:
        return _MEDIUM(first, 126, length)
    return _LONG(first, 127, length)


def text_frame(payload: bytes) -> bytes:
    """One whole text message as one frame."""
    return frame_header(len(payload)) + payload


class DeflatedHead:
    """A head for a connection that negotiated compression: as it is, and as DEFLATE blocks."""

    __slots__ = ("deflated", "plain")

    def __init__(self, plain: bytes) -> None:
        self.plain = plain
        self.deflated = deflate_head(plain)


Head = bytes | DeflatedHead | EventHead
"""The start of one kind of message of one subscription.

Heads are compared by identity: subscriptions with the same id hold the same object, and the
fan-out makes one run of frames for all of them.
"""


Framing = bool | Events
"""How a connection's messages are framed: WebSocket frames, compressed or not, or events."""


@lru_cache(maxsize=4096)
def change_head(subscription_id: str, deflates: Framing) -> Head:
    """What a `change` starts with, up to and including the comma after its id."""
    return _head(b"change", subscription_id, deflates)


@lru_cache(maxsize=256)
def batch_head(subscription_id: str, deflates: Framing) -> Head:
    """The same for an `initial_data_batch`."""
    return _head(b"initial_data_batch", subscription_id, deflates)


def _head(kind: bytes, subscription_id: str, deflates: Framing) -> Head:
    name = orjson.dumps(subscription_id)
    plain = b'{"type":"%b","subscription_id":%b,' % (kind, name)
    if isinstance(deflates, Events):
        return EventHead(plain, deflates)
    return DeflatedHead(plain) if deflates else plain


def framed(payload: bytes, framing: Framing, seq: int | None = None) -> bytes:
    """A whole message of one connection's own, such as an acknowledgement.

    `seq`: the position that it brings its reader to, if it tells one.
    """
    if isinstance(framing, Events):
        return event(payload, framing, seq=seq)
    return text_frame(payload)
