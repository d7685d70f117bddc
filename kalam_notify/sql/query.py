"""A parsed query becomes one subscriber's query on one table."""

from collections.abc import Mapping
from typing import Any

from kalam_notify.model import Identity, TableDef
from kalam_notify.sql.cache import LatestCache
from kalam_notify.sql.filters import Filter
from kalam_notify.sql.lexer import Source
from kalam_notify.sql.normal import normalize
from kalam_notify.sql.parsing import Policy, Select
from kalam_notify.sql.projection import Projection
from kalam_notify.sql.tree import TRUE, Call, Column, Constant, Expression, Name, constant
from kalam_notify.sql.vocabulary import nearest

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
    select: Select, table: TableDef, identity: Identity, policy: Policy | None = None
) -> Query:
    """The query of one subscriber: names checked, policy joined by AND, identity folded in.

    `table` is the definition of `select.table`; `policy` its row policy, None where it has none.
    Raises SqlRefused for a column that a table with declared columns does not have.
    """
    key = (id(select), id(table), id(policy))
    found = _bound.get(key)
    if found is not None:
        return found[-1]
    _check_columns(select, table)
    binder = _Binder(identity)
    parts = [binder.bound(part.where) for part in (select, policy) if part and part.where]
    predicate = normalize(Call("and", tuple(parts))) if parts else TRUE
    query = Query(table, Filter(predicate), Projection(select.columns), binder.used_identity)
    if not binder.used_identity:
        _bound.put(key, (select, table, policy, query), len(select.source.text))
    return query


def check_policy(policy: Policy, table: TableDef) -> None:
    """Raises SqlRefused for a column that the table does not declare."""
    for name in _names(policy.where):
        _check_column(policy.source, name, table)


def _check_columns(select: Select, table: TableDef) -> None:
    for name in select.names:
        _check_column(select.source, name, table)


def _check_column(source: Source, name: Name, table: TableDef) -> None:
    known = table.columns
    if known is None or name.name in known or name.name in table.primary_key:
        return
    columns = [*table.primary_key, *known]
    hint = nearest(name.name, columns) or f"there are {', '.join(dict.fromkeys(columns))}"
    source.refuse(f"{table.id} has no column {name.name}; {hint}", name.offset)


def _names(expression: Expression) -> list[Name]:
    if isinstance(expression, Name):
        return [expression]
    if isinstance(expression, Call):
        return [name for arg in expression.args for name in _names(arg)]
    return []


class _Binder:
    """Names become columns; CURRENT_USER and CLAIM(...) become constants."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._done: dict[int, Expression] = {}
        self.used_identity = False

    def bound(self, expression: Expression) -> Expression:
        if isinstance(expression, Name):
            return _column(expression.name)
        if not isinstance(expression, Call):
            return expression
        done = self._done.get(id(expression))
        if done is None:
            done = self._done[id(expression)] = self._call(expression)
        return done

    def _call(self, call: Call) -> Expression:
        if call.op == "current_user":
            self.used_identity = True
            return constant(None if self._identity.is_anonymous else str(self._identity.user_id))
        if call.op == "claim":
            self.used_identity = True
            return self._claim(call.args[0])
        return Call(call.op, tuple(self.bound(arg) for arg in call.args))

    def _claim(self, name: Expression) -> Expression:
        """A claim's value; one that is absent, an array or an object is NULL."""
        claims: Mapping[str, Any] = self._identity.claims
        return constant(claims.get(name.value) if isinstance(name, Constant) else None)


_columns: dict[str, Column] = {}


def _column(name: str) -> Column:
    """One Column per name, shared by all filters that use it."""
    found = _columns.get(name)
    if found is None:
        if len(_columns) >= 4096:
            _columns.clear()
        found = _columns[name] = Column(name)
    return found


def forget_bound() -> None:
    """Drop the cached results of `bind`."""
    _bound.clear()
