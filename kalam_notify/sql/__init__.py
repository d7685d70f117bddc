"""SQL: a SELECT becomes a filter, a projection, and a place in an index. No I/O, no asyncio.

    text -> lexer -> tokens -> dialect (sqlglot) -> expressions, statement    parsing.parse: Select
    Select + table + identity + policy -> normal                              query.bind: Query
    Query.filter (compiler, values, like, instants), Query.projection         row by row
    access -> shelves, ranges                                                 index.FilterIndex

A text is parsed once whoever sends it; binding checks names, joins the table's policy and folds the
subscriber's identity in; the normal form makes filters that mean the same equal, so that whoever
holds them can share; the index finds the filters a row satisfies without asking them all.
docs/sql.md is the language for its users.
"""

from kalam_notify.sql.filters import Filter
from kalam_notify.sql.index import Explanation, FilterIndex
from kalam_notify.sql.parsing import Limits, Policy, Select, parse, parse_explain, parse_policy
from kalam_notify.sql.projection import Projection
from kalam_notify.sql.query import Query, bind, check_policy

__all__ = [
    "Explanation",
    "Filter",
    "FilterIndex",
    "Limits",
    "Policy",
    "Projection",
    "Query",
    "Select",
    "bind",
    "check_policy",
    "parse",
    "parse_explain",
    "parse_policy",
]
