"""Conditions at work: bound to a subscriber, asked of rows, found in an index. No I/O.

    Select + table + identity + policy + params -> query.bind: Query(filter, projection)
    Filter: the normal form, compiled to a Python function when it is first asked
    access -> lookups -> index.FilterIndex: filters found by a row's values, and who sees a change
    Filter.hints (access): what a storage may know of a filter     cost: how dear it is to ask

Every text that means the same ends in the same filter, whoever sent it and with whatever
parameters, so that whoever holds filters can share them.
"""

from kalam_notify.filters.index import Delta, Explanation, FilterIndex, delta, deltas
from kalam_notify.filters.query import Filter, Projection, Query, bind, check_policy

__all__ = [
    "Delta",
    "Explanation",
    "Filter",
    "FilterIndex",
    "Projection",
    "Query",
    "bind",
    "check_policy",
    "delta",
    "deltas",
]
