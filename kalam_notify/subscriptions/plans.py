"""A subscription, the plan it shares with others, and the live list of a plan.

One subscription of one connection, and its place on the log.

A subscription is a cursor on the log. Its states (docs/architecture.md draws them):

    LOADING      pages of a snapshot are still to be sent
    CATCHING_UP  fed from the log after `cursor`, as its socket takes it
    LIVE         at the head: the fan-out offers it every change, nobody keeps a cursor for it
    CLOSED       unsubscribed, replaced, refused or disconnected; nothing more is delivered

Invariant: a handle is in its plan's `live` list exactly while it is LIVE.
Invariant: it leaves LIVE for CATCHING_UP only when the fan-out visits it, with its cursor at the
    end of the batch before; it enters LIVE only with its cursor at the fan-out's position, in the
    same turn of the event loop. So nothing falls between, and nothing comes twice.

Plans: the work is per distinct query, not per subscriber.

Subscriptions with the same table, owner, filter and projection share one `Plan`. Plans with the
same filter hang on one `FilterNode`, so that the filter is judged once per change; the nodes of a
table (of one owner's part of a USER table) are found through a `FilterIndex`. All of it is
interned: made by the first subscription, dropped with the last.
"""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from enum import Enum
from typing import Any, Protocol

from kalam_notify.filters import Delta, Filter, FilterIndex, Projection, Query, delta
from kalam_notify.model import Change, LiveQueryId, Owner, TableDef
from kalam_notify.protocol.close import Close
from kalam_notify.protocol.messages import Framing, Head, Options, change_head
from kalam_notify.subscriptions.routing import Shares, Weight

NO_FD = -1
"""Where a descriptor stands otherwise: nothing may be written directly."""


class SubscriptionState(Enum):
    __hash__ = object.__hash__  # Enum's own is a call of Python, for each look into a table

    LOADING = "loading"
    CATCHING_UP = "catching_up"
    LIVE = "live"
    CLOSED = "closed"


class Event(Enum):
    __hash__ = object.__hash__

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

    # Whether the connection has negotiated compression; or that it takes its messages as events.
    deflates: Framing
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
        "begun_at",
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
        "start",
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
        begun_at: float = 0.0,
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
        # When it was made, by the manager's clock.
        self.begun_at = begun_at
        # The position from which the log tells it what has changed; None: it is being loaded.
        self.start: int | None = None
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

    @property
    def is_closed(self) -> bool:
        return self.state is SubscriptionState.CLOSED

    def loaded(self, cursor: int) -> None:
        """The rows have been sent as of `cursor`: from here on the log tells the rest."""
        self._move(Event.LOADED)
        self.snapshot = None
        self.cursor = self.start = cursor

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


def set_direct_fd(handles: Iterable[SubscriptionHandle], fd: int) -> None:
    """The descriptor of a connection, of which these are all the subscriptions, is another now."""
    # One loop without a call: a connection may have a hundred, and changes it twice a flush.
    for handle in handles:
        slot = handle.slot
        if slot >= 0:
            handle.plan.fds[slot] = fd


class Counts:
    """Over all plans: live subscriptions, slots of live lists that are holes, plans demoted."""

    __slots__ = ("demoted", "holes", "live")

    def __init__(self) -> None:
        self.live = 0
        self.holes = 0
        self.demoted = 0


class LiveList:
    """The live subscriptions of a plan, laid out for a scan over thousands of them.

    What a delivery costs beside the kernel's send is not instructions but cache misses: after a few
    thousand sends every object has left the cache, and each one touched has to be fetched again. So
    what the fan-out needs of a subscription stands in flat lists, side by side:

        fds    fd, fd, ...           where whole frames may be written without asking, or NO_FD
        heads  head, head, ...       what each one's messages start with
        live   handle, handle, ...   looked at only where there is no fd

    While somebody scans, nobody changes slots: leaving makes a hole, joining goes to the end,
    beyond where the scan stops. The holes are closed when the last scan is over.

    Joining and leaving are O(1). Invariant: `live[handle.slot] is handle`.
    """

    __slots__ = ("_counts", "_holes", "_scans", "fds", "heads", "live")

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self.live: list[SubscriptionHandle | None] = []
        self.fds: list[int] = []
        self.heads: list[Head] = []
        self._holes = 0
        self._scans = 0

    @property
    def live_count(self) -> int:
        return len(self.live) - self._holes

    def join(self, handle: SubscriptionHandle) -> None:
        """Put a handle at the end."""
        self._append(handle)
        self._counts.live += 1

    def _append(self, handle: SubscriptionHandle) -> None:
        handle.slot = len(self.live)
        if not self.live:
            # Made with one, lists have no spare slots; most plans have one subscription.
            self.live, self.fds, self.heads = [handle], [handle.sink.direct_fd], [handle.head]
            return
        self.live.append(handle)
        self.fds.append(handle.sink.direct_fd)
        self.heads.append(handle.head)

    def leave(self, handle: SubscriptionHandle) -> None:
        """Take a handle out; the last one moves into its slot, unless somebody is scanning."""
        slot, handle.slot = handle.slot, -1
        self._counts.live -= 1
        if self._scans:
            self.live[slot] = None
            self.fds[slot] = NO_FD
            self._holes += 1
            self._counts.holes += 1
            return
        last, fd, head = self.live.pop(), self.fds.pop(), self.heads.pop()
        if last is not handle and last is not None:
            self.live[slot], self.fds[slot], self.heads[slot] = last, fd, head
            last.slot = slot

    def begin_scan(self) -> int:
        """Hold all slots until `end_scan`; how many there are to scan."""
        self._scans += 1
        return len(self.live)

    def end_scan(self) -> None:
        """Let slots change again."""
        self._scans -= 1
        if self._holes and not self._scans:
            self._close_holes()

    def _close_holes(self) -> None:
        handles = [handle for handle in self.live if handle is not None]
        self._counts.holes -= self._holes
        self.live, self.fds, self.heads, self._holes = [], [], [], 0
        for handle in handles:
            self._append(handle)


class Plan(LiveList):
    """What a change has to go through for the subscriptions that share it, and which are live."""

    __slots__ = ("node", "owner", "projection", "siblings", "subscribers", "table")

    def __init__(
        self,
        table: TableDef,
        owner: Owner,
        node: "FilterNode",
        projection: Projection,
        counts: Counts,
    ) -> None:
        super().__init__(counts)
        # The newest definition that reads as the one it was made for.
        self.table = table
        self.owner = owner
        self.node = node
        self.projection = projection
        # Subscriptions that hold this plan, in whatever state; and how many of these have a
        # sibling: another subscription of their connection that the same changes may concern.
        self.subscribers = 0
        self.siblings = 0

    @property
    def filter(self) -> Filter:
        return self.node.filter

    def delta(self, change: Change) -> Delta | None:
        """How one change of this plan's table and owner is seen through its filter."""
        matches = self.filter.matches
        old_matches = change.old is not None and matches(change.old.values)
        new_matches = change.row is not None and matches(change.row.values)
        return delta(change, old_matches, new_matches)


class FilterNode:
    """One distinct filter and the plans (one per distinct projection) that use it."""

    __slots__ = ("demotions", "filter", "is_demoted", "is_heavy", "payer", "plans", "weight")

    def __init__(self, filter: Filter, payer: Hashable) -> None:
        self.filter = filter
        # Nearly always one; a list is a fifth of a dict's size.
        self.plans: list[Plan] = []
        # Who answers for what it costs: whoever asked for it first.
        self.payer = payer
        self.weight = Weight(0, 0)
        # Whether it costs so much that its payer has it fed apart from the others' when behind.
        self.is_heavy = False
        # Whether it costs more than its share, and is not asked by the fan-out (routing.py).
        self.is_demoted = False
        self.demotions = 0

    @property
    def is_used(self) -> bool:
        return bool(self.plans)

    def plan_for(self, projection: Projection, table: TableDef) -> Plan | None:
        """The plan of a projection; while a table is defined anew, of one of its definitions."""
        for plan in self.plans:
            if plan.projection == projection and plan.table.reads_as(table):
                return plan
        return None


class TablePlans:
    """The plans of one SHARED table, or of one owner's rows of a USER table."""

    __slots__ = ("_counts", "_nodes", "index", "owner", "shares")

    def __init__(self, owner: Owner, counts: Counts) -> None:
        self._counts = counts
        self.owner = owner
        self.index: FilterIndex[FilterNode] = FilterIndex()
        self.shares = Shares(self.index)
        self._nodes: dict[object, FilterNode] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[Plan]:
        for node in self._nodes.values():
            yield from node.plans

    def acquire(self, query: Query, payer: Hashable = None) -> Plan:
        """The plan of a query, made where nobody has asked the same; counts one subscriber."""
        node = self._nodes.get(query.filter.key)
        if node is None:
            node = self._nodes[query.filter.key] = FilterNode(query.filter, payer)
            self.shares.admit(node)
        plan = node.plan_for(query.projection, query.table)
        if plan is None:
            plan = Plan(query.table, self.owner, node, query.projection, self._counts)
            node.plans.append(plan)
            self._counts.demoted += node.is_demoted
        plan.table = query.table
        plan.subscribers += 1
        return plan

    def release(self, plan: Plan) -> None:
        """One subscriber fewer; the last one takes the plan, and its filter, along."""
        plan.subscribers -= 1
        if plan.subscribers:
            return
        node = plan.node
        node.plans.remove(plan)
        self._counts.demoted -= node.is_demoted
        if not node.plans:
            self.shares.drop(node)
            del self._nodes[node.filter.key]

    def demote(self, node: FilterNode, now: float) -> bool:
        """Ask a filter no more in the fan-out; whoever is live by it is to be set behind."""
        is_new = self.shares.demote(node, now)
        if is_new:
            self._counts.demoted += len(node.plans)
        return is_new

    def promote(self, now: float) -> None:
        """Have the fan-out ask again what it has not asked for long enough."""
        for node in self.shares.promote(now):
            self._counts.demoted -= len(node.plans)

    def find(self, query: Query) -> Plan | None:
        """The plan that a query would share, if somebody has asked the same."""
        node = self._nodes.get(query.filter.key)
        return None if node is None else node.plan_for(query.projection, query.table)
