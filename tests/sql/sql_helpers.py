"""The words in which the tests of the sql room speak."""

from collections.abc import Sequence
from typing import Any

from kalam_notify.filters import Filter, Query, bind
from kalam_notify.model import (
    ANONYMOUS,
    Identity,
    Role,
    TableDef,
    TableId,
    UserId,
    parse_table_id,
)
from kalam_notify.model.types import parse_type
from kalam_notify.sql import Limits, parse, parse_policy

LIMITS = Limits(max_bytes=16_384, max_terms=512)


def table_id(name: str) -> TableId:
    found = parse_table_id(name)
    assert found is not None
    return found


THINGS = TableDef(id=table_id("app.things"), kind="shared", primary_key=("id",))


def table(**columns: str) -> TableDef:
    """A table of which these columns are declared."""
    types = {name: parse_type(kind) for name, kind in columns.items()}
    return TableDef(id=THINGS.id, kind="shared", primary_key=("id",), columns=types)


def user(name: str, **claims: Any) -> Identity:
    return Identity(user_id=UserId(name), role=Role.USER, claims=claims)


def query(
    sql: str,
    *,
    on: TableDef = THINGS,
    by: Identity = ANONYMOUS,
    policy: str | None = None,
    limits: Limits = LIMITS,
    params: Sequence[Any] = (),
) -> Query:
    parsed = None if policy is None else parse_policy(policy, limits)
    return bind(parse(sql, limits), on, by, parsed, params)


def where(condition: str, **options: Any) -> Filter:
    """The filter of a WHERE clause on app.things."""
    return query(f"SELECT * FROM app.things WHERE {condition}", **options).filter


def truth(expression: str, **row: Any) -> bool | None:
    """The three-valued answer of a condition on a row."""
    if where(expression).matches(row):
        return True
    return False if where(f"NOT ({expression})").matches(row) else None
