"""What clients say and what they are told: one frozen value per message type.

Client messages are decoded and validated in one step (`decode`); server messages are made as
JSON text by the functions below. Bodies shared by many subscribers are encoded elsewhere
(fanout/payload.py); here are the ones that belong to a single connection.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import orjson

from kalam_notify.errors import KalamNotifyError
from kalam_notify.model import Identity

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
    """What a client wants to see. `options` is checked by protocol/options.py.

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
