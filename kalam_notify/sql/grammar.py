"""Tokens -> expressions: a Pratt parser.

An operand is read, then operators as long as they bind tighter than what asked for the operand.
The order is PostgreSQL's, from loose to tight: OR, AND, NOT, IS, comparison, LIKE/IN/BETWEEN, `||`
and `->` and their like, + -, * / %, unary minus, `::`. Chains of one operator are loops, so only
what stands inside something else (a parenthesis, NOT, minus, CASE) takes a step down, and those are
counted: the recursion is bounded by MAX_DEPTH times the levels above.

Why our own, and by hand: the language is the product, so what is met and what would cure it have to
be said in its words; the nearest library with a strict tree costs 16-116 ms a query, this one a
microsecond or two a token.
"""

from collections.abc import Callable

from kalam_notify.sql.like import BadPattern, compile_like
from kalam_notify.sql.operands import (
    AND,
    CAST,
    COMPARE,
    IS,
    LIKE,
    OR,
    OTHER,
    PRODUCT,
    SUM,
    Operands,
)
from kalam_notify.sql.reader import MAX_DEPTH
from kalam_notify.sql.tree import Call, Constant, Expression, words

_POWER = {"OR": OR, "AND": AND, "IS": IS, "::": CAST}
_POWER |= dict.fromkeys(("=", "<>", "!=", "<", "<=", ">", ">="), COMPARE)
_POWER |= dict.fromkeys(("NOT", "IN", "BETWEEN", "LIKE", "ILIKE"), LIKE)
_POWER |= dict.fromkeys(("||", "->", "->>", "@>", "?"), OTHER)
_POWER |= {"+": SUM, "-": SUM, "*": PRODUCT, "/": PRODUCT, "%": PRODUCT}
# Operators whose value is never a condition.
_VALUES = words("+ - * / % neg || ->> array numeric integer double real text timestamp date time")
_VALUES |= words("uuid lower upper length abs trim ltrim rtrim substr")
_TESTS = {"NULL": "is null", "TRUE": "is true", "FALSE": "is false", "UNKNOWN": "is unknown"}


class Grammar(Operands):
    """Reads expressions out of tokens."""

    def expression(self, least: int = 0) -> Expression:
        """An expression of operators that bind tighter than `least`."""
        kinds, powers = self.kinds, _POWER
        left = self.operand()
        steps = 0
        while True:
            kind = kinds[self.at]
            power = powers.get(kind, 0)
            if power <= least:
                return left
            if power in (AND, OR):
                left = self.connective(kind, power, left)
            elif power >= OTHER and power != CAST:
                at = self.at
                self.at += 1
                left = self.call(kind, (left, self.expression(power)), at)
            elif power == COMPARE:
                left = self.comparison(left)
            else:
                left = _INFIXES[kind](self, left)
                steps += 1
                if steps > MAX_DEPTH:
                    self.refuse(f"nested too deeply: more than {MAX_DEPTH} {kind} in a row")

    def condition(self, least: int = 0) -> Expression:
        """An expression that can be TRUE or FALSE."""
        start = self.at
        return self.as_condition(self.expression(least), start)

    def as_condition(self, found: Expression, start: int) -> Expression:
        if found.__class__ is Constant:
            wrong = found.kind not in ("bool", "null")
        else:
            wrong = found.__class__ is Call and found.op in _VALUES
        if wrong:
            met = self.written[start][:40]
            self.refuse(
                f"{met!r} begins a value, not a condition; compare it with something", start
            )
        return found

    def connective(self, kind: str, power: int, left: Expression) -> Expression:
        at = self.at
        operands = [self.as_condition(left, at - 1)]
        while self.kinds[self.at] == kind:
            self.at += 1
            operands.append(self.condition(power))
        return self.call(kind.lower(), tuple(operands), at)

    def comparison(self, left: Expression) -> Expression:
        """A comparison; after `=` and `<>` ANY or ALL may stand in the place of the right side."""
        at = self.at
        kind = self.kinds[at]
        if kind == "!=":
            kind = "<>"
        self.at += 1
        after = self.kinds[self.at]
        if after != "ANY" and after != "ALL":
            return self.call(kind, (left, self.expression(COMPARE)), at)
        if (kind, after) not in (("=", "ANY"), ("<>", "ALL")):
            self.unexpected("a value here: only = ANY(...) and <> ALL(...) are understood")
        self.at += 1
        found = self.quantified(left, at)
        return found if after == "ANY" else self.call("not", (found,), at)

    def quantified(self, left: Expression, at: int) -> Call:
        self.take("(", "( after ANY: x = ANY($1)")
        self.deeper()
        if self.skip("ARRAY"):
            found = self.call("in", (left, *self.members("[", "]")), at)
        else:
            found = self.call("any", (left, self.expression()), at)
        self.take(")", ") after ANY(...")
        self.depth -= 1
        return found

    def test(self, left: Expression) -> Expression:
        """IS [NOT] NULL, TRUE, FALSE, UNKNOWN, DISTINCT FROM."""
        at = self.at
        self.at += 1
        negated = self.skip("NOT")
        if self.skip("DISTINCT"):
            self.take("FROM", "FROM: a IS DISTINCT FROM b")
            found = self.call("distinct", (left, self.expression(COMPARE)), at)
        else:
            is_word = self.kinds[self.at] != "quoted"
            op = _TESTS.get(self.text(self.at).upper()) if is_word else None
            if op is None:
                wanted = "NULL, TRUE, FALSE, UNKNOWN or DISTINCT FROM after IS"
                self.unexpected(f"{wanted} (use = for values)")
            self.at += 1
            operand = left if op == "is null" else self.as_condition(left, at - 1)
            found = self.call(op, (operand,), at)
        return self.call("not", (found,), at) if negated else found

    def likeness(self, left: Expression) -> Expression:
        """[NOT] IN, BETWEEN, LIKE, ILIKE."""
        at = self.at
        negated = self.skip("NOT")
        kind = self.kinds[self.at]
        self.at += 1
        if kind == "IN":
            if self.kinds[self.at] != "(":
                self.unexpected("a list of values in parentheses after IN, or = ANY($1)")
            found = self.call("in", (left, *self.members("(", ")")), at)
        elif kind == "BETWEEN":
            found = self.between(left, at)
        elif kind == "LIKE" or kind == "ILIKE":
            found = self.pattern(kind.lower(), left, at)
        else:
            self.at -= 1
            self.unexpected("IN, BETWEEN or LIKE after NOT (IS is missing before NOT NULL)")
        return self.call("not", (found,), at) if negated else found

    def between(self, left: Expression, at: int) -> Call:
        self.repeats = True
        low = self.expression(LIKE)
        self.take("AND", "AND: a BETWEEN low AND high (AND is missing)")
        lower = self.call(">=", (left, low), at)
        upper = self.call("<=", (left, self.expression(LIKE)), at)
        return self.call("and", (lower, upper), at)

    def pattern(self, op: str, left: Expression, at: int) -> Call:
        args: tuple[Expression, ...] = (left, self.expression(LIKE))
        if self.skip("ESCAPE"):
            if self.kinds[self.at] != "string" or len(self.text(self.at)) != 1:
                self.unexpected("one character after ESCAPE: LIKE '10!%' ESCAPE '!'")
            args = (*args, self.string())
            self.terms -= 1
        pattern, *escape = (arg.value if isinstance(arg, Constant) else None for arg in args[1:])
        if isinstance(pattern, str) and (escape or "_" in pattern):
            try:
                compile_like(pattern, *(escape or [None]), fold_case=False)
            except BadPattern as error:
                self.refuse(f"LIKE pattern: {error}", at)
        return self.call(op, args, at)

    def conversion(self, left: Expression) -> Expression:
        at = self.at
        self.at += 1
        return self.cast_to(left, at)


_INFIXES: dict[str, Callable[[Grammar, Expression], Expression]] = {
    "IS": Grammar.test,
    "::": Grammar.conversion,
    **dict.fromkeys(("NOT", "IN", "BETWEEN", "LIKE", "ILIKE"), Grammar.likeness),
}
