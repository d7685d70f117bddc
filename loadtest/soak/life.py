"""What one subscription was told, from its ack to its end, over all connections that resumed it."""

from dataclasses import dataclass, field
from typing import Any

from loadtest.soak.history import Event, History, Query

Message = dict[str, Any]


class Wrong(Exception):
    """A subscription was told what it must not be told, or not told what it must."""


@dataclass
class Life:
    """One subscription. `options` are those of its first subscribe."""

    name: str
    query: Query
    options: Message | None
    start: int | None = None  # the position from which changes are due; None: not ready yet
    position: int = 0  # where a resume starts
    is_live: bool = False  # ready on the connection of now
    ended: bool = False  # nothing more may come
    pages: list[Message] = field(default_factory=list)
    ready_at: int | None = None
    events: list[Event] = field(default_factory=list)
    resuming: bool = False
    acknowledged: bool = False
    # How many changes are due from which start, once the history is settled.
    _due: int = 0
    _due_from: int | None = None

    def resume(self) -> Message | None:
        """The options with which to subscribe on another connection."""
        self.is_live = self.acknowledged = False
        if self.start is None:
            self.pages = []
            return self.options
        self.resuming = True
        return {"from": self.position}

    def take(self, message: Message) -> None:
        """One message of this subscription, in order."""
        if self.ended:
            raise Wrong(f"{self.name} was told after its end: {str(message)[:200]}")
        match message["type"]:
            case "subscription_ack":
                self._acknowledged(message)
            case "initial_data_batch":
                self._page(message)
            case "change":
                self._change(message)
            case _:
                raise Wrong(f"{self.name} {self.query.sql} was told {str(message)[:300]}")

    def _acknowledged(self, ack: Message) -> None:
        if self.acknowledged:
            raise Wrong(f"{self.name} was acknowledged twice")
        self.acknowledged = True
        if self.resuming and ack.get("resumed") is not True:
            raise Wrong(f"{self.name} was not resumed from {self.position}: {ack}")
        if self.options is None and not self.resuming:
            self._stand_at(ack["batch_control"]["last_seq_id"])

    def _page(self, batch: Message) -> None:
        if not self.acknowledged:
            raise Wrong(f"{self.name} got a page before its ack")
        control = batch["batch_control"]
        self.pages += batch["rows"]
        if control["has_more"]:
            return
        if self.is_live and (self.options is not None or batch["rows"]):
            raise Wrong(f"{self.name} was ready twice")
        if self.resuming and control["last_seq_id"] != self.position:
            raise Wrong(f"{self.name} resumed at {control['last_seq_id']}, not {self.position}")
        self._stand_at(control["last_seq_id"])

    def _stand_at(self, seq: int) -> None:
        self.is_live = True
        if self.start is None:
            self.start = self.ready_at = seq
        self.position = max(self.position, seq)

    def _change(self, message: Message) -> None:
        if not self.is_live:
            raise Wrong(f"{self.name} got a change before it was ready")
        rows: list[Message] = message.get("rows") or message["old_values"]
        for row in rows:
            seq = int(row["_seq"])
            if seq <= self.position:
                raise Wrong(f"{self.name} got _seq {seq} after {self.position}")
            self.position = seq
            shown = self.query.shown(row)
            kind, transition = message["change_type"], message.get("transition")
            self.events.append(Event(seq, kind, transition, shown))

    def check(self, history: History, *, is_whole: bool) -> None:
        """Against the settled history. `is_whole`: it must have been told everything by now."""
        if self.start is None:
            return
        if self.ready_at is not None:
            self._check_pages(history, self.ready_at)
        due = list(history.events(self.query, self.start))
        if not is_whole:
            due = due[: len(self.events)]
        if self.events != due:
            raise Wrong(self._difference(due))

    def _check_pages(self, history: History, at: int) -> None:
        told = {int(row["_seq"]): self.query.shown(row) for row in self.pages}
        if len(told) != len(self.pages) or list(told) != sorted(told):
            raise Wrong(f"{self.name}: rows of a snapshot twice or out of order")
        if self.query.table.keyed:
            due = history.snapshot(self.query, at) if self.options is not None else {}
            if told != due:
                raise Wrong(f"{self.name} {self.query.sql} at {at}: {told} is not {due}"[:2000])
        elif list(told) != history.last_rows(self.query, self._last_rows, at):
            raise Wrong(f"{self.name} {self.query.sql} at {at}: other last rows: {list(told)}")

    @property
    def _last_rows(self) -> int:
        return int((self.options or {}).get("last_rows", 0))

    def _difference(self, due: list[Event]) -> str:
        at = next(
            (n for n, (a, b) in enumerate(zip(self.events, due, strict=False)) if a != b),
            min(len(self.events), len(due)),
        )
        return (
            f"{self.name} {self.query.sql} from {self.start}: {len(self.events)} of {len(due)}; "
            f"told {self.events[at : at + 2]} where {due[at : at + 2]} was due"
        )

    def is_level(self, history: History) -> bool:
        """Whether as many changes were told as are due; `check` says whether the right ones."""
        if self.start is None or not self.is_live:
            return False
        if self._due_from != self.start:
            self._due = sum(1 for _ in history.events(self.query, self.start))
            self._due_from = self.start
        return len(self.events) >= self._due

    def checked(self, base: int) -> None:
        """All is right up to `base`: forget it."""
        self.events, self._due_from = [], None
        if self.start is not None:
            self.pages, self.ready_at = [], None
            self.start = max(self.start, base)
