"""A parsed query becomes one subscriber's query on one table: filter and projection.

Which columns of a row a subscriber is sent, and how the acknowledgement describes them.

A parsed query becomes one subscriber's query on one table.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from kalam_notify.filters.filter import Filter
from kalam_notify.model import Identity, Role, TableDef, UserId
from kalam_notify.sql.binding import Binder
from kalam_notify.sql.cache import LatestCache
from kalam_notify.sql.normal import conjunction, finished
from kalam_notify.sql.parsing import Condition, Policy, Select
from kalam_notify.sql.tree import Expression


class Projection(NamedTuple):
    """The list of a SELECT, on a table; equal ones show the same rows alike."""

    # Named columns in their order; None: every column.
    columns: tuple[str, ...] | None
    # The columns of a payload: primary key columns that are not named come first. One that a row
    # does not have is null there. None: whatever a row has.
    names: tuple[str, ...] | None
    # Whether integers that a double cannot hold exactly are written as text.
    bigints_as_text: bool = False

    @classmethod
    def of(cls, columns: tuple[str, ...] | None, table: TableDef) -> "Projection":
        """What a list shows of a table's rows."""
        if columns is None:
            return cls(None, None)
        return cls(columns, (*(n for n in table.primary_key if n not in columns), *columns))

    def schema(self, table: TableDef) -> list[dict[str, Any]]:
        """`[{"name", "data_type", "index", "flags"?}]`, in the order of the payload's columns.

        `data_type` is the declared type as KalamDB's clients read it, "Json" where none is
        declared; `flags` is ["pk"] for the columns of the primary key. Under `*` these are the
        declared columns, or the primary key alone where the table declares none.
        """
        names = self.names
        if names is None:
            declared = table.columns or {}
            names = (*(name for name in table.primary_key if name not in declared), *declared)
        return [_described(table, index, name) for index, name in enumerate(names)]


def _described(table: TableDef, index: int, name: str) -> dict[str, Any]:
    declared = (table.columns or {}).get(name)
    data_type = "Json" if declared is None else declared.wire
    column: dict[str, Any] = {"name": name, "data_type": data_type, "index": index}
    if name in table.primary_key:
        column["flags"] = ["pk"]
    return column


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
    query = Query(
        table, Filter(predicate), Projection.of(select.columns, table), binder.used_identity
    )
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
