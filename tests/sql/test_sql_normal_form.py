"""Conditions that mean the same have the same key; those that do not, have not."""

import pytest
from sql_helpers import query, user, where

from kalam_notify.model import ANONYMOUS

SAME = [
    # How it is written.
    ("a = 1", "  A_  = 1".replace("A_", "a")),
    ("a = 1 and b = 2", "a=1 AND\n b = 2 -- both"),
    ("a = 1", "((a) = (1))"),
    ("a = 1", 'things.a = 1 AND "a" = 1 AND app.things."a" = 1'),
    ("a <> 1", "a != 1"),
    ("a = 1", "1 = a"),
    ("a < 1", "1 > a"),
    ("a <= b", "b >= a"),
    ("a = b", "b = a"),
    ("a = 5", "a = 5.0"),
    ("a = 2", "a = 1 + 1"),
    ("a = -1", "a = - 1"),
    ("a = 'xy'", "a = 'x' || 'y'"),
    # AND, OR.
    ("a = 1 AND b = 2", "b = 2 AND a = 1"),
    ("a = 1 AND b = 2", "b = 2 AND (a = 1 AND b = 2)"),
    ("a = 1 OR b = 2 OR c = 3", "(c = 3 OR a = 1) OR (b = 2 OR a = 1)"),
    ("a = 1", "a = 1 OR a = 1"),
    ("a = 1", "a = 1 AND TRUE"),
    ("a = 1", "a = 1 OR FALSE"),
    ("a = 1", "a = 1 OR NULL"),
    ("FALSE", "a = 1 AND NULL"),
    ("FALSE", "a = NULL"),
    ("TRUE", "1 = 1 OR a = 2"),
    # NOT.
    ("a <> 1", "NOT a = 1"),
    ("a >= 1", "NOT (a < 1)"),
    ("a = 1", "NOT NOT a = 1"),
    ("a <> 1 OR b <> 2", "NOT (a = 1 AND b = 2)"),
    ("a <> 1 AND b IS NULL", "NOT (a = 1 OR b IS NOT NULL)"),
    ("a NOT IN (1, 2)", "NOT a IN (2, 1)"),
    ("a NOT LIKE 'x%'", "NOT (a LIKE 'x%')"),
    ("a IS DISTINCT FROM 1", "NOT (1 IS NOT DISTINCT FROM a)"),
    # IN, BETWEEN, LIKE.
    ("a = 1", "a IN (1)"),
    ("a IN (1, 2)", "a IN (2, 1, 2.0)"),
    ("a IN (1, 2, 3)", "a = 1 OR a IN (3, 2)"),
    ("a IN (1, 2)", "CASE WHEN 1 = 1 THEN a END IN (1, 2)"),
    ("a >= 1 AND a <= 2", "a BETWEEN 1 AND 2"),
    ("a < 1 OR a > 2", "a NOT BETWEEN 1 AND 2"),
    ("a LIKE 'x%'", "a LIKE 'x%' ESCAPE '!'"),
    ("a = 'x'", "a LIKE 'x'"),
    ("a = 'x%'", "a LIKE 'x!%' ESCAPE '!'"),
    # Booleans.
    ("f", "f = TRUE"),
    ("f", "TRUE = f"),
    ("f", "f <> FALSE"),
    ("NOT f", "f = FALSE"),
    ("f", "f IS TRUE"),
    ("a = 1", "(a = 1) = TRUE"),
    ("a <> 1", "(a = 1) = FALSE"),
    ("f IS NOT UNKNOWN", "(NOT f) IS NOT UNKNOWN"),
    # Instants.
    ("CAST(t AS TIMESTAMP) > DATE '2024-05-01'", "t > TIMESTAMP '2024-05-01T02:00:00+02:00'"),
]
DIFFERENT = [
    ("a = 1", "a = '1'"),
    ("a = 1", "a = TRUE"),
    ("a = 1", "b = 1"),
    ("a = 1", "A = 1"),
    ("a < 1", "a <= 1"),
    ("a < b", "b < a"),
    ("a / 2 = 1", "a / 2.0 = 1"),
    ("a LIKE 'x%'", "a ILIKE 'x%'"),
    ("a LIKE 'x_'", "a LIKE 'x!_' ESCAPE '!'"),
    ("f IS NOT TRUE", "NOT f"),
    ("a = 1 AND b = 2", "a = 1 OR b = 2"),
    ("a - b = 1", "b - a = 1"),
    ("a NOT IN (1, NULL)", "a NOT IN (1)"),
    ("a -> 'k' = 1", "a -> 'j' = 1"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_conditions_that_mean_the_same_are_one(one: str, other: str) -> None:
    assert where(one).key == where(other).key
    assert where(one) == where(other)
    assert hash(where(one)) == hash(where(other))


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_conditions_that_differ_stay_apart(one: str, other: str) -> None:
    assert where(one).key != where(other).key


def test_alias_and_case_of_the_table_do_not_matter() -> None:
    texts = [
        "SELECT a, b FROM app.things WHERE a = 1",
        "select o.a, o.b from App.Things as o where o.a = 1;",
        'SELECT things.a, "b", a FROM "app"."things" WHERE APP.Things.a = 1',
    ]
    queries = [query(text) for text in texts]
    assert len({(found.filter.key, found.projection) for found in queries}) == 1


def test_a_claim_is_as_good_as_the_constant() -> None:
    acme = user("ann", tenant="acme")
    assert where("tenant = CLAIM('tenant')", by=acme) == where("tenant = 'acme'")
    assert where("owner = CURRENT_USER", by=acme) == where("owner = 'ann'")
    assert where("owner = CURRENT_USER", by=ANONYMOUS).matches_nothing


def test_no_where_matches_all() -> None:
    assert query("SELECT * FROM app.things").filter.matches_all
    assert query("SELECT * FROM app.things").filter.matches({})
    assert not where("a = 1").matches_all
    assert where("NULL").matches_nothing
