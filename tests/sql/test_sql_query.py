"""A parsed query meets its table and its subscriber."""

from typing import Any

import pytest
from sql_helpers import LIMITS, THINGS, query, table, user, where

from kalam_notify.errors import SqlRefused
from kalam_notify.filters import Projection, bind, check_policy
from kalam_notify.model import ANONYMOUS, TableDef
from kalam_notify.sql import parse, parse_policy

DECLARED = table(id="BigInt", status="Text", tenant="Text", amount="Double")


def test_a_table_with_columns_knows_its_names() -> None:
    assert query("SELECT status, id FROM app.things WHERE amount > 1", on=DECLARED)
    with pytest.raises(SqlRefused) as refused:
        query("SELECT * FROM app.things\nWHERE stauts = 'x'", on=DECLARED)
    assert "did you mean status?" in refused.value.message
    assert (refused.value.line, refused.value.column) == (2, 7)
    with pytest.raises(SqlRefused, match="did you mean amount"):
        query("SELECT amuont FROM app.things", on=DECLARED)
    with pytest.raises(SqlRefused, match="did you mean status"):
        query("SELECT Status FROM app.things", on=DECLARED)
    with pytest.raises(SqlRefused, match="there are id, status, tenant, amount"):
        query("SELECT zzz FROM app.things", on=DECLARED)


def test_the_primary_key_is_a_name_whether_declared_or_not() -> None:
    assert query("SELECT id FROM app.things WHERE id = 1", on=table(status="Text"))


def test_a_table_without_columns_takes_any_name() -> None:
    assert not where("anything = 1").matches({})


def test_columns_match_as_written() -> None:
    assert where("Status = 1").matches({"Status": 1})
    assert not where("Status = 1").matches({"status": 1})


def test_an_alias_replaces_the_table_as_qualifier() -> None:
    assert query("SELECT o.a FROM app.things o WHERE o.a = 1")
    for qualifier in ("things", "app.things", "O"):
        with pytest.raises(SqlRefused, match="not the table of this query"):
            query(f"SELECT * FROM app.things AS o WHERE {qualifier}.a = 1")


POLICY = "tenant = CLAIM('tenant')"


def test_a_policy_is_joined_as_a_tree() -> None:
    found = where("a = 1 OR b = 2", policy=f"{POLICY} OR public", by=user("ann", tenant="acme"))
    assert found == where("(a = 1 OR b = 2) AND (tenant = 'acme' OR public)")
    assert found.matches({"a": 1, "tenant": "acme"})
    assert found.matches({"b": 2, "public": True})
    assert not found.matches({"a": 1, "tenant": "other"})


def test_a_policy_is_there_without_a_where() -> None:
    found = query("SELECT * FROM app.things", policy=POLICY, by=user("ann", tenant="acme"))
    assert found.filter == where("tenant = 'acme'")
    assert found.depends_on_identity


@pytest.mark.parametrize(
    "claims", [{}, {"tenant": None}, {"tenant": ["acme"]}, {"tenant": {"id": "acme"}}]
)
def test_a_claim_that_is_no_scalar_is_null(claims: dict[str, Any]) -> None:
    assert where(POLICY, by=user("ann", **claims)).matches_nothing
    assert where("CLAIM('tenant') IS NULL", by=user("ann", **claims)).matches_all


@pytest.mark.parametrize(
    ("claim", "row", "matches"),
    [(7, 7, True), (7, "7", False), ("x", "x", True), (True, True, True), (True, 1, False)],
)
def test_a_claim_keeps_its_type(claim: object, row: object, matches: bool) -> None:
    assert where("t = CLAIM('t')", by=user("ann", t=claim)).matches({"t": row}) is matches


def test_a_claim_cannot_escape_into_the_query() -> None:
    found = where(POLICY, by=user("ann", tenant="' OR TRUE --"))
    assert not found.matches({"tenant": "acme"})
    assert found.matches({"tenant": "' OR TRUE --"})


def test_only_what_asks_for_the_identity_depends_on_it() -> None:
    select = parse("SELECT * FROM app.things WHERE a = 1", LIMITS)
    first = bind(select, THINGS, user("ann"))
    assert not first.depends_on_identity
    assert bind(select, THINGS, user("bob")) is first
    own = parse("SELECT * FROM app.things WHERE owner = CURRENT_USER", LIMITS)
    assert bind(own, THINGS, user("ann")).depends_on_identity
    assert bind(own, THINGS, user("ann")).filter != bind(own, THINGS, user("bob")).filter


def test_a_new_definition_of_the_table_is_bound_anew() -> None:
    select = parse("SELECT * FROM app.things WHERE status = 'x'", LIMITS)
    assert bind(select, DECLARED, ANONYMOUS).table is DECLARED
    with pytest.raises(SqlRefused):
        bind(select, table(state="Text"), ANONYMOUS)


def test_a_policy_is_checked_against_declared_columns() -> None:
    check_policy(parse_policy(POLICY, LIMITS), DECLARED)
    check_policy(parse_policy(POLICY, LIMITS), THINGS)
    with pytest.raises(SqlRefused, match="did you mean tenant"):
        check_policy(parse_policy("tenat = 'x'", LIMITS), DECLARED)


def test_parsing_the_same_text_again_is_a_look_up() -> None:
    sql = "SELECT * FROM app.things WHERE a = 1"
    assert parse(sql, LIMITS) is parse(sql, LIMITS)


def test_client_text_never_reaches_generated_source() -> None:
    name = "a\"] or __import__('os')"
    column, text = name.replace('"', '""'), name.replace("'", "''")
    found = where(f"\"{column}\" = '{text}'")
    assert found.matches({name: name})
    assert not found.matches({name: "x"})


def test_a_projection_names_columns_and_leads_with_the_key() -> None:
    named = query("SELECT b, a, b FROM app.things").projection
    assert named.columns == ("b", "a")
    assert named.names == ("id", "b", "a")
    assert query("SELECT a, id FROM app.things").projection.names == ("a", "id")
    assert query("SELECT * FROM app.things").projection.names is None
    assert query("SELECT o.* FROM app.things o").projection.columns is None


def test_a_schema_describes_the_payload() -> None:
    assert Projection.of(("status", "note"), DECLARED).schema(DECLARED) == [
        {"name": "id", "data_type": "BigInt", "index": 0, "flags": ["pk"]},
        {"name": "status", "data_type": "Text", "index": 1},
        {"name": "note", "data_type": "Json", "index": 2},
    ]
    assert [column["name"] for column in Projection(None, None).schema(DECLARED)] == [
        "id",
        "status",
        "tenant",
        "amount",
    ]
    assert Projection(None, None).schema(THINGS) == [
        {"name": "id", "data_type": "Json", "index": 0, "flags": ["pk"]}
    ]
    log = TableDef(id=THINGS.id, kind="shared")
    assert Projection(None, None).schema(log) == []
