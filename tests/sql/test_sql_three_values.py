"""NULL is a teacher: conditions and their answers, TRUE, FALSE or UNKNOWN (None)."""

from itertools import product
from typing import Any

import pytest
from sql_helpers import truth

from kalam_notify.sql.logic import Truth, and_, not_, or_

ROW = {
    "one": 1,
    "two": 2,
    "half": 0.5,
    "vast": 1e308,
    "big": 2**53 + 1,
    "huge": 2**64 - 1,
    "text": "abc",
    "digit": "1",
    "empty": "",
    "yes": True,
    "no": False,
    "nil": None,
    "list": [1, "x", {"k": "v"}],
    "object": {"k": 1, "t": "text", "yes": True, "a.b": "dot", "n": None, "f": 1.5},
    "time": "2024-05-01T12:00:00+02:00",
}

PAIRS: list[tuple[str, Truth]] = [
    # NULL, JSON null and an absent column are one thing.
    ("nil = 1", None),
    ("nil = NULL", None),
    ("absent = 1", None),
    ("nil IS NULL", True),
    ("absent IS NULL", True),
    ("one IS NULL", False),
    ("nil IS NOT NULL", False),
    ("NULL", None),
    ("nil IS DISTINCT FROM absent", False),
    ("nil IS DISTINCT FROM 1", True),
    ("one IS NOT DISTINCT FROM 1", True),
    ("one IS DISTINCT FROM 'one'", True),
    # Unlike types are neither equal nor ordered.
    ("one = '1'", None),
    ("one <> '1'", None),
    ("one < 'a'", None),
    ("digit = 1", None),
    ("yes = 1", None),
    ("yes <> 0", None),
    ("one = TRUE", None),
    ("text = TRUE", None),
    ("list = 1", None),
    ("object = object", None),
    ("list IS NULL", False),
    ("object IS DISTINCT FROM object", True),
    # Numbers are exact, whatever their size and kind.
    ("one = 1.0", True),
    ("one < 1.5", True),
    ("half = 0.5", True),
    ("half = .5", True),
    ("half = 5e-1", True),
    ("big = 9007199254740993", True),
    ("big = 9007199254740992", False),
    ("big = 9007199254740992.0", False),
    ("big > 9007199254740992.0", True),
    ("huge = 18446744073709551615", True),
    ("huge + 1 = 18446744073709551616", True),
    ("huge * huge > huge", True),
    ("-one = -1", True),
    # Text by code point.
    ("text < 'abd'", True),
    ("text > 'ABC'", True),
    ("empty = ''", True),
    ("text = 'abc '", False),
    ("empty < text", True),
    # Booleans.
    ("yes", True),
    ("no", False),
    ("nil", None),
    ("one", None),
    ("text", None),
    ("NOT yes", False),
    ("yes = TRUE", True),
    ("no < yes", True),
    ("yes IS TRUE", True),
    ("nil IS TRUE", False),
    ("nil IS NOT TRUE", True),
    ("one IS TRUE", False),
    ("no IS FALSE", True),
    ("nil IS UNKNOWN", True),
    ("one IS UNKNOWN", True),
    ("yes IS UNKNOWN", False),
    ("nil IS NOT UNKNOWN", False),
    ("(one = 1) = yes", True),
    ("(nil = 1) = yes", None),
    ("(nil = 1) IS NULL", True),
    # IN and BETWEEN.
    ("one IN (1, 2)", True),
    ("one IN (2, NULL)", None),
    ("one IN (1, NULL)", True),
    ("one NOT IN (2, NULL)", None),
    ("one NOT IN (2, 3)", True),
    ("one NOT IN (2, 'x')", None),
    ("nil IN (1)", None),
    ("one IN (two, 1)", True),
    ("one BETWEEN 1 AND 2", True),
    ("two BETWEEN 3 AND nil", False),
    ("two BETWEEN 1 AND nil", None),
    ("two NOT BETWEEN 3 AND nil", True),
    # Arithmetic.
    ("one / 0 IS NULL", True),
    ("one % 0 IS NULL", True),
    ("half / 0 IS NULL", True),
    ("7 / 2 = 3", True),
    ("-7 / 2 = -3", True),
    ("7 / 2.0 = 3.5", True),
    ("-7 % 3 = -1", True),
    ("7 % -3 = 1", True),
    ("-7.5 % 2 = -1.5", True),
    ("one + nil IS NULL", True),
    ("one + 'x' IS NULL", True),
    ("one + yes IS NULL", True),
    # A double of a row can overflow; constants are decimals, which do not.
    ("vast * 10 IS NULL", True),
    ("1e308 * 10 IS NULL", False),
    ("2 + 3 * 4 = 14", True),
    ("-(2) * 3 = -6", True),
    ("ABS(-5) = 5", True),
    ("ABS(text) IS NULL", True),
    # Text functions.
    ("text || 'd' = 'abcd'", True),
    ("text || nil IS NULL", True),
    ("text || 1 IS NULL", True),
    ("UPPER(text) = 'ABC'", True),
    ("LOWER('ÀB') = 'àb'", True),
    ("LENGTH('añ😀') = 3", True),
    ("LENGTH(one) IS NULL", True),
    ("TRIM('  a ') = 'a'", True),
    ("TRIM('xxaxy', 'xy') = 'a'", True),
    ("LTRIM(' a ') = 'a '", True),
    ("RTRIM(' a ') = ' a'", True),
    ("SUBSTR(text, 2) = 'bc'", True),
    ("SUBSTR(text, 2, 1) = 'b'", True),
    ("SUBSTR(text, 0, 2) = 'a'", True),
    ("SUBSTR(text, -1, 3) = 'a'", True),
    ("SUBSTR(text, 9) = ''", True),
    ("SUBSTR(text, 1, -1) IS NULL", True),
    ("SUBSTRING(text, 1, 2) = 'ab'", True),
    # Choices.
    ("COALESCE(nil, absent, 3) = 3", True),
    ("COALESCE(nil, absent) IS NULL", True),
    ("NULLIF(one, 1) IS NULL", True),
    ("NULLIF(one, 'x') = 1", True),
    ("CASE WHEN nil THEN 1 WHEN yes THEN 2 END = 2", True),
    ("CASE WHEN no THEN 1 END IS NULL", True),
    ("CASE one WHEN 2 THEN 'b' WHEN 1 THEN 'a' ELSE 'c' END = 'a'", True),
    ("CASE nil WHEN NULL THEN 1 ELSE 2 END = 2", True),
    ("CASE WHEN one = 1 THEN yes ELSE no END", True),
    # Instants.
    ("CAST(time AS TIMESTAMP) = TIMESTAMP '2024-05-01T10:00:00Z'", True),
    ("time = TIMESTAMP '2024-05-01 10:00'", True),
    ("time = '2024-05-01T10:00:00Z'", False),
    ("time > DATE '2024-05-01'", True),
    ("time BETWEEN DATE '2024-05-01' AND DATE '2024-05-02'", True),
    ("time IN (TIMESTAMP '2024-05-01T10:00:00Z')", True),
    ("CAST(time AS TIMESTAMP WITH TIME ZONE) < TIMESTAMPTZ '2024-05-01T10:00:00.000000001Z'", True),
    ("text > DATE '2024-05-01'", None),
    ("CAST(one AS TIMESTAMP) IS NULL", True),
    ("CAST('2024-02-30' AS TIMESTAMP) IS NULL", True),
    # JSON paths.
    ("object -> 'k' = 1", True),
    ("object ->> 'k' = '1'", True),
    ("object ->> 't' = 'text'", True),
    ("object -> 't' = 'text'", True),
    ("object -> 'yes'", True),
    ("object ->> 'yes' = 'true'", True),
    ("object ->> 'f' = '1.5'", True),
    ("object ->> 'a.b' = 'dot'", True),
    ("object ->> 'n' IS NULL", True),
    ("object ->> 'none' IS NULL", True),
    ("list -> 0 = 1", True),
    ("list -> -1 ->> 'k' = 'v'", True),
    ('list ->> 2 = \'{"k":"v"}\'', True),
    ("list ->> 3 IS NULL", True),
    ("text ->> 'k' IS NULL", True),
    # What binds tighter.
    ("no AND no OR yes", True),
    ("no AND (no OR yes)", False),
    ("NOT no AND no", False),
    ("one = 2 IS FALSE", True),
    ("NOT one = 2", True),
    ("one + 1 = two", True),
    ("text LIKE 'a' || '%'", True),
    ("object -> 'k' + 1 = 2", None),
]


@pytest.mark.parametrize(("condition", "answer"), PAIRS, ids=[pair[0] for pair in PAIRS])
def test_a_condition_has_its_answer(condition: str, answer: Truth) -> None:
    assert truth(condition, **ROW) is answer


SYMBOLS: dict[Truth, str] = {True: "(1 = 1)", False: "(1 = 2)", None: "(nil = 1)"}
VALUES: tuple[Truth, ...] = (True, False, None)


@pytest.mark.parametrize(("p", "q"), list(product(VALUES, VALUES)))
def test_connectives_follow_the_truth_tables(p: Truth, q: Truth) -> None:
    both, either = f"{SYMBOLS[p]} AND {SYMBOLS[q]}", f"{SYMBOLS[p]} OR {SYMBOLS[q]}"
    assert truth(both) is and_([p, q])
    assert truth(either) is or_([p, q])
    assert truth(f"NOT {SYMBOLS[p]}") is not_(p)


@pytest.mark.parametrize(
    "value", [None, True, 1, 1.5, "x", [], {}, [1, [2]], {"k": {}}, 2**64 - 1, "\x00", "\ud7ff"]
)
def test_no_value_makes_a_filter_raise(value: Any) -> None:
    row = {"a": value, "b": value}
    for condition in (
        "a + b * a / b % a - b > 1 OR -a < ABS(b)",
        "a || b LIKE b OR a ILIKE b OR a IN (b, 1, 'x', TRUE) OR a BETWEEN b AND b",
        "SUBSTR(a, b, b) = TRIM(a, b) OR UPPER(a) < LOWER(b) OR LENGTH(a) = b",
        "a -> b = a OR a ->> b = b OR COALESCE(a, b) = NULLIF(a, b)",
        "CASE a WHEN b THEN a ELSE b END OR a IS DISTINCT FROM b OR a IS UNKNOWN",
        "CAST(a AS TIMESTAMP) < TIMESTAMP '2024-01-01' OR a < DATE '2024-01-01'",
    ):
        assert truth(condition, **row) in (True, False, None)
