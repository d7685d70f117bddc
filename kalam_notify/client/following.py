"""One subscription as its client knows it, without the socket.

`request` makes the subscribe message for where it stands now: from the start, or from its cursor.
What the server cannot go on with it begins anew, and says so (`resumed: false`): that is asked for
by `on_gap`, unless the options say otherwise. A subscription to live changes alone has no options
to say it in; it is refused with RESUME_EXPIRED, and asked for once more from the start.

Between that request and its acknowledgement everything else that arrives under its id belongs to
the subscription it replaces, and is dropped; the cursor will bring it again.

The position in an acknowledgement counts only where no page follows it. The acknowledgement of a
snapshot already names the last seq of its first page; a client that took it for seen and then
lost the connection would never get that page.
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Final, NamedTuple

from kalam_notify.client.cursor import Cursor, seq_of
from kalam_notify.client.events import Acknowledged, Changed, Event, Loaded, Message, Row

ON_GAP: Final = "snapshot"


class Phase(Enum):
    """Between a request and its end."""

    IDLE = "no request is on its way"
    REQUESTED = "a request was sent, its acknowledgement has not come"
    FOLLOWING = "acknowledged: what arrives is ours"


class Reaction(NamedTuple):
    """What a message means to the reader, and what to answer to the server."""

    event: Event | None = None
    answer: dict[str, Any] | None = None


class Following:
    """The state of one subscription across connections.

    `params` are the values of `$1`, `$2`, ... in `sql`. `options` are those of the protocol (None:
    live changes only); `from` among them is where the cursor begins.
    """

    def __init__(
        self,
        id: str,
        sql: str,
        options: Mapping[str, Any] | None = None,
        params: Sequence[Any] = (),
    ) -> None:
        self.id = id
        self.sql = sql
        self.params = list(params)
        self.phase = Phase.IDLE
        self._options = None if options is None else {"on_gap": ON_GAP, **options}
        self._is_live_only = options is None
        given = (options or {}).get("from", (options or {}).get("from_seq_id"))
        self.cursor = Cursor(None if given is None else int(given))

    def request(self) -> dict[str, Any]:
        """The subscribe message that starts, or goes on with, this subscription."""
        self.phase = Phase.REQUESTED
        options = self._options
        if self.cursor.position is not None:
            kept = ("batch_size", "on_gap")
            options = {name: value for name, value in (options or {}).items() if name in kept}
            options = {"on_gap": ON_GAP, **options, "from": self.cursor.position}
        subscription: dict[str, Any] = {"id": self.id, "sql": self.sql, "options": options}
        if self.params:
            subscription["params"] = self.params
        return {"type": "subscribe", "subscription": subscription}

    def pause(self) -> None:
        """Take nothing more until the next request: the connection is lost, or its reader slow."""
        self.phase = Phase.IDLE

    def expired(self) -> bool:
        """The server cannot go on from where this stands; whether to ask anew, from the start."""
        if self._options is not None and self._options["on_gap"] == "error":
            return False
        self.cursor.restart()
        self.phase = Phase.IDLE
        return True

    def receive(self, message: Message) -> Reaction:
        """Take in a server message under this subscription's id."""
        kind = message.get("type")
        if kind == "subscription_ack" and self.phase is Phase.REQUESTED:
            return self._acknowledged(message)
        if self.phase is not Phase.FOLLOWING:
            return Reaction()
        if kind == "subscription_ack":
            return self._acknowledged_twice(message)
        if kind == "initial_data_batch":
            return self._loaded(message)
        if kind == "change":
            return self._changed(message)
        return Reaction()

    def _acknowledged(self, message: Message) -> Reaction:
        self.phase = Phase.FOLLOWING
        resumed = message.get("resumed")
        complete = self._is_live_only and resumed is None
        if resumed is not True:
            self.cursor.restart()
        if complete:
            self.cursor.advance(_last_seq(message))
        key = tuple(
            column["name"]
            for column in message.get("schema") or ()
            if "pk" in (column.get("flags") or ())
        )
        return Reaction(Acknowledged(resumed is not True, complete, key, message))

    def _acknowledged_twice(self, message: Message) -> Reaction:
        """A request that was thought lost was answered after all: the server has begun again."""
        resumed = message.get("resumed")
        if resumed is True:
            return Reaction()  # from where we were or before; the cursor drops what is not new
        if self._is_live_only and resumed is None:
            return Reaction(answer=self.request())  # from now, which may lie ahead of the cursor
        return self._acknowledged(message)

    def _loaded(self, message: Message) -> Reaction:
        rows = [row for row in message.get("rows") or () if self.cursor.advance(seq_of(row))]
        self.cursor.advance(_last_seq(message))
        has_more = bool((message.get("batch_control") or {}).get("has_more"))
        answer = None
        if has_more:
            answer = {
                "type": "next_batch",
                "subscription_id": self.id,
                "last_seq_id": self.cursor.position,
            }
        return Reaction(Loaded(rows, not has_more, message), answer)

    def _changed(self, message: Message) -> Reaction:
        rows: Sequence[Row] = message.get("rows") or ()
        old: Sequence[Row] = message.get("old_values") or ()
        kind = message["change_type"]
        # Of an update the old image comes with the old seq, so the new one tells the position.
        images = old if kind == "delete" else rows
        news = [place for place, row in enumerate(images) if self.cursor.advance(seq_of(row))]
        if not news:
            return Reaction()
        return Reaction(
            Changed(
                kind,
                [rows[place] for place in news if place < len(rows)],
                [old[place] for place in news if place < len(old)],
                message.get("transition"),
                message,
            )
        )


def _last_seq(message: Message) -> int | None:
    seq = (message.get("batch_control") or {}).get("last_seq_id")
    return int(seq) if isinstance(seq, int | str) else None
