"""What plans see of a run of changes, made into messages once for all that see the same.

Plans differ in which changes they see, not in what a change looks like: ten thousand filters that
see the same changes, in the same way and through the same projection, get the same bytes. So a run
of changes is collected along paths: a plan walks from `(change, delta)` to `(change, delta)`, plans
that walk the same way stand on the same path, and messages are made once per path.

The fan-out collects a batch this way, catching up a span of the log.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from kalam_notify.delivery.frames import FrameSet
from kalam_notify.delivery.payload import BodyBuilder, RowEncoder
from kalam_notify.model import Change
from kalam_notify.subscriptions.deltas import Delta
from kalam_notify.subscriptions.plans import Plan


class Delivery(NamedTuple):
    """Messages, and the plans whose subscriptions are to get them."""

    frames: FrameSet
    plans: Sequence[Plan]


class _Path:
    """What some plans have seen so far."""

    __slots__ = ("_before", "_change", "_delta", "_encoder", "_next")

    def __init__(
        self,
        encoder: RowEncoder,
        before: "_Path | None" = None,
        change: Change | None = None,
        seen: Delta | None = None,
    ) -> None:
        self._encoder = encoder
        self._before, self._change, self._delta = before, change, seen
        self._next: dict[int, _Path] = {}

    def on(self, change: Change, seen: Delta) -> "_Path":
        """The path of those on this one that see `change` as `seen` next."""
        key = change.seq * len(Delta) + seen.number
        path = self._next.get(key)
        if path is None:
            path = self._next[key] = _Path(self._encoder, self, change, seen)
        return path

    def frames(self) -> FrameSet:
        """The messages of the whole path."""
        steps, path = [], self
        while path._change is not None and path._delta is not None and path._before is not None:
            steps.append((path._change, path._delta))
            path = path._before
        builder = BodyBuilder(self._encoder)
        for change, seen in reversed(steps):
            builder.add(change, seen)
        return FrameSet(builder.bodies(), builder.row_count)


class Paths:
    """Where each plan stands; all changes that are taken in come in the order of the log."""

    __slots__ = ("_paths", "_roots")

    def __init__(self) -> None:
        self._paths: dict[Plan, _Path] = {}
        # Where the plans of one table, owner and projection start.
        self._roots: dict[tuple[object, object, object], _Path] = {}

    def take(self, plan: Plan, change: Change, seen: Delta) -> None:
        """A plan sees a change."""
        path = self._paths.get(plan)
        if path is None:
            path = self._root(plan)
        self._paths[plan] = path.on(change, seen)

    def _root(self, plan: Plan) -> _Path:
        key = (plan.table.id, plan.owner, plan.projection.key)
        root = self._roots.get(key)
        if root is None:
            root = self._roots[key] = _Path(RowEncoder(plan.table, plan.projection))
        return root

    def plans(self) -> Iterable[Plan]:
        """Those that have seen anything."""
        return self._paths

    def deliveries(self) -> Iterator[Delivery]:
        """What is to be sent to whom; the messages of a path are made when it is come to."""
        plans: dict[_Path, list[Plan]] = {}
        for plan, path in self._paths.items():
            plans.setdefault(path, []).append(plan)
        for path, alike in plans.items():
            yield Delivery(path.frames(), alike)
