"""One query of a connection: what all who ask the same share.

It stands between the messages and the live views (live.py): a message changes the rows at once, the
views hear of it once per turn of the event loop.
"""

from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar

from kalam_notify.client.changes import Change, Changes, Delete, Insert, Ready, Reset, Update
from kalam_notify.client.events import Acknowledged, Changed, Event, Loaded, Message, Row
from kalam_notify.client.faults import RowMismatch
from kalam_notify.client.following import Following, Phase
from kalam_notify.client.rows import Rows
from kalam_notify.errors import KalamNotifyError

T = TypeVar("T")


class Status(StrEnum):
    """How a live view stands; equal to the text, `view.status == "live"`. The last two are final.

    reconnecting: the rows are those of before the connection was lost.
    """

    LOADING = "loading"
    LIVE = "live"
    RECONNECTING = "reconnecting"
    ERROR = "error"
    CLOSED = "closed"


class Handle(Protocol):
    """Whoever shows a query, and wants to hear that something may have changed."""

    def hear(self) -> None: ...


class Owner(Protocol):
    """What a query tells its connection."""

    def ended(self, query: "Query[Any]") -> None: ...

    def noticed(self, query: "Query[Any]") -> None: ...


class Query(Generic[T]):
    """The rows of one query, and where it stands. `read` makes of a row what readers get."""

    def __init__(self, owner: Owner, following: Following, read: Callable[[Row], T]) -> None:
        self.id = following.id
        self.following = following
        self.rows: Rows[T] = Rows()
        self.changes: set[Changes[T]] = set()
        self.handles: set[Handle] = set()
        self.columns: tuple[str, ...] = ()
        self.primary_key: tuple[str, ...] = ()
        self.notices: tuple[str, ...] = ()
        self.fault: KalamNotifyError | None = None
        self._owner = owner
        self._read = read
        self._is_closed = False
        self._has_begun = False
        self._was_ready = False

    @property
    def status(self) -> Status:
        if self.fault is not None:
            return Status.ERROR
        if self._is_closed:
            return Status.CLOSED
        if self.following.phase is Phase.FOLLOWING:
            return Status.LIVE if self.rows.is_ready else Status.LOADING
        return Status.RECONNECTING if self._was_ready else Status.LOADING

    # -- what the client wants --

    def offer(self, message: Message, size: int) -> dict[str, Any] | None:
        """Take in a message; returns what to answer. Raises RowMismatch."""
        event, answer = self.following.receive(message)
        if event is not None:
            self._apply(event)
            self._hear()
        return answer

    def pause(self) -> None:
        """The connection is lost."""
        self.following.pause()
        self._hear()

    def fail(self, fault: KalamNotifyError) -> None:
        if self.fault is None and not self._is_closed:
            self.fault = fault
            self._end()

    def finish(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._end()

    # -- what the views want --

    def recount(self) -> Iterator[Change[T]]:
        """All that has been told so far, for one who comes late."""
        if not self._has_begun:
            return
        yield Reset()
        for row in self.rows.held():
            yield Insert(row)
        if self.rows.is_ready:
            yield Ready()

    # -- within --

    def _hear(self) -> None:
        for handle in list(self.handles):
            handle.hear()

    def _end(self) -> None:
        self._owner.ended(self)
        for changes in list(self.changes):
            changes.end(self.fault)
        self._hear()

    def _apply(self, event: Event) -> None:
        match event:
            case Acknowledged():
                self._begin(event)
            case Loaded():
                for row in event.rows:
                    self._insert(row, None)
                if event.ready:
                    self._ready()
            case Changed(kind="delete"):
                self._delete(event)
            case Changed(kind="insert"):
                for row in event.rows:
                    self._insert(row, event.transition)
            case Changed():
                self._update(event)

    def _begin(self, event: Acknowledged) -> None:
        self._has_begun = True
        schema = event.message.get("schema") or ()
        self.columns = tuple(str(column["name"]) for column in schema)
        notices = tuple(map(str, event.message.get("notices") or ()))
        if notices != self.notices:
            self.notices = notices
            self._owner.noticed(self)
        self.primary_key = event.primary_key
        self.rows.begin(replaces=event.replaces, key=event.primary_key)
        if event.replaces:
            self._tell(Reset())
        if event.complete:
            self._ready()

    def _ready(self) -> None:
        self.rows.ready()
        self._was_ready = True
        self._tell(Ready())

    def _insert(self, wire: Row, transition: str | None) -> None:
        row = self._read(wire)
        self._tell(Insert(row, "enter" if transition == "enter" else None))
        self.rows.put(wire, row)

    def _update(self, event: Changed) -> None:
        for place, wire in enumerate(event.rows):
            row = self._read(wire)
            self._tell(Update(row, self._old(wire, event.old_values[place : place + 1])))
            self.rows.put(wire, row)

    def _old(self, wire: Row, old_rows: Sequence[Row]) -> T | None:
        """The row that is held, else what the server says of it, where that is a whole one."""
        held = self.rows.find(wire)
        if held is not None or not old_rows:
            return held
        try:
            return self._read(old_rows[0])
        except RowMismatch:
            return None

    def _delete(self, event: Changed) -> None:
        for wire in event.old_values:
            row = self.rows.find(wire)
            gone = self._read(wire) if row is None else row
            self._tell(Delete(gone, "leave" if event.transition == "leave" else None))
            self.rows.drop(wire)

    def _tell(self, change: Change[T]) -> None:
        for changes in self.changes:
            changes.push(change, self.rows.size)
