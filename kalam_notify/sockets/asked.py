"""What a request over plain HTTP asks for: a subscription, in the words of its address.

sql          the query
params       values for $1, $2, ...: a list as JSON
from         a position to go on from; the header Last-Event-ID comes before it
last_rows, batch_size, on_gap, bigints    as the options of a subscribe
snapshot     false: live changes only, where neither `from` nor `last_rows` is given
"""

import re
from collections.abc import Iterable, Mapping
from urllib.parse import parse_qs

import msgspec

from kalam_notify.errors import SubscriptionRefused
from kalam_notify.protocol.messages import SubscriptionRequest

STREAM_PATH = "/v1/stream"
POLL_PATH = "/v1/poll"
SUBSCRIPTION_ID = "stream"
"""What the subscription is called where nobody names it: there is only one."""

_MAX_FIELDS = 32
_NUMBERS = ("last_rows", "batch_size")
_OPTIONS = ("from", *_NUMBERS, "on_gap", "bigints")

STATUS: Mapping[str, int] = {
    "AUTH_REQUIRED": 401,
    "UNAUTHORIZED": 403,
    "NOT_FOUND": 404,
    "RESUME_EXPIRED": 410,
    "SUBSCRIPTION_LIMIT_EXCEEDED": 429,
    "SUBSCRIPTION_FAILED": 500,
}
"""The HTTP status of a refusal, by its code; 400 for all others."""


def asked(query: str, last_event_id: str | None = None) -> SubscriptionRequest:
    """The subscription that a query string asks for; raises SubscriptionRefused."""
    try:
        fields = parse_qs(query, keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise _refused("there are too many parameters") from None
    given = {name: values[-1] for name, values in fields.items()}
    if not given.get("sql"):
        raise SubscriptionRefused("INVALID_SQL", "sql is missing: say ?sql=SELECT ...")
    if last_event_id:
        given["from"] = last_event_id
    options = {name: _option(name, given[name]) for name in _OPTIONS if name in given}
    begins = "from" in given or "last_rows" in given
    is_live_only = given.get("snapshot", "true").lower() in ("false", "0", "no")
    return SubscriptionRequest(
        id=given.get("id", SUBSCRIPTION_ID),
        sql=given["sql"],
        options=None if is_live_only and not begins else options,
        params=_params(given.get("params")),
    )


def _option(name: str, value: str) -> object:
    return int(value) if name in _NUMBERS and value.isdecimal() and len(value) <= 16 else value


def _params(text: str | None) -> list[object] | None:
    if text is None:
        return None
    try:
        values = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        values = None
    if not isinstance(values, list):
        raise _refused("params is a list as JSON")
    return values


def _refused(why: str) -> SubscriptionRefused:
    return SubscriptionRefused("UNSUPPORTED", why)


def refusal_in(payload: bytes) -> tuple[str, str]:
    """Code and message of an `error` message."""
    error = _error(payload)
    return error["code"], error["message"]


_error = msgspec.json.Decoder(dict[str, str]).decode


def takes_gzip(accepted: Iterable[str]) -> bool:
    """Whether an Accept-Encoding takes gzip."""
    for coding in ",".join(accepted).lower().split(","):
        name, _, rest = coding.partition(";")
        if name.strip() in ("gzip", "x-gzip"):
            return not re.fullmatch(r"q=0(\.0*)?", rest.replace(" ", ""))
    return False


def cors_headers(origin: str | None) -> Mapping[str, str]:
    """What lets a page of this origin, which has been admitted, read an answer."""
    if origin is None or not origin.isprintable():
        return {}
    return {"access-control-allow-origin": origin, "access-control-expose-headers": "etag"}


PREFLIGHT: Mapping[str, str] = {
    "access-control-allow-methods": "GET",
    "access-control-allow-headers": "authorization, last-event-id, if-none-match",
    "access-control-max-age": "600",
}
"""What a browser wants to know before a page of another origin may send a token."""
