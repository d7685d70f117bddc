"""One subscription of one connection, and its place on the log.

A subscription is a cursor on the log. Its states (docs/architecture.md draws them):

    LOADING      pages of a snapshot are still to be sent
    CATCHING_UP  fed from the log after `cursor`, as its socket takes it
    LIVE         at the head: the fan-out offers it every change, nobody keeps a cursor for it
    CLOSED       unsubscribed, replaced, refused or disconnected; nothing more is delivered

Invariant: a handle is in its plan's `live` list exactly while it is LIVE.
Invariant: it leaves LIVE for CATCHING_UP only when the fan-out visits it, with its cursor at the
    end of the batch before; it enters LIVE only with its cursor at the fan-out's position, in the
    same turn of the event loop. So nothing falls between, and nothing comes twice.
"""

from collections.abc import Hashable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from kalam_notify.model import LiveQueryId
from kalam_notify.protocol.close import Close
from kalam_notify.protocol.heads import change_head
from kalam_notify.protocol.options import Options

if TYPE_CHECKING:
    from kalam_notify.subscriptions.plans import Plan


NO_FD = -1
"""Where a descriptor stands otherwise: nothing may be written directly."""


class SubscriptionState(Enum):
    LOADING = "loading"
    CATCHING_UP = "catching_up"
    LIVE = "live"
    CLOSED = "closed"


class Event(Enum):
    LOADED = "loaded"  # the last page was sent, or there was none to send
    LEVEL = "level"  # the cursor has reached the fan-out's position
    OVERFULL = "overfull"  # the send buffer did not take a change
    ENDED = "ended"  # unsubscribed, replaced, refused or disconnected


_S, _E = SubscriptionState, Event
TRANSITIONS: dict[SubscriptionState, dict[Event, SubscriptionState]] = {
    _S.LOADING: {_E.LOADED: _S.CATCHING_UP, _E.ENDED: _S.CLOSED},
    _S.CATCHING_UP: {_E.LEVEL: _S.LIVE, _E.ENDED: _S.CLOSED},
    _S.LIVE: {_E.OVERFULL: _S.CATCHING_UP, _E.ENDED: _S.CLOSED},
    _S.CLOSED: {_E.ENDED: _S.CLOSED},
}


class Sink(Protocol):
    """Where a subscription's bytes go: a connection's bounded send buffer."""

    # Whether the connection has negotiated compression.
    deflates: bool
    # The connection's subscriptions by the client's own ids.
    subscriptions: "dict[str, SubscriptionHandle]"

    @property
    def direct_fd(self) -> int:
        """The descriptor that whole frames may be written to without asking, or NO_FD.

        NO_FD while bytes are held or wait for the socket, under TLS, and when all is over. Live
        lists keep copies of it.
        """

    def complete(self, frames: bytes, sent: int) -> None:
        """Take what a direct write did not: all but the first `sent` bytes; -1: it is broken."""

    def offer(self, frames: bytes) -> bool:
        """Take whole frames without waiting; False: the buffer is full, nothing was taken.

        After False, the sink calls back once it has drained.
        """

    def hold(self, frames: bytes) -> bool:
        """Like `offer`, but written only at `flush`, together with what else was held."""

    def flush(self) -> None:
        """Write what was held, in one system call where the socket takes it."""

    def take_held(self) -> tuple[int, bytes]:
        """What was held, for the caller to write to this descriptor at once, and `complete`.

        (NO_FD, b"") where there is nothing, or where it went another way.
        """

    def send(self, payload: bytes) -> None:
        """Send one message whatever the buffer holds: answers to what the client itself asked."""

    def send_frames(self, frames: bytes) -> None:
        """Like `send`, for what is framed already."""

    @property
    def has_room(self) -> bool:
        """Whether nothing waits for the socket; while something does, a drain will follow."""

    def end(self, close: Close) -> None:
        """Close the connection."""


class Undertaking(Protocol):
    """What catch-up does for subscriptions, as each of them sees it."""

    def leave(self, handle: "SubscriptionHandle") -> None:
        """The handle has ended: nothing is done for it any more."""


def payer_of(live_query_id: LiveQueryId) -> Hashable:
    """Who answers for what a subscription costs: its user, or a connection without one."""
    return live_query_id.user_id or live_query_id.connection_id


class Snapshot:
    """How far a LOADING subscription has come with its pages."""

    __slots__ = ("after", "as_of", "batch_num", "timer")

    def __init__(self, as_of: int | None, after: int) -> None:
        # The position that every page tells the rows of; None: the first page fixes it.
        self.as_of = as_of
        # The `_seq` of the last row sent (or the position before the first one).
        self.after = after
        self.batch_num = 0
        # Sends the next page when the client does not ask for it in time.
        self.timer: Any = None


class SubscriptionHandle:
    """A subscription; made by ConnectionsManager.subscribe only."""

    __slots__ = (
        "asked",
        "cursor",
        "has_sibling",
        "head",
        "live_query_id",
        "notices",
        "options",
        "params",
        "plan",
        "sink",
        "slot",
        "snapshot",
        "sql",
        "state",
        "undertaking",
    )

    def __init__(
        self,
        live_query_id: LiveQueryId,
        sink: Sink,
        plan: "Plan",
        sql: str,
        options: Options | None,
        params: Sequence[Any] = (),
    ) -> None:
        self.live_query_id = live_query_id
        self.sink = sink
        self.plan = plan
        # What was asked, to be bound anew when the identity or the table changes.
        self.sql = sql
        self.params = params
        # What its acknowledgement says to whoever wrote the query.
        self.notices: Sequence[str] = ()
        # How it was asked to begin; None: live changes only.
        self.options = options
        self.state = SubscriptionState.LOADING
        # The position up to which everything was handed over; kept while not LIVE.
        self.cursor = 0
        # The start of each of its change messages.
        self.head = change_head(live_query_id.subscription_id, sink.deflates)
        # Its index in plan.live, -1 while not LIVE.
        self.slot = -1
        # Whether its connection has another subscription that the same changes may concern: what
        # both are told of a change is then written at once.
        self.has_sibling = False
        self.snapshot: Snapshot | None = None
        # How many first pages the feeder had begun to read when it came: a later one suits it.
        self.asked = 0
        # What is being done for it; None while it is live, or waits for its socket or its client.
        self.undertaking: Undertaking | None = None

    @property
    def id(self) -> str:
        """The client's own name for it."""
        return self.live_query_id.subscription_id

    @property
    def position(self) -> int | None:
        """Up to where everything was handed over; None while LIVE, or before the first page."""
        if self.state is SubscriptionState.CATCHING_UP:
            return self.cursor
        return None if self.snapshot is None else self.snapshot.as_of

    @property
    def payer(self) -> Hashable:
        """Who answers for what it costs."""
        return payer_of(self.live_query_id)

    def direct_fd_moved(self) -> None:
        """The sink's descriptor is another one now."""
        if self.slot >= 0:
            self.plan.fds[self.slot] = self.sink.direct_fd

    @property
    def is_closed(self) -> bool:
        return self.state is SubscriptionState.CLOSED

    def loaded(self, cursor: int) -> None:
        """The rows have been sent as of `cursor`: from here on the log tells the rest."""
        self._move(Event.LOADED)
        self.snapshot = None
        self.cursor = cursor

    def level(self) -> None:
        """The cursor stands at the fan-out's position: join the live ones."""
        self._move(Event.LEVEL)
        self.plan.join(self)

    def overfull(self, cursor: int) -> None:
        """The send buffer is full; everything up to `cursor` was handed over."""
        self._move(Event.OVERFULL)
        self.plan.leave(self)
        self.cursor = cursor

    def ended(self) -> None:
        """Nothing more is delivered. Safe to call again."""
        if self.state is SubscriptionState.LIVE:
            self.plan.leave(self)
        if self.snapshot is not None and self.snapshot.timer is not None:
            self.snapshot.timer.cancel()
        self.snapshot = None
        self._move(Event.ENDED)
        if self.undertaking is not None:
            self.undertaking.leave(self)
            self.undertaking = None

    def _move(self, event: Event) -> None:
        self.state = TRANSITIONS[self.state][event]
