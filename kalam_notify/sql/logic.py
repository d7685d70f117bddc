"""SQL's three-valued logic: TRUE, FALSE and UNKNOWN, which Python spells True, False and None.

These tables are what the whole language means by AND, OR and NOT. The compiled form of a filter
(`compiler`) never looks anything up here: it asks of every predicate only "is it TRUE?" or "is it
FALSE?", and those two questions descend through the tables like this:

    TRUE(p AND q)  = TRUE(p) and TRUE(q)        FALSE(p AND q) = FALSE(p) or FALSE(q)
    TRUE(p OR q)   = TRUE(p) or TRUE(q)         FALSE(p OR q)  = FALSE(p) and FALSE(q)
    TRUE(NOT p)    = FALSE(p)                   FALSE(NOT p)   = TRUE(p)

so that ordinary two-valued, short-circuiting Python is exact.
"""

from collections.abc import Iterable

Truth = bool | None


def not_(p: Truth) -> Truth:
    """NOT: UNKNOWN stays UNKNOWN."""
    return None if p is None else not p


def and_(operands: Iterable[Truth]) -> Truth:
    """AND: one FALSE decides, else one UNKNOWN."""
    result: Truth = True
    for p in operands:
        if p is False:
            return False
        if p is None:
            result = None
    return result


def or_(operands: Iterable[Truth]) -> Truth:
    """OR: one TRUE decides, else one UNKNOWN."""
    result: Truth = False
    for p in operands:
        if p is True:
            return True
        if p is None:
            result = None
    return result


def truth(value: object) -> Truth:
    """A value taken as a condition: JSON true and false, everything else is UNKNOWN."""
    return value if value is True or value is False else None
