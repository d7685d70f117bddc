"""What a subscription tells its reader. `message` is the server's own message, as it came."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

Row = Mapping[str, Any]
Message = Mapping[str, Any]


class Acknowledged(msgspec.Struct, frozen=True):
    """The subscription stands. `replaces`: what was known before is void, a new state follows.

    `complete`: no page of rows follows, as the subscription is to live changes only.
    """

    replaces: bool
    complete: bool
    # Names of the primary key's columns as the server's schema tells them.
    primary_key: tuple[str, ...]
    message: Message


class Loaded(msgspec.Struct, frozen=True):
    """A page of rows; after the one that is `ready` come changes."""

    rows: Sequence[Row]
    ready: bool
    message: Message


class Changed(msgspec.Struct, frozen=True):
    """Changes of one kind, in order. Which of `rows` and `old_values` are there depends on it.

    insert: rows. update: both, `rows[i]` belonging to `old_values[i]`. delete: old_values.
    `transition` tells an insert that came into the filter, or a delete that went out of it, from
    rows that began or ceased to be.
    """

    kind: Literal["insert", "update", "delete"]
    rows: Sequence[Row]
    old_values: Sequence[Row]
    transition: Literal["enter", "leave"] | None
    message: Message


Event = Acknowledged | Loaded | Changed
