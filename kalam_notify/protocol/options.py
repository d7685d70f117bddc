"""The `options` of a subscribe: numbers and words, told from everything that is not one."""

from typing import Any, Literal

import msgspec

from kalam_notify.errors import SubscriptionRefused

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
