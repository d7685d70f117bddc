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
