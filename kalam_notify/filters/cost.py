"""What an evaluation of a filter costs at most, told from its form alone.

The unit is a comparison with a constant. A LIKE goes through a text for each of its pieces, a cast
reads one, a list is looked up; whoever delivers may keep dear filters away from cheap ones by this.
"""

from kalam_notify.sql.normal import postorder
from kalam_notify.sql.tree import Call, Constant, Expression

_COSTS = dict.fromkeys(("and", "or", "not"), 0) | {
    "like": 5,
    "ilike": 20,
    "@>": 20,
    "any": 10,
    "in": 2,
    "lower": 5,
    "upper": 5,
    "||": 5,
    "timestamp": 15,
    "date": 15,
    "numeric": 5,
}
_WILD = 10


def cost_of(predicate: Expression) -> int:
    """The cost of one evaluation, in comparisons."""
    return sum(_cost(call) for call in postorder(predicate)) or 1


def _cost(call: Call) -> int:
    cost = _COSTS.get(call.op, 1)
    if call.op in ("like", "ilike") and isinstance(call.args[1], Constant):
        pattern = str(call.args[1].value)
        # An anchored beginning alone is one comparison; every further piece is looked for.
        pieces = pattern.count("%") + pattern.count("_")
        cost += _WILD * max(pieces - (1 if pattern.endswith("%") else 0), 0)
    return cost
