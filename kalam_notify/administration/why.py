"""What became of one change at one user's subscriptions, judged when it is asked.

The log still has the change, and a subscription its query, its place and the policy of its table.
So the question needs no record of what was decided: the conditions are asked of both images of the
row once more, first as the subscription has them (query and policy in one), then, where that says
no, apart and term by term. What a subscription was before its token, its query or the configuration
changed is not known; it begins anew with each of these, and a change from before is told as such.

Rows of USER tables are their owner's alone: of these no value is told.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

from kalam_notify.budget import Steps
from kalam_notify.filters import Delta, Filter, bind, delta
from kalam_notify.model import Change, Identity, TableDef
from kalam_notify.sql import Limits, parse, parse_policy
from kalam_notify.sql.normal import negation, postorder
from kalam_notify.sql.tree import TRUE, Call, Column, Expression
from kalam_notify.subscriptions.plans import SubscriptionHandle, SubscriptionState

MOST_TERMS = 20
"""Terms of a condition that are told."""

_LONGEST_TERM = 500


class Case(NamedTuple):
    """A subscription to the change's table, as it stands now."""

    handle: SubscriptionHandle
    identity: Identity
    # The connection's id as operators know it, and the bytes that wait for its socket.
    connection: str
    waiting: int
    # Its condition as a whole, the query's own, and the policy's (None: the table has none).
    whole: Filter
    own: Filter
    policy: Filter | None
    # Up to where all was handed over; None before a snapshot's first page.
    position: int | None
    state: SubscriptionState
    start: int | None


def case_of(
    handle: SubscriptionHandle,
    identity: Identity,
    connection: str,
    waiting: int,
    limits: Limits,
    position: int,
) -> Steps[Case]:
    """The case of a subscription; `position` is the fan-out's. Raises SubscriptionRefused.

    It is refused where its SQL or its policy no longer fits the table.
    """
    plan = handle.plan
    table, is_live = plan.table, handle.state is SubscriptionState.LIVE
    select = parse(handle.sql, limits)
    yield
    own = bind(select, table, identity, None, handle.params).filter
    yield
    return Case(
        handle,
        identity,
        connection,
        waiting,
        plan.filter,
        own,
        policy_filter(table, identity, limits),
        position if is_live else handle.position,
        handle.state,
        handle.start,
    )


def policy_filter(table: TableDef, identity: Identity, limits: Limits) -> Filter | None:
    """The table's policy for an identity; None where it has none."""
    if table.policy is None:
        return None
    everything = parse(f"SELECT * FROM {table.id}", limits)
    return bind(everything, table, identity, parse_policy(table.policy, limits)).filter


def judged(case: Case, change: Change) -> dict[str, Any]:
    """What became of the change at a subscription: `outcome`, `why`, and what it was seen as."""
    handle = case.handle
    seen, verdict = _verdict(case, change)
    return {
        "id": handle.id,
        "connection": case.connection,
        "sql": handle.sql,
        "state": case.state.value,
        "position": case.position,
        "start": case.start,
        "seen_as": None if seen is None else seen.transition or seen.change_type,
        **verdict,
    }


def _verdict(case: Case, change: Change) -> tuple[Delta | None, dict[str, Any]]:
    if not case.handle.plan.table.is_shared and change.owner != case.handle.plan.owner:
        return None, _outcome("owner", "the row is another user's; nobody else is told of it")
    if change.row is None and change.old is None:
        return None, _outcome("nothing", "it deleted a row that was not there, which tells nothing")
    try:
        seen = seen_through(case.whole, change)
        if seen is None:
            return None, _kept_back(case, change)
    except Exception as fault:
        return None, _outcome("fault", f"its filter cannot be asked of this row: {fault}")
    return seen, _by_position(case, change.seq, seen)


def seen_through(condition: Filter, change: Change) -> Delta | None:
    """How a change is seen through a condition; None: not at all."""
    old, new = images(change)
    return delta(
        change,
        old is not None and condition.matches(old),
        new is not None and condition.matches(new),
    )


def images(change: Change) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The values of the old and the new row, read apart from those that the fan-out holds."""
    old = None if change.old is None else orjson.loads(change.old.json)
    new = None if change.row is None else orjson.loads(change.row.json)
    return old, new


def _kept_back(case: Case, change: Change) -> dict[str, Any]:
    """By the query's own filter, by the policy, or by both."""
    parts = {"filter": case.own, "policy": case.policy}
    blamed = {
        name: one
        for name, one in parts.items()
        if one is not None and seen_through(one, change) is None
    }
    # Each may be TRUE of another image of the row: then it is the two together.
    blamed = blamed or {name: one for name, one in parts.items() if one is not None}
    by = " and ".join(f"the {'query' if name == 'filter' else 'table'}'s {name}" for name in blamed)
    terms = [
        {"of": name, **term} for name, one in blamed.items() for term in failed_terms(one, change)
    ]
    return {
        **_outcome("+".join(blamed), f"kept back by {by}: {_said(terms)}"),
        "terms": terms[:MOST_TERMS],
    }


def _said(terms: list[dict[str, Any]]) -> str:
    if not terms:
        return "it is not TRUE of the row"
    first = terms[0]
    more = f", and {len(terms) - 1} more" if len(terms) > 1 else ""
    values = first.get("values")
    given = f" ({orjson.dumps(values).decode()})" if values else ""
    return f"{first['sql']} is {first['is']} of the {first['image']} row{given}{more}"


def failed_terms(condition: Filter, change: Change) -> Iterator[dict[str, Any]]:
    """The terms, joined by AND, that are not TRUE of an image of the row."""
    predicate = condition.predicate
    is_joined = isinstance(predicate, Call) and predicate.op == "and"
    terms = predicate.args if isinstance(predicate, Call) and is_joined else (predicate,)
    for image, values in zip(("old", "new"), images(change), strict=True):
        if values is None:
            continue
        for term in terms:
            if term != TRUE and not Filter(term).matches(values):
                yield _term(term, image, values, change)


def _term(term: Expression, image: str, values: dict[str, Any], change: Change) -> dict[str, Any]:
    asked = Filter(term)
    text = asked.sql
    truth = "FALSE" if Filter(negation(term)).matches(values) else "UNKNOWN"
    explained: dict[str, Any] = {
        "image": image,
        "sql": text if len(text) <= _LONGEST_TERM else text[:_LONGEST_TERM] + " …",
        "is": truth,
    }
    if not change.owner:
        explained["values"] = {name: values.get(name) for name in columns_of(term)}
    return explained


def columns_of(expression: Expression) -> list[str]:
    """The columns that an expression reads, in order of their names."""
    if isinstance(expression, Column):
        return [expression.name]
    names = {
        arg.name for call in postorder(expression) for arg in call.args if isinstance(arg, Column)
    }
    return sorted(names)


def _by_position(case: Case, seq: int, seen: Delta) -> dict[str, Any]:
    """The conditions let it through: whether it has been handed over."""
    if case.start is None:
        if case.position is None or seq <= case.position:
            return _outcome("snapshot", "it is part of the snapshot that is being loaded")
        return _not_yet(case)
    if seq <= case.start:
        return _outcome("before_start", _before(case.handle, case.start))
    if case.position is None or seq > case.position:
        return _not_yet(case)
    waits = f"; {case.waiting} bytes wait for its socket" if case.waiting else ""
    return _outcome("delivered", f"handed to its socket as {_spoken(seen)}{waits}")


def _before(handle: SubscriptionHandle, start: int) -> str:
    if handle.options is None:
        return f"it asked for live changes only, and began after seq {start}"
    if handle.options.from_seq is not None and handle.options.from_seq == start:
        return f"it asked for what came after seq {start}"
    if handle.options.last_rows is not None:
        newest = f"its snapshot, of the newest {handle.options.last_rows} rows, "
        return f"{newest}was taken at seq {start}: what changed before is in it or left out"
    return f"its snapshot was taken at seq {start}, and shows the row as it was by then"


def _not_yet(case: Case) -> dict[str, Any]:
    why = "it is still loading its snapshot"
    if case.state is not SubscriptionState.LOADING:
        slow = f", and {case.waiting} bytes wait for its socket" if case.waiting else ""
        why = f"it has come as far as seq {case.position}{slow}"
    return _outcome("not_yet", f"not handed over yet: {why}")


def _spoken(seen: Delta) -> str:
    return (
        seen.change_type if seen.transition is None else f"{seen.change_type} ({seen.transition})"
    )


def _outcome(outcome: str, why: str) -> dict[str, Any]:
    return {"outcome": outcome, "why": why}
