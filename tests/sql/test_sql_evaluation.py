"""Whatever the expression and whatever JSON is in the row: the compiled form and the index agree
with the tree asked node by node, and nothing raises.
"""

from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sql_reference import evaluate

from kalam_notify.filters import Filter, FilterIndex
from kalam_notify.model.readings import parse_instant
from kalam_notify.sql.logic import truth
from kalam_notify.sql.normal import normalize
from kalam_notify.sql.tree import Call, Column, Constant, Expression, constant

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, 2, -1, 2**53 + 1, 2**64 - 1, -(2**63)]),
    st.sampled_from([0.0, 1.0, -0.0, 1.5, 1e308, 9007199254740992.0]),
    st.sampled_from(["", "a", "ab", "abc", "1", "%", "A\n", "2024-01-01", "2024-01-01T00:00Z"]),
)
JSON = st.one_of(SCALARS, SCALARS, st.sampled_from([[], [1, "a"], {}, {"k": "a"}, {"k": [True]}]))
ROWS = st.lists(st.dictionaries(st.sampled_from("abcd"), JSON, max_size=4), min_size=1, max_size=6)
CONSTANTS = st.one_of(
    SCALARS, SCALARS, st.sampled_from([parse_instant("2024-01-01"), parse_instant("2025-01-01")])
).map(constant)
COLUMN = st.sampled_from("abcd").map(Column)
PATTERN = st.sampled_from(["a%", "%", "ab", "_", "%a_", "a\n%", "", "!%", "ab%c%"]).map(constant)
LEAF = st.one_of(COLUMN, CONSTANTS)

BINARY = ["=", "<>", "<", "<=", ">", ">=", "distinct", "+", "-", "*", "/", "%", "||", "nullif"]
UNARY = ["neg", "abs", "lower", "upper", "length", "trim", "timestamp"]
TESTS = ["is null", "is true", "is false", "is unknown", "not"]


def call(op: str, *args: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    return st.tuples(*args).map(lambda found: Call(op, found))


def several(op: str, part: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    return st.lists(part, min_size=1, max_size=4).map(lambda found: Call(op, tuple(found)))


def grown(below: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    binary = st.tuples(st.sampled_from(BINARY), below, below).map(lambda p: Call(p[0], p[1:]))
    unary = st.tuples(st.sampled_from(UNARY + TESTS), below).map(lambda p: Call(p[0], p[1:]))
    members = st.lists(CONSTANTS, min_size=1, max_size=4)
    return st.one_of(
        binary,
        unary,
        # What an index can use has to come up often.
        st.tuples(st.sampled_from(BINARY[:6]), COLUMN, CONSTANTS).map(lambda p: Call(p[0], p[1:])),
        st.tuples(COLUMN, members).map(lambda p: Call("in", (p[0], *p[1]))),
        st.tuples(below, members).map(lambda p: Call("in", (p[0], *p[1]))),
        st.tuples(COLUMN, PATTERN).map(lambda p: Call("like", p)),
        st.tuples(below, PATTERN).map(lambda p: Call("like", (*p, constant("!")))),
        st.tuples(below, PATTERN).map(lambda p: Call("ilike", p)),
        call("like", below, below),
        call("->", below, st.sampled_from(["k", 0, -1]).map(constant)),
        call("->>", below, st.sampled_from(["k", 0]).map(constant)),
        call("substr", below, below, below),
        several("coalesce", below),
        call("case", below, below, below),
        call("case", below, below, below, below, below),
        several("and", below),
        several("or", below),
        several("and", below),
        several("or", below),
    )


EXPRESSIONS = st.recursive(LEAF, grown, max_leaves=12)
FOLDED_TWICE = Call("is unknown", (Call("is unknown", (Column("a"),)),))


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(expression=EXPRESSIONS, rows=ROWS)
@example(expression=FOLDED_TWICE, rows=[{"a": 1}])
def test_a_filter_is_true_where_the_tables_say_so(
    expression: Expression, rows: list[dict[str, Any]]
) -> None:
    plain, negated = normalize(expression), normalize(Call("not", (expression,)))
    for row in rows:
        expected = truth(evaluate(expression, row))
        assert Filter(plain).matches(row) is (expected is True)
        assert Filter(negated).matches(row) is (expected is False)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(expression=EXPRESSIONS)
def test_a_normal_form_is_its_own_normal_form(expression: Expression) -> None:
    once = normalize(expression)
    assert normalize(once) == once


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(expressions=st.lists(EXPRESSIONS, min_size=1, max_size=12), rows=ROWS, data=st.data())
def test_the_index_finds_what_asking_every_filter_finds(
    expressions: list[Expression], rows: list[dict[str, Any]], data: st.DataObject
) -> None:
    filters = [Filter(normalize(expression)) for expression in expressions]
    index: FilterIndex[int] = FilterIndex()
    for item, filter in enumerate(filters):
        index.add(filter, item)
    gone = data.draw(st.sets(st.sampled_from(range(len(filters)))))
    for item in gone:
        index.discard(filters[item], item)
    kept = [item for item in range(len(filters)) if item not in gone]
    for row in rows:
        found = index.matching(row)
        assert sorted(found) == [item for item in kept if filters[item].matches(row)]
    assert len(index) == len({filters[item].key for item in kept})


def test_a_constant_keeps_its_type() -> None:
    assert len({constant(value) for value in (1, 1.0, True, "1", None)}) == 5
    assert isinstance(constant(True), Constant)
