"""A parsed query becomes one subscriber's query on one table."""

from collections.abc import Sequence
from typing import Any

from kalam_notify.filters.filter import Filter
from kalam_notify.filters.projection import Projection
from kalam_notify.model import Identity, Role, TableDef, UserId
from kalam_notify.sql.binding import Binder
from kalam_notify.sql.cache import LatestCache
from kalam_notify.sql.normal import conjunction, finished
from kalam_notify.sql.parsing import Condition, Policy, Select
from kalam_notify.sql.tree import Expression

# The parsed query, the table and the policy are kept beside the result: while they live, nothing
# else has their ids.
_Kept = tuple[Select, TableDef, Policy | None, "Query"]
_bound: LatestCache[tuple[int, int, int], _Kept] = LatestCache(512 * 1024)


class Query:
    """What a subscription delivers: the rows that pass `filter`, as `projection` shows them."""

    __slots__ = ("depends_on_identity", "filter", "projection", "table")

    def __init__(
        self, table: TableDef, filter: Filter, projection: Projection, depends_on_identity: bool
    ) -> None:
        self.table = table
        self.filter = filter
        self.projection = projection
        # Whether another subscriber's query of the same text could have another filter.
        self.depends_on_identity = depends_on_identity


def bind(
    select: Select,
    table: TableDef,
    identity: Identity,
    policy: Policy | None = None,
    params: Sequence[Any] = (),
) -> Query:
    """The query of one subscriber: names checked, policy joined by AND, identity folded in.

    `table` is the definition of `select.table`; `policy` its row policy, None where it has none;
    `params` the values of `$1`, `$2`, ... Raises SqlRefused for a column that a table with declared
    columns does not have, for a comparison that its types rule out, and for parameters that do not
    fit.
    """
    key = (id(select), id(table), id(policy))
    found = _bound.get(key)
    if found is not None and not params:
        return found[-1]
    _check_count(select, params)
    binder = Binder(table, identity, params)
    binder.check_names(select.listed, select.source)
    conditions = [part for part in (select.condition, policy) if part is not None]
    parts = tuple(_bound_condition(binder, condition) for condition in conditions)
    predicate = finished(conjunction(parts))
    query = Query(table, Filter(predicate), Projection(select.columns), binder.used_identity)
    if not binder.used_identity and not params:
        _bound.put(key, (select, table, policy, query), len(select.source.text))
    return query


def check_policy(policy: Policy, table: TableDef) -> None:
    """Raises SqlRefused for a column that the table does not declare, or types that never meet."""
    somebody = Identity(user_id=UserId("somebody"), role=Role.USER)
    _bound_condition(Binder(table, somebody), policy)


def _bound_condition(binder: Binder, condition: Condition) -> Expression:
    binder.check_names(condition.names, condition.source)
    return binder.bound(condition)


def _check_count(select: Select, params: Sequence[Any]) -> None:
    wanted, given = select.parameters, len(params)
    if wanted == given:
        return
    uses = "no parameter" if not wanted else "$1" if wanted == 1 else f"$1 to ${wanted}"
    what = "no params" if not given else "1 value" if given == 1 else f"{given} values"
    select.source.refuse(f"{what} for a query that uses {uses}; params takes one value for each", 0)


def forget_bound() -> None:
    """Drop the cached results of `bind`."""
    _bound.clear()
