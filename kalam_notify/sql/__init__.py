"""The language: text becomes a tree with places, and a bound tree its normal form. No I/O.

    text -> lexer: tokens -> grammar: expressions -> parsing: Select, Policy
    Select + table + identity + parameters -> binding -> normal            (by filters.query.bind)
    operators, casts, containment, like, logic: what each operator makes of values
    words: what is said of that which is not of the language

A text is parsed once whoever sends it. docs/sql.md is the language for its users.
"""

from kalam_notify.sql.parsing import Limits, Policy, Select, parse, parse_explain, parse_policy
from kalam_notify.sql.words import nearest

__all__ = ["Limits", "Policy", "Select", "nearest", "parse", "parse_explain", "parse_policy"]
