"""Random WHERE clauses and rows in the part of SQL that other databases share.

One table, `app.things`, with a column of every kind; expressions are typed, so that PostgreSQL
accepts them, and print parentheses only where the databases would disagree without them.
"""

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

COLUMNS = {
    "id": "BIGINT",
    "a": "BIGINT",
    "b": "BIGINT",
    "n": "BIGINT",
    "x": "DOUBLE PRECISION",
    "s": "TEXT",
    "t": "TEXT",
    "f": "BOOLEAN",
}

SMALL = st.integers(-6, 6)
# Neighbours that a detour through doubles would make equal.
BIG = st.sampled_from([2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63) + 1, 0, 1])
HALVES = st.sampled_from([0.0, 0.5, -0.5, 1.0, 1.5, -2.25, 1e300, 9007199254740992.0])
# No letter outside of ASCII that has a case: databases differ in how they fold it.
TEXT = st.text(st.sampled_from("abAB%_! \n1日😀"), max_size=4)
PATTERN = st.text(st.sampled_from("abA%%_日\n"), max_size=5)


def nullable(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), values, values)


ROW = st.fixed_dictionaries(
    {
        "a": nullable(SMALL),
        "b": nullable(SMALL),
        "n": nullable(BIG),
        "x": nullable(HALVES),
        "s": nullable(TEXT),
        "t": nullable(TEXT),
        "f": nullable(st.booleans()),
    }
)
ROWS = st.lists(ROW, min_size=1, max_size=8)


@dataclass(frozen=True)
class Flavour:
    """What a database has of the language."""

    # `a / 0` is NULL, not an error.
    divides_by_anything: bool
    # IS UNKNOWN, ILIKE, and IS that binds looser than a comparison.
    is_postgres: bool


SQLITE = Flavour(divides_by_anything=True, is_postgres=False)
POSTGRES = Flavour(divides_by_anything=False, is_postgres=True)


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def conditions(flavour: Flavour, depth: int = 3) -> st.SearchStrategy[str]:
    """WHERE clauses."""
    return _Expressions(flavour).condition(depth)


class _Expressions:
    def __init__(self, flavour: Flavour) -> None:
        self.flavour = flavour

    def condition(self, depth: int) -> st.SearchStrategy[str]:
        if depth == 0:
            return self.comparison(0)
        below = st.deferred(lambda: self.condition(depth - 1))
        grouped = below.map(lambda p: f"({p})")
        tests = ["IS NULL", "IS NOT NULL", "IS TRUE", "IS NOT TRUE", "IS FALSE", "IS NOT FALSE"]
        if self.flavour.is_postgres:
            tests += ["IS UNKNOWN", "IS NOT UNKNOWN"]
        return st.one_of(
            self.comparison(depth - 1),
            self.comparison(depth - 1),
            st.tuples(below, st.sampled_from(["AND", "OR"]), below).map(" ".join),
            grouped.map(lambda p: f"NOT {p}"),
            # Without parentheses NOT takes the first comparison only.
            below.map(lambda p: f"NOT {p}"),
            st.tuples(grouped, st.sampled_from(tests)).map(" ".join),
            st.tuples(grouped, st.sampled_from(["=", "<>"]), grouped).map(" ".join),
            grouped,
        )

    def comparison(self, depth: int) -> st.SearchStrategy[str]:
        number, text = self.number(depth), self.text(depth)
        relation = st.sampled_from(
            ["=", "<>", "!=", "<", "<=", ">", ">=", "IS DISTINCT FROM", "IS NOT DISTINCT FROM"]
        )
        negated = st.sampled_from(["", "NOT "])
        return st.one_of(
            st.tuples(number, relation, number).map(" ".join),
            st.tuples(text, relation, text).map(" ".join),
            st.tuples(st.just("n"), relation, BIG.map(str)).map(" ".join),
            st.tuples(number, negated, number, number).map(
                lambda p: f"{p[0]} {p[1]}BETWEEN {p[2]} AND {p[3]}"
            ),
            st.tuples(number, negated, st.lists(SMALL.map(str) | st.just("NULL"), min_size=1)).map(
                lambda p: f"{p[0]} {p[1]}IN ({', '.join(p[2])})"
            ),
            st.tuples(text, negated, st.lists(text, min_size=1, max_size=3)).map(
                lambda p: f"{p[0]} {p[1]}IN ({', '.join(p[2])})"
            ),
            self.likeness(text),
            st.tuples(st.one_of(number, text), st.sampled_from(["IS NULL", "IS NOT NULL"])).map(
                " ".join
            ),
            st.sampled_from(["f", "NOT f", "f = TRUE", "f <> FALSE", "f IS NOT TRUE", "f IS NULL"]),
            *self.postgres_only(number),
        )

    def postgres_only(self, number: st.SearchStrategy[str]) -> list[st.SearchStrategy[str]]:
        if not self.flavour.is_postgres:
            return []
        return [
            st.tuples(number, number, st.sampled_from(["TRUE", "NOT TRUE", "NULL", "UNKNOWN"])).map(
                lambda p: f"{p[0]} = {p[1]} IS {p[2]}"
            ),
            st.tuples(st.sampled_from(["s", "t"]), PATTERN.map(quoted)).map(" ILIKE ".join),
        ]

    def likeness(self, text: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        escaped = st.text(st.sampled_from("ab%_"), max_size=3).map(
            lambda body: quoted(body.replace("%", "!%")) + " ESCAPE '!'"
        )
        patterns = st.one_of(PATTERN.map(quoted), escaped)
        operator = st.sampled_from(["LIKE", "NOT LIKE"])
        return st.tuples(text, operator, patterns).map(" ".join)

    def number(self, depth: int) -> st.SearchStrategy[str]:
        leaf = st.one_of(
            st.sampled_from(["a", "b"]),
            SMALL.map(str),
            st.sampled_from(["x", "0.5", "-1.5", ".25"]),
        )
        return leaf if depth == 0 else st.one_of(leaf, self.integer(depth), self.real(depth))

    def integer(self, depth: int) -> st.SearchStrategy[str]:
        if depth == 0:
            return st.one_of(st.sampled_from(["a", "b"]), SMALL.map(str))
        below = st.deferred(lambda: self.integer(depth - 1))
        divisor = below if self.flavour.divides_by_anything else st.integers(1, 5).map(str)
        text = st.sampled_from(["s", "t", "'ab'"])
        return st.one_of(
            st.tuples(below, st.sampled_from("+-*"), below).map(lambda p: f"({' '.join(p)})"),
            st.tuples(st.sampled_from("ab"), st.sampled_from("+-*"), SMALL.map(str)).map(" ".join),
            st.tuples(below, st.sampled_from("/%"), divisor).map(lambda p: f"({' '.join(p)})"),
            below.map(lambda e: f"(-({e}))"),
            below.map(lambda e: f"ABS({e})"),
            text.map(lambda e: f"LENGTH({e})"),
            st.tuples(below, below).map(lambda p: f"COALESCE({p[0]}, {p[1]})"),
            st.tuples(below, below).map(lambda p: f"NULLIF({p[0]}, {p[1]})"),
            self.case(below, depth),
            st.tuples(below, SMALL, below, below).map(
                lambda p: f"CASE {p[0]} WHEN {p[1]} THEN {p[2]} ELSE {p[3]} END"
            ),
        )

    def case(self, value: st.SearchStrategy[str], depth: int) -> st.SearchStrategy[str]:
        condition = st.deferred(lambda: self.condition(depth - 1))
        return st.tuples(condition, value, st.one_of(st.none(), value)).map(
            lambda p: f"CASE WHEN {p[0]} THEN {p[1]}{f' ELSE {p[2]}' if p[2] else ''} END"
        )

    def real(self, depth: int) -> st.SearchStrategy[str]:
        if depth == 0:
            return st.just("x")
        # A double stands left, so that PostgreSQL computes in doubles, not in decimals.
        below = st.deferred(lambda: self.real(depth - 1))
        other = st.one_of(st.sampled_from(["a", "b", "0.5", "2", "1.25"]))
        return st.one_of(
            st.tuples(below, st.sampled_from("+-"), other).map(lambda p: f"({' '.join(p)})"),
            st.tuples(below, st.sampled_from("*/"), st.sampled_from(["0.5", "2", "4.0"])).map(
                lambda p: f"({' '.join(p)})"
            ),
        )

    def text(self, depth: int) -> st.SearchStrategy[str]:
        leaf = st.one_of(st.sampled_from(["s", "t"]), TEXT.map(quoted))
        if depth == 0:
            return leaf
        below = st.deferred(lambda: self.text(depth - 1))
        function = st.sampled_from(["LOWER", "UPPER", "TRIM", "LTRIM", "RTRIM"])
        trim = st.sampled_from(["TRIM", "LTRIM", "RTRIM"])
        return st.one_of(
            leaf,
            st.tuples(below, below).map(lambda p: f"({p[0]} || {p[1]})"),
            st.tuples(function, below).map(lambda p: f"{p[0]}({p[1]})"),
            st.tuples(trim, below).map(lambda p: f"{p[0]}({p[1]}, 'aB')"),
            st.tuples(below, st.integers(1, 4)).map(lambda p: f"SUBSTR({p[0]}, {p[1]})"),
            st.tuples(below, st.integers(1, 4), st.integers(0, 3)).map(
                lambda p: f"SUBSTR({p[0]}, {p[1]}, {p[2]})"
            ),
            st.tuples(below, below).map(lambda p: f"COALESCE({p[0]}, {p[1]})"),
            st.tuples(below, below).map(lambda p: f"NULLIF({p[0]}, {p[1]})"),
            self.case(below, depth),
        )
