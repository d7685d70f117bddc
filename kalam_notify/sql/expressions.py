"""sqlglot's expressions -> ours (`tree`), each node with what it takes."""

from collections.abc import Callable, Sequence
from typing import Any

from sqlglot import exp
from sqlglot.tokenizer_core import TokenType

from kalam_notify.sql.dialect import Arrow, TextArrow
from kalam_notify.sql.instants import parse_instant
from kalam_notify.sql.ledger import Ledger, described
from kalam_notify.sql.like import BadPattern, compile_like
from kalam_notify.sql.tokens import PLAIN, UNKNOWN
from kalam_notify.sql.tree import Call, Constant, Expression, constant
from kalam_notify.sql.vocabulary import FUNCTIONS

_BINARY: dict[type[Any], tuple[str, TokenType]] = {
    exp.EQ: ("=", TokenType.EQ),
    exp.NEQ: ("<>", TokenType.NEQ),
    exp.LT: ("<", TokenType.LT),
    exp.LTE: ("<=", TokenType.LTE),
    exp.GT: (">", TokenType.GT),
    exp.GTE: (">=", TokenType.GTE),
    exp.Add: ("+", TokenType.PLUS),
    exp.Sub: ("-", TokenType.DASH),
    exp.Mul: ("*", TokenType.STAR),
    exp.Div: ("/", TokenType.SLASH),
    exp.Mod: ("%", TokenType.MOD),
    exp.DPipe: ("||", TokenType.DPIPE),
    Arrow: ("->", TokenType.ARROW),
    TextArrow: ("->>", TokenType.DARROW),
}
_NEVER_BOOLEAN = frozenset(
    (
        *("+", "-", "*", "/", "%", "neg", "abs", "||", "->>", "timestamp", "current_user"),
        *("lower", "upper", "length", "trim", "ltrim", "rtrim", "substr"),
    )
)


class ExpressionReader:
    """Reads expressions into one ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def expression(self, node: Any) -> Expression:
        """Our tree for a node of sqlglot's."""
        kind = type(node)
        if kind in _BINARY:
            op, token = _BINARY[kind]
            self.ledger.spend(token)
            return Call(op, (*self._two(node),))
        read = _READERS.get(kind)
        if read is None:
            self.ledger.refuse(node, f"{described(node)} is not supported")
        return read(self, node)

    def condition(self, node: Any) -> Expression:
        """A node in a place where only TRUE, FALSE or UNKNOWN makes sense."""
        expression = self.expression(node)
        if isinstance(expression, Constant) and expression.kind not in ("bool", "null"):
            self.ledger.refuse(
                node, f"{expression.value!r} is not a condition; compare it with something"
            )
        if isinstance(expression, Call) and expression.op in _NEVER_BOOLEAN:
            self.ledger.refuse(node, "this is not a condition; compare it with something")
        return expression

    def _two(self, node: Any) -> tuple[Expression, Expression]:
        arguments = self.ledger.arguments(node, "this", "expression")
        if len(arguments) != 2:
            self.ledger.refuse(node, f"{described(node)} lacks an operand")
        return self.expression(arguments["this"]), self.expression(arguments["expression"])

    def paren(self, node: Any) -> Expression:
        return self.expression(self.ledger.arguments(node, "this")["this"])

    def connective(self, node: Any) -> Expression:
        """AND and OR: a chain of n operands is one call, however deep sqlglot nests it."""
        kind = type(node)
        operands: list[Expression] = []
        while type(node) is kind:
            arguments = self.ledger.arguments(node, "this", "expression")
            operands.append(self.condition(arguments["expression"]))
            self.ledger.spend(TokenType.AND if kind is exp.And else TokenType.OR)
            node = arguments["this"]
        operands.append(self.condition(node))
        return Call("and" if kind is exp.And else "or", tuple(reversed(operands)))

    def negation(self, node: Any) -> Expression:
        self.ledger.spend(TokenType.NOT)
        return Call("not", (self.condition(self.ledger.arguments(node, "this")["this"]),))

    def minus(self, node: Any) -> Expression:
        self.ledger.spend(TokenType.DASH)
        return Call("neg", (self.expression(self.ledger.arguments(node, "this")["this"]),))

    def literal(self, node: Any) -> Expression:
        text = node.name
        if node.args.get("is_string"):
            self.ledger.spend(TokenType.STRING)
            return constant(text)
        self.ledger.spend(TokenType.NUMBER)
        if text.isdigit():
            return constant(int(text))
        value = float(text)
        if value in (float("inf"), float("-inf")):
            self.ledger.refuse(node, f"the number {text[:40]} is beyond the range of a double")
        return constant(value)

    def boolean(self, node: Any) -> Expression:
        value = bool(node.this)
        self.ledger.spend(TokenType.TRUE if value else TokenType.FALSE)
        return constant(value)

    def null(self, node: Any) -> Expression:
        self.ledger.spend(TokenType.NULL)
        return constant(None)

    def column(self, node: Any) -> Expression:
        if node.name == UNKNOWN:
            self.ledger.refuse(node, "UNKNOWN stands after IS only")
        return self.ledger.name(node, node.name)

    def test(self, node: Any) -> Expression:
        """IS [NOT] NULL, TRUE, FALSE, UNKNOWN."""
        arguments = self.ledger.arguments(node, "this", "expression", "negate")
        self.ledger.spend(TokenType.IS)
        op = self._tested(arguments["expression"])
        read = self.expression if op == "is null" else self.condition
        call = Call(op, (read(arguments["this"]),))
        if "negate" in arguments:
            self.ledger.spend(TokenType.NOT)
            return Call("not", (call,))
        return call

    def _tested(self, node: Any) -> str:
        if isinstance(node, exp.Null):
            self.ledger.spend(TokenType.NULL)
            return "is null"
        if isinstance(node, exp.Boolean):
            self.boolean(node)
            return "is true" if node.this else "is false"
        if not isinstance(node, exp.Column) or node.name != UNKNOWN:
            cure = "IS takes NULL, TRUE, FALSE, UNKNOWN or DISTINCT FROM; use = for values"
            self.ledger.refuse(node, cure)
        self.ledger.spend(TokenType.IDENTIFIER)
        return "is unknown"

    def distinct(self, node: Any) -> Expression:
        self.ledger.spend(TokenType.IS, TokenType.DISTINCT, TokenType.FROM)
        call = Call("distinct", self._two(node))
        if isinstance(node, exp.NullSafeEQ):
            self.ledger.spend(TokenType.NOT)
            return Call("not", (call,))
        return call

    def between(self, node: Any) -> Expression:
        arguments = self.ledger.arguments(node, "this", "low", "high")
        self.ledger.spend(TokenType.BETWEEN, TokenType.AND)
        if len(arguments) != 3:
            self.ledger.refuse(node, "BETWEEN takes two bounds: a BETWEEN low AND high")
        this = self.expression(arguments["this"])
        low, high = self.expression(arguments["low"]), self.expression(arguments["high"])
        return Call("and", (Call(">=", (this, low)), Call("<=", (this, high))))

    def membership(self, node: Any) -> Expression:
        if not node.args.get("expressions") or node.args.get("field"):
            self.ledger.refuse(node, "IN takes a list of values: a IN (1, 2)")
        arguments = self.ledger.arguments(node, "this", "expressions")
        values = arguments["expressions"]
        self.ledger.spend(TokenType.IN, *[TokenType.COMMA] * (len(values) - 1))
        this = self.expression(arguments["this"])
        members = [self.expression(value) for value in values]
        plain = [member for member in members if isinstance(member, Constant)]
        others = [Call("=", (this, member)) for member in members if member not in plain]
        if not others:
            return Call("in", (this, *plain))
        return (
            Call("or", (*others, Call("in", (this, *plain)))) if plain else Call("or", (*others,))
        )

    def like(self, node: Any) -> Expression:
        """LIKE and ILIKE, with or without ESCAPE around them."""
        escape: tuple[Expression, ...] = ()
        if isinstance(node, exp.Escape):
            self.ledger.spend(TokenType.ESCAPE)
            arguments = self.ledger.arguments(node, "this", "expression")
            escape = (self._escape(arguments.get("expression")),)
            node = arguments["this"]
        if not isinstance(node, (exp.Like, exp.ILike)):
            self.ledger.refuse(node, "ESCAPE stands after a LIKE pattern only")
        arguments = self.ledger.arguments(node, "this", "expression", "negate")
        sensitive = isinstance(node, exp.Like)
        self.ledger.spend(TokenType.LIKE if sensitive else TokenType.ILIKE)
        operands = (self.expression(arguments["this"]), self.expression(arguments["expression"]))
        self._check_pattern(node, operands[1], escape)
        call = Call("like" if sensitive else "ilike", operands + escape)
        if "negate" in arguments:
            self.ledger.spend(TokenType.NOT)
            return Call("not", (call,))
        return call

    def _escape(self, node: Any) -> Expression:
        if not isinstance(node, exp.Literal) or not node.is_string or len(node.name) != 1:
            self.ledger.refuse(node, "ESCAPE takes one character: LIKE '10!%' ESCAPE '!'")
        return self.literal(node)

    def _check_pattern(self, node: Any, pattern: Expression, escape: Sequence[Expression]) -> None:
        if not isinstance(pattern, Constant) or pattern.kind != "text":
            return
        sign = escape[0].value if escape and isinstance(escape[0], Constant) else None
        try:
            compile_like(pattern.value, sign, fold_case=False)
        except BadPattern as error:
            self.ledger.refuse(node, f"LIKE pattern: {error}")

    def case(self, node: Any) -> Expression:
        """Both forms of CASE; `CASE a WHEN b` compares a = b."""
        arguments = self.ledger.arguments(node, "this", "ifs", "default")
        branches = arguments.get("ifs", [])
        self.ledger.spend(TokenType.CASE, TokenType.END)
        subject = self.expression(arguments["this"]) if "this" in arguments else None
        parts: list[Expression] = []
        for branch in branches:
            when = self.ledger.arguments(branch, "this", "true")
            self.ledger.spend(TokenType.WHEN, TokenType.THEN)
            if len(when) != 2:
                self.ledger.refuse(node, "CASE lacks a part: CASE WHEN condition THEN value END")
            if subject is None:
                parts.append(self.condition(when["this"]))
            else:
                parts.append(Call("=", (subject, self.expression(when["this"]))))
            parts.append(self.expression(when["true"]))
        if not parts:
            self.ledger.refuse(node, "CASE without WHEN")
        if "default" in arguments:
            self.ledger.spend(TokenType.ELSE)
            parts.append(self.expression(arguments["default"]))
        else:
            parts.append(constant(None))
        return Call("case", tuple(parts))

    def cast(self, node: Any) -> Expression:
        arguments = self.ledger.arguments(node, "this", "to")
        self.ledger.spend(TokenType.VAR, TokenType.ALIAS)
        zoned = arguments["to"].is_type("timestamptz")
        self.ledger.spend(TokenType.TIMESTAMPTZ if zoned else TokenType.TIMESTAMP)
        return Call("timestamp", (self.expression(arguments["this"]),))

    def function(self, node: Any) -> Expression:
        """A call of one of FUNCTIONS, CURRENT_USER, or a TIMESTAMP literal."""
        name = node.name.removeprefix(PLAIN)
        arguments = self.ledger.arguments(node, "this", "expressions").get("expressions", [])
        self.ledger.spend(TokenType.VAR, *[TokenType.COMMA] * (len(arguments) - 1))
        values = tuple(self.expression(argument) for argument in arguments)
        if name == "CURRENT_USER":
            return Call("current_user", ())
        if name in ("TIMESTAMP", "TIMESTAMPTZ", "DATE"):
            return self._timestamp(node, name, values)
        self._check_arity(node, name, len(values))
        if name == "CLAIM":
            self._check_claim(node, values)
        return Call("substr" if name == "SUBSTRING" else name.lower(), values)

    def _timestamp(self, node: Any, name: str, values: tuple[Expression, ...]) -> Expression:
        text = getattr(values[0], "value", None)
        instant = parse_instant(text) if isinstance(text, str) else None
        if instant is None:
            self.ledger.refuse(
                node, f"{text!r} is no {name}; write ISO 8601: '2024-05-01T12:00:00Z'"
            )
        return constant(instant)

    def _check_arity(self, node: Any, name: str, count: int) -> None:
        if name not in FUNCTIONS:
            self.ledger.refuse(node, f"unknown function {name}")
        fewest, most = FUNCTIONS[name]
        if count < fewest or (most is not None and count > most):
            wanted = str(fewest) if most == fewest else f"{fewest} to {most or 'any number'}"
            self.ledger.refuse(node, f"{name} with {count} arguments; it takes {wanted}")

    def _check_claim(self, node: Any, values: tuple[Expression, ...]) -> None:
        if not isinstance(getattr(values[0], "value", None), str):
            self.ledger.refuse(node, "CLAIM takes the claim's name as a string: CLAIM('tenant')")


_READERS: dict[type[Any], Callable[[ExpressionReader, Any], Expression]] = {
    exp.And: ExpressionReader.connective,
    exp.Or: ExpressionReader.connective,
    exp.Not: ExpressionReader.negation,
    exp.Paren: ExpressionReader.paren,
    exp.Neg: ExpressionReader.minus,
    exp.Literal: ExpressionReader.literal,
    exp.Boolean: ExpressionReader.boolean,
    exp.Null: ExpressionReader.null,
    exp.Column: ExpressionReader.column,
    exp.Is: ExpressionReader.test,
    exp.NullSafeEQ: ExpressionReader.distinct,
    exp.NullSafeNEQ: ExpressionReader.distinct,
    exp.Between: ExpressionReader.between,
    exp.In: ExpressionReader.membership,
    exp.Like: ExpressionReader.like,
    exp.ILike: ExpressionReader.like,
    exp.Escape: ExpressionReader.like,
    exp.Case: ExpressionReader.case,
    exp.Cast: ExpressionReader.cast,
    exp.Anonymous: ExpressionReader.function,
}
