"""Tokens -> sqlglot's tree -> our tree: the second of two gates a query passes.

sqlglot decides what binds to what. It is a parser for some thirty dialects and forgives much, so
its tree is not believed but checked twice: only the node types below are understood, each with
only the arguments named here; and every token but the parentheses has to be accounted for by a
node of the result (`_spend`), so that nothing the client wrote can have been dropped on the way
(`a BETWEEN 1 2`, a trailing comma, a clause given twice).

The dialect is PostgreSQL's in what binds tighter, from loose to tight: OR, AND, NOT, IS,
comparison, LIKE/IN/BETWEEN, `||` and `->`, + -, * / %, unary minus.
"""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple, NoReturn

from sqlglot import exp
from sqlglot.dialects.postgres import Postgres
from sqlglot.errors import ParseError
from sqlglot.parsers.postgres import PostgresParser
from sqlglot.tokenizer_core import Token, TokenType

from kalam_notify.sql.instants import parse_instant
from kalam_notify.sql.lexer import Source
from kalam_notify.sql.like import BadPattern, compile_like
from kalam_notify.sql.tokens import PLAIN, UNKNOWN
from kalam_notify.sql.tree import Call, Constant, Expression, Name, constant
from kalam_notify.sql.vocabulary import FUNCTIONS

# sqlglot recurs some 25 frames per parenthesis; tokens.MAX_DEPTH of them must fit, whatever is
# on the stack already. (Python's own default leaves room for 40.)
sys.setrecursionlimit(max(sys.getrecursionlimit(), 5000))


class _Arrow(exp.Expression, exp.Binary):
    """`->`"""


class _TextArrow(exp.Expression, exp.Binary):
    """`->>`"""


def _arrow(node: type[exp.Expression]) -> Callable[[Any, Any, Any], Any]:
    # sqlglot would read the key as a JSON path ('a.b' as two steps); it is one name.
    return lambda parser, this, key: parser.expression(node(this=this, expression=key))


class LiveQueries(Postgres):
    """PostgreSQL's precedences without the parts that give plain tokens a second meaning."""

    class Parser(PostgresParser):
        # COALESCE(a -> 'b', c) holds no lambda.
        LAMBDAS: ClassVar[dict[TokenType, Any]] = {}
        JSON_OPERATORS: ClassVar[dict[TokenType, Any]] = {
            TokenType.ARROW: _arrow(_Arrow),
            TokenType.DARROW: _arrow(_TextArrow),
        }


_DIALECT = LiveQueries()


class Statement(NamedTuple):
    """A SELECT as written; `columns` None stands for `*`, `offset` of a table is its place."""

    columns: tuple[Name, ...] | None
    table: str
    table_offset: int
    qualifiers: frozenset[tuple[str, ...]]
    where: Expression | None


def read_statement(source: Source, tokens: list[Token]) -> Statement:
    """The SELECT that the tokens spell. Raises SqlRefused."""
    _check_outline(source, tokens)
    if tokens[-1].token_type is TokenType.SEMICOLON:
        tokens = tokens[:-1]
    trees = _parse(source, lambda: _DIALECT.parser().parse(tokens, source.text))
    reader = _Reader(source, tokens)
    if len(trees) != 1 or not isinstance(trees[0], exp.Select):
        source.refuse("not one SELECT", 0)
    statement = reader.statement(trees[0])
    reader.close()
    return statement


def read_condition(source: Source, tokens: list[Token]) -> Expression:
    """The expression that the tokens spell, as it could stand after WHERE. Raises SqlRefused."""
    if not tokens:
        source.refuse("an empty condition", 0)
    trees = _parse(source, lambda: _DIALECT.parser().parse_into(exp.Condition, tokens, source.text))
    if len(trees) != 1:
        source.refuse("not one condition", 0)
    reader = _Reader(source, tokens)
    expression = reader.condition(trees[0])
    reader.close()
    return expression


def _parse(source: Source, parse: Callable[[], Sequence[Any]]) -> Sequence[Any]:
    try:
        return parse()
    except ParseError as error:
        detail = error.errors[0] if error.errors else {}
        offset = min(detail.get("col") or 0, max(len(source.text) - 1, 0))
        what = detail.get("description") or "cannot be read"
        met = source.text[offset : offset + 20].split()
        near = f" near {met[0]!r}" if met else ""
        source.refuse(f"syntax error{near}: {what}", offset)
    except RecursionError:
        source.refuse("nested too deeply", 0)


def _check_outline(source: Source, tokens: list[Token]) -> None:
    """SELECT first, then FROM, then WHERE, each once and outside of parentheses."""
    if not tokens:
        source.refuse("an empty query; write SELECT * FROM namespace.table", 0)
    if tokens[0].token_type is not TokenType.SELECT:
        source.refuse(f"expected SELECT, met {tokens[0].text[:40]!r}", tokens[0].start)
    due = [TokenType.FROM, TokenType.WHERE]
    for before, token in pairwise(tokens):
        kind = token.token_type
        if kind is TokenType.SELECT:
            source.refuse("a second SELECT; subqueries and unions are not supported", token.start)
        if kind is TokenType.SEMICOLON and token is not tokens[-1]:
            source.refuse("more than one statement; send one SELECT", token.start)
        if kind is TokenType.DISTINCT and before.token_type not in (TokenType.IS, TokenType.NOT):
            source.refuse("unexpected DISTINCT; every change is delivered", token.start)
        if kind is TokenType.FROM and before.token_type is TokenType.DISTINCT:
            continue
        if kind in (TokenType.FROM, TokenType.WHERE):
            if kind not in due:
                source.refuse(f"unexpected {token.text.upper()}", token.start)
            due = due[due.index(kind) + 1 :]
        if kind is TokenType.COMMA and TokenType.WHERE in due and TokenType.FROM not in due:
            source.refuse("a live query reads one table", token.start)
    if TokenType.FROM in due:
        source.refuse("FROM is missing; write SELECT * FROM namespace.table", len(source.text))


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
    _Arrow: ("->", TokenType.ARROW),
    _TextArrow: ("->>", TokenType.DARROW),
}
_NEVER_BOOLEAN = frozenset(
    (
        *("+", "-", "*", "/", "%", "neg", "abs", "||", "->>", "timestamp", "current_user"),
        *("lower", "upper", "length", "trim", "ltrim", "rtrim", "substr"),
    )
)
# Arguments that sqlglot sets on its own account; they repeat the dialect, not the text.
_NOISE = frozenset(("typed", "safe", "_type"))


class _Reader:
    """One walk over sqlglot's tree, with a ledger of the tokens it accounts for."""

    def __init__(self, source: Source, tokens: list[Token]) -> None:
        self.source = source
        self.ledger = Counter(token.token_type for token in tokens)
        for kind in (TokenType.L_PAREN, TokenType.R_PAREN):
            self.ledger.pop(kind, None)
        self.tokens = tokens

    def close(self) -> None:
        """Refuse the query if a token has not been accounted for, or one too often."""
        for kind, count in self.ledger.items():
            if count:
                token = next((token for token in self.tokens if token.token_type is kind), None)
                offset = 0 if token is None else token.start
                met = kind.name if token is None else token.text[:40]
                self.source.refuse(f"{met!r} is out of place", offset)

    def statement(self, node: exp.Select) -> Statement:
        arguments = self._arguments(node, "expressions", "from_", "where")
        self._spend(TokenType.SELECT, TokenType.FROM)
        columns = self._columns(arguments["expressions"])
        table, offset, qualifiers = self._table(arguments["from_"])
        where = None
        if "where" in arguments:
            self._spend(TokenType.WHERE)
            where = self.condition(self._arguments(arguments["where"], "this")["this"])
        return Statement(columns, table, offset, qualifiers, where)

    def _columns(self, nodes: list[Any]) -> tuple[Name, ...] | None:
        self._spend(*[TokenType.COMMA] * (len(nodes) - 1))
        if any(node.is_star for node in nodes):
            if len(nodes) > 1:
                self._refuse(nodes[1], "* already stands for every column; write * or names")
            self._star(nodes[0])
            return None
        return tuple(self._listed(node) for node in nodes)

    def _star(self, node: Any) -> None:
        self._spend(TokenType.STAR)
        if isinstance(node, exp.Column):
            name = self._name(node, "*")
            if name.qualifier:
                # A star has no name of its own among the tokens.
                self.ledger[TokenType.IDENTIFIER] += 1
        elif not isinstance(node, exp.Star) or any(node.args.values()):
            self._refuse(node, "only * or columns can be selected")

    def _listed(self, node: Any) -> Name:
        if isinstance(node, exp.Alias):
            self._refuse(node, "columns keep their own names; leave the alias out")
        if not isinstance(node, exp.Column):
            self._refuse(node, "an expression in the list; only * or columns can be selected")
        return self._name(node, node.name)

    def _table(self, clause: Any) -> tuple[str, int, frozenset[tuple[str, ...]]]:
        node = self._arguments(clause, "this")["this"]
        if not isinstance(node, exp.Table):
            self._refuse(node, "expected a table: FROM namespace.table")
        arguments = self._arguments(node, "this", "db", "alias")
        if not isinstance(node.this, exp.Identifier) or "db" not in arguments:
            self._refuse(node, "expected a table with its namespace: FROM namespace.table")
        self._spend(TokenType.IDENTIFIER, TokenType.IDENTIFIER, TokenType.DOT)
        namespace, table = node.db.lower(), node.name.lower()
        qualifiers = frozenset(((table,), (namespace, table)))
        if "alias" in arguments:
            alias = self._arguments(arguments["alias"], "this")["this"]
            self._spend(TokenType.IDENTIFIER)
            if self.ledger[TokenType.ALIAS] and self._alias_is_marked():
                self._spend(TokenType.ALIAS)
            qualifiers = frozenset(((alias.name,),))
        return f"{namespace}.{table}", self._offset(node), qualifiers

    def _alias_is_marked(self) -> bool:
        kinds = [token.token_type for token in self.tokens]
        start = kinds.index(TokenType.FROM)
        end = kinds.index(TokenType.WHERE) if TokenType.WHERE in kinds else len(kinds)
        return TokenType.ALIAS in kinds[start:end]

    def expression(self, node: Any) -> Expression:
        """Our tree for a node of sqlglot's."""
        kind = type(node)
        if kind in _BINARY:
            op, token = _BINARY[kind]
            self._spend(token)
            return Call(op, (*self._two(node),))
        read = _READERS.get(kind)
        if read is None:
            self._refuse(node, f"{_describe(node)} is not supported")
        return read(self, node)

    def condition(self, node: Any) -> Expression:
        """A node in a place where only TRUE, FALSE or UNKNOWN makes sense."""
        expression = self.expression(node)
        if isinstance(expression, Constant) and expression.kind not in ("bool", "null"):
            self._refuse(
                node, f"{expression.value!r} is not a condition; compare it with something"
            )
        if isinstance(expression, Call) and expression.op in _NEVER_BOOLEAN:
            self._refuse(node, "this is not a condition; compare it with something")
        return expression

    def _two(self, node: Any) -> tuple[Expression, Expression]:
        arguments = self._arguments(node, "this", "expression")
        if len(arguments) != 2:
            self._refuse(node, f"{_describe(node)} lacks an operand")
        return self.expression(arguments["this"]), self.expression(arguments["expression"])

    def paren(self, node: Any) -> Expression:
        return self.expression(self._arguments(node, "this")["this"])

    def connective(self, node: Any) -> Expression:
        """AND and OR: a chain of n operands is one call, however deep sqlglot nests it."""
        kind = type(node)
        operands: list[Expression] = []
        while type(node) is kind:
            arguments = self._arguments(node, "this", "expression")
            operands.append(self.condition(arguments["expression"]))
            self._spend(TokenType.AND if kind is exp.And else TokenType.OR)
            node = arguments["this"]
        operands.append(self.condition(node))
        return Call("and" if kind is exp.And else "or", tuple(reversed(operands)))

    def negation(self, node: Any) -> Expression:
        self._spend(TokenType.NOT)
        return Call("not", (self.condition(self._arguments(node, "this")["this"]),))

    def minus(self, node: Any) -> Expression:
        self._spend(TokenType.DASH)
        return Call("neg", (self.expression(self._arguments(node, "this")["this"]),))

    def literal(self, node: Any) -> Expression:
        text = node.name
        if node.args.get("is_string"):
            self._spend(TokenType.STRING)
            return constant(text)
        self._spend(TokenType.NUMBER)
        if text.isdigit():
            return constant(int(text))
        value = float(text)
        if value in (float("inf"), float("-inf")):
            self._refuse(node, f"the number {text[:40]} is beyond the range of a double")
        return constant(value)

    def boolean(self, node: Any) -> Expression:
        value = bool(node.this)
        self._spend(TokenType.TRUE if value else TokenType.FALSE)
        return constant(value)

    def null(self, node: Any) -> Expression:
        self._spend(TokenType.NULL)
        return constant(None)

    def column(self, node: Any) -> Expression:
        if node.name == UNKNOWN:
            self._refuse(node, "UNKNOWN stands after IS only")
        return self._name(node, node.name)

    def test(self, node: Any) -> Expression:
        """IS [NOT] NULL, TRUE, FALSE, UNKNOWN."""
        arguments = self._arguments(node, "this", "expression", "negate")
        self._spend(TokenType.IS)
        op = self._tested(arguments["expression"])
        read = self.expression if op == "is null" else self.condition
        call = Call(op, (read(arguments["this"]),))
        if "negate" in arguments:
            self._spend(TokenType.NOT)
            return Call("not", (call,))
        return call

    def _tested(self, node: Any) -> str:
        if isinstance(node, exp.Null):
            self._spend(TokenType.NULL)
            return "is null"
        if isinstance(node, exp.Boolean):
            self.boolean(node)
            return "is true" if node.this else "is false"
        if not isinstance(node, exp.Column) or node.name != UNKNOWN:
            cure = "IS takes NULL, TRUE, FALSE, UNKNOWN or DISTINCT FROM; use = for values"
            self._refuse(node, cure)
        self._spend(TokenType.IDENTIFIER)
        return "is unknown"

    def distinct(self, node: Any) -> Expression:
        self._spend(TokenType.IS, TokenType.DISTINCT, TokenType.FROM)
        call = Call("distinct", self._two(node))
        if isinstance(node, exp.NullSafeEQ):
            self._spend(TokenType.NOT)
            return Call("not", (call,))
        return call

    def between(self, node: Any) -> Expression:
        arguments = self._arguments(node, "this", "low", "high")
        self._spend(TokenType.BETWEEN, TokenType.AND)
        if len(arguments) != 3:
            self._refuse(node, "BETWEEN takes two bounds: a BETWEEN low AND high")
        this = self.expression(arguments["this"])
        low, high = self.expression(arguments["low"]), self.expression(arguments["high"])
        return Call("and", (Call(">=", (this, low)), Call("<=", (this, high))))

    def membership(self, node: Any) -> Expression:
        arguments = self._arguments(node, "this", "expressions")
        if "expressions" not in arguments:
            self._refuse(node, "IN takes a list of values: a IN (1, 2)")
        values = arguments["expressions"]
        self._spend(TokenType.IN, *[TokenType.COMMA] * (len(values) - 1))
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
            self._spend(TokenType.ESCAPE)
            arguments = self._arguments(node, "this", "expression")
            escape = (self._escape(arguments.get("expression")),)
            node = arguments["this"]
        if not isinstance(node, (exp.Like, exp.ILike)):
            self._refuse(node, "ESCAPE stands after a LIKE pattern only")
        arguments = self._arguments(node, "this", "expression", "negate")
        sensitive = isinstance(node, exp.Like)
        self._spend(TokenType.LIKE if sensitive else TokenType.ILIKE)
        operands = (self.expression(arguments["this"]), self.expression(arguments["expression"]))
        self._check_pattern(node, operands[1], escape)
        call = Call("like" if sensitive else "ilike", operands + escape)
        if "negate" in arguments:
            self._spend(TokenType.NOT)
            return Call("not", (call,))
        return call

    def _escape(self, node: Any) -> Expression:
        if not isinstance(node, exp.Literal) or not node.is_string or len(node.name) != 1:
            self._refuse(node, "ESCAPE takes one character: LIKE '10!%' ESCAPE '!'")
        return self.literal(node)

    def _check_pattern(self, node: Any, pattern: Expression, escape: Sequence[Expression]) -> None:
        if not isinstance(pattern, Constant) or pattern.kind != "text":
            return
        sign = escape[0].value if escape and isinstance(escape[0], Constant) else None
        try:
            compile_like(pattern.value, sign, fold_case=False)
        except BadPattern as error:
            self._refuse(node, f"LIKE pattern: {error}")

    def case(self, node: Any) -> Expression:
        """Both forms of CASE; `CASE a WHEN b` compares a = b."""
        arguments = self._arguments(node, "this", "ifs", "default")
        branches = arguments.get("ifs", [])
        self._spend(TokenType.CASE, TokenType.END)
        subject = self.expression(arguments["this"]) if "this" in arguments else None
        parts: list[Expression] = []
        for branch in branches:
            when = self._arguments(branch, "this", "true")
            self._spend(TokenType.WHEN, TokenType.THEN)
            if len(when) != 2:
                self._refuse(node, "CASE lacks a part: CASE WHEN condition THEN value END")
            if subject is None:
                parts.append(self.condition(when["this"]))
            else:
                parts.append(Call("=", (subject, self.expression(when["this"]))))
            parts.append(self.expression(when["true"]))
        if not parts:
            self._refuse(node, "CASE without WHEN")
        if "default" in arguments:
            self._spend(TokenType.ELSE)
            parts.append(self.expression(arguments["default"]))
        else:
            parts.append(constant(None))
        return Call("case", tuple(parts))

    def cast(self, node: Any) -> Expression:
        arguments = self._arguments(node, "this", "to")
        self._spend(TokenType.VAR, TokenType.ALIAS)
        zoned = arguments["to"].is_type("timestamptz")
        self._spend(TokenType.TIMESTAMPTZ if zoned else TokenType.TIMESTAMP)
        return Call("timestamp", (self.expression(arguments["this"]),))

    def function(self, node: Any) -> Expression:
        """A call of one of FUNCTIONS, CURRENT_USER, or a TIMESTAMP literal."""
        name = node.name.removeprefix(PLAIN)
        arguments = self._arguments(node, "this", "expressions").get("expressions", [])
        self._spend(TokenType.VAR, *[TokenType.COMMA] * (len(arguments) - 1))
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
            self._refuse(node, f"{text!r} is no {name}; write ISO 8601: '2024-05-01T12:00:00Z'")
        return constant(instant)

    def _check_arity(self, node: Any, name: str, count: int) -> None:
        if name not in FUNCTIONS:
            self._refuse(node, f"unknown function {name}")
        fewest, most = FUNCTIONS[name]
        if count < fewest or (most is not None and count > most):
            wanted = str(fewest) if most == fewest else f"{fewest} to {most or 'any number of'}"
            self._refuse(node, f"{name} takes {wanted} arguments, met {count}")

    def _check_claim(self, node: Any, values: tuple[Expression, ...]) -> None:
        if not isinstance(getattr(values[0], "value", None), str):
            self._refuse(node, "CLAIM takes the claim's name as a string: CLAIM('tenant')")

    def _name(self, node: Any, name: str) -> Name:
        arguments = self._arguments(node, "this", "table", "db")
        parts = len(arguments)
        self._spend(*[TokenType.IDENTIFIER] * parts, *[TokenType.DOT] * (parts - 1))
        qualifier = tuple(arguments[key].name for key in ("db", "table") if key in arguments)
        offset = self._offset(node)
        if name.startswith("_"):
            self.source.refuse(
                f"column {name}; names that begin with _ belong to the server", offset
            )
        return Name(name, qualifier, offset)

    def _arguments(self, node: Any, *allowed: str) -> dict[str, Any]:
        """The arguments that are set on a node; any beyond the allowed ones is refused."""
        given = {key: value for key, value in node.args.items() if value not in (None, False, [])}
        for key in given:
            if key not in allowed and key not in _NOISE:
                self._refuse(node, f"{_describe(node)} with {key.strip('_')} is not supported")
        return {key: value for key, value in given.items() if key in allowed}

    def _spend(self, *kinds: TokenType) -> None:
        self.ledger.subtract(kinds)

    def _offset(self, node: Any) -> int:
        """Where a node begins: its first name or constant, or that of what it stands in."""
        while isinstance(node, exp.Expr):
            leaves = node.find_all(exp.Identifier, exp.Literal, exp.Anonymous)
            starts = [leaf.meta["start"] for leaf in leaves if "start" in leaf.meta]
            if starts:
                return int(min(starts))
            node = node.parent
        return 0

    def _refuse(self, node: Any, message: str) -> NoReturn:
        self.source.refuse(message, self._offset(node))


_READERS: dict[type[Any], Callable[[_Reader, Any], Expression]] = {
    exp.And: _Reader.connective,
    exp.Or: _Reader.connective,
    exp.Not: _Reader.negation,
    exp.Paren: _Reader.paren,
    exp.Neg: _Reader.minus,
    exp.Literal: _Reader.literal,
    exp.Boolean: _Reader.boolean,
    exp.Null: _Reader.null,
    exp.Column: _Reader.column,
    exp.Is: _Reader.test,
    exp.NullSafeEQ: _Reader.distinct,
    exp.NullSafeNEQ: _Reader.distinct,
    exp.Between: _Reader.between,
    exp.In: _Reader.membership,
    exp.Like: _Reader.like,
    exp.ILike: _Reader.like,
    exp.Escape: _Reader.like,
    exp.Case: _Reader.case,
    exp.Cast: _Reader.cast,
    exp.Anonymous: _Reader.function,
}


def _describe(node: Any) -> str:
    return type(node).__name__.strip("_") if node is not None else "a missing operand"
