"""Typed columns, with and without parameters: PostgreSQL's answers are ours.

`postgres_pairs.py` asks the same of a million pairs.
"""

import os
from collections.abc import Iterator
from random import Random
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from postgres_pairs import Oracle, ours
from private_postgres import is_installed, private_postgres
from typed_conditions import Conditions, row

pytestmark = pytest.mark.skipif(
    not is_installed() and "CI" not in os.environ, reason="PostgreSQL 15 is not installed"
)


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    with private_postgres() as address:
        yield Oracle(address)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(random=st.randoms(use_true_random=False), with_params=st.booleans())
def test_typed_conditions_answer_as_postgres_does(
    oracle: Oracle, random: Random, with_params: bool
) -> None:
    rows = [row(random, number) for number in range(20)]
    oracle.fill(rows)
    for _ in range(4):
        conditions = Conditions(random, with_params=with_params)
        both = conditions.condition(3)
        theirs = oracle.answers(both.theirs, conditions.params)
        assert ours(both, conditions.params, rows) == theirs, (both, conditions.params)


# What docs/sql.md says of PostgreSQL where we differ on purpose: its answer or error, and ours.
DEVIATIONS: list[tuple[str, bool | str | None, bool | None]] = [
    ("10::numeric / 3 = 3.3333333333333333", True, False),
    ("9007199254740993 = 9007199254740992::double precision", True, False),
    ("0.1::numeric = 0.1::double precision", True, True),
    ("'x'::numeric IS NULL", "invalid input syntax", True),
    ("'NaN'::numeric IS NULL", False, True),
    ("'99999999999'::integer IS NULL", "out of range", True),
    ("'2024-05-01 12:00+02'::timestamp = '2024-05-01 10:00'", False, True),
    ("'May 1 2024'::date IS NULL", False, True),
    ("CAST('2024-05-01'::timestamptz AS text) = '2024-05-01T00:00:00Z'", False, True),
]


@pytest.mark.parametrize(("expression", "theirs", "mine"), DEVIATIONS)
def test_postgres_differs_where_the_docs_say_so(
    oracle: Oracle, expression: str, theirs: bool | str | None, mine: bool | None
) -> None:
    from sql_helpers import truth

    if isinstance(theirs, str):
        with pytest.raises(psycopg.Error, match=theirs):
            oracle.connection.execute(f"SELECT {expression}".encode())
    else:
        found: Any = oracle.connection.execute(f"SELECT {expression}".encode()).fetchone()
        assert found[0] is theirs
    assert truth(expression) is mine
