"""Tokens -> a SELECT or a condition as written, by way of sqlglot's tree."""

from itertools import pairwise
from typing import Any, NamedTuple

from sqlglot import exp
from sqlglot.tokenizer_core import Token, TokenType

from kalam_notify.sql.dialect import parse_condition, parse_statement
from kalam_notify.sql.expressions import ExpressionReader
from kalam_notify.sql.ledger import Ledger
from kalam_notify.sql.lexer import Source
from kalam_notify.sql.tree import Expression, Name


class Statement(NamedTuple):
    """A SELECT as written; `columns` None stands for `*`, `table_offset` is the table's place.

    `qualifiers` are what may stand in front of a column: the alias, or the table with and without
    its namespace.
    """

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
    tree = parse_statement(source, tokens)
    ledger = Ledger(source, tokens)
    statement = _StatementReader(ledger).statement(tree)
    ledger.close()
    return statement


def read_condition(source: Source, tokens: list[Token]) -> Expression:
    """The expression that the tokens spell, as it could stand after WHERE. Raises SqlRefused."""
    if not tokens:
        source.refuse("an empty condition", 0)
    tree = parse_condition(source, tokens)
    ledger = Ledger(source, tokens)
    expression = ExpressionReader(ledger).condition(tree)
    ledger.close()
    return expression


def _check_outline(source: Source, tokens: list[Token]) -> None:
    """One SELECT, its clauses in order; refused here, because sqlglot reads other orders too."""
    if not tokens:
        source.refuse("an empty query; write SELECT * FROM namespace.table", 0)
    if tokens[0].token_type is not TokenType.SELECT:
        source.refuse(f"expected SELECT, met {tokens[0].text[:40]!r}", tokens[0].start)
    for before, token in pairwise(tokens):
        kind = token.token_type
        if kind is TokenType.SELECT:
            source.refuse("a second SELECT; subqueries and unions are not supported", token.start)
        if kind is TokenType.SEMICOLON and token is not tokens[-1]:
            source.refuse("more than one statement; send one SELECT", token.start)
        if kind is TokenType.DISTINCT and before.token_type not in (TokenType.IS, TokenType.NOT):
            source.refuse("unexpected DISTINCT; every change is delivered", token.start)
    _check_clauses(source, tokens)


def _check_clauses(source: Source, tokens: list[Token]) -> None:
    """FROM, then WHERE or nothing, each once; between the two stands one table."""
    due = [TokenType.FROM, TokenType.WHERE]
    for before, token in pairwise(tokens):
        kind = token.token_type
        if kind is TokenType.FROM and before.token_type is TokenType.DISTINCT:
            continue
        if kind in (TokenType.FROM, TokenType.WHERE):
            if kind not in due[:1]:
                source.refuse(f"unexpected {token.text.upper()}", token.start)
            due = due[1:]
        if kind is TokenType.COMMA and due == [TokenType.WHERE]:
            source.refuse("a second table; a live query reads one", token.start)
    if TokenType.FROM in due:
        source.refuse("FROM is missing; write SELECT * FROM namespace.table", len(source.text))


class _StatementReader:
    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.expressions = ExpressionReader(ledger)

    def statement(self, node: exp.Select) -> Statement:
        arguments = self.ledger.arguments(node, "expressions", "from_", "where")
        self.ledger.spend(TokenType.SELECT, TokenType.FROM)
        columns = self._columns(arguments.get("expressions", []))
        table, offset, qualifiers = self._table(arguments["from_"])
        where = None
        if "where" in arguments:
            self.ledger.spend(TokenType.WHERE)
            where = self.expressions.condition(
                self.ledger.arguments(arguments["where"], "this")["this"]
            )
        return Statement(columns, table, offset, qualifiers, where)

    def _columns(self, nodes: list[Any]) -> tuple[Name, ...] | None:
        if not nodes:
            self.ledger.source.refuse("nothing is selected; write * or columns", 0)
        self.ledger.spend(*[TokenType.COMMA] * (len(nodes) - 1))
        if any(node.is_star for node in nodes):
            if len(nodes) > 1:
                self.ledger.refuse(nodes[1], "* already stands for every column; write * or names")
            self._star(nodes[0])
            return None
        return tuple(self._listed(node) for node in nodes)

    def _star(self, node: Any) -> None:
        self.ledger.spend(TokenType.STAR)
        if isinstance(node, exp.Column):
            name = self.ledger.name(node, "*")
            if name.qualifier:
                # A star has no name of its own among the tokens.
                self.ledger.open[TokenType.IDENTIFIER] += 1
        elif not isinstance(node, exp.Star) or any(node.args.values()):
            self.ledger.refuse(node, "only * or columns can be selected")

    def _listed(self, node: Any) -> Name:
        if isinstance(node, exp.Alias):
            self.ledger.refuse(node, "columns keep their own names; leave the alias out")
        if not isinstance(node, exp.Column):
            self.ledger.refuse(node, "an expression in the list; only * or columns can be selected")
        return self.ledger.name(node, node.name)

    def _table(self, clause: Any) -> tuple[str, int, frozenset[tuple[str, ...]]]:
        node = self.ledger.arguments(clause, "this")["this"]
        if not isinstance(node, exp.Table):
            self.ledger.refuse(node, "expected a table: FROM namespace.table")
        if node.args.get("catalog"):
            self.ledger.refuse(node, "a table's name of three parts; write FROM namespace.table")
        arguments = self.ledger.arguments(node, "this", "db", "alias")
        if not isinstance(node.this, exp.Identifier) or "db" not in arguments:
            self.ledger.refuse(node, "expected a table with its namespace: FROM namespace.table")
        self.ledger.spend(TokenType.IDENTIFIER, TokenType.IDENTIFIER, TokenType.DOT)
        namespace, table = node.db.lower(), node.name.lower()
        qualifiers = frozenset(((table,), (namespace, table)))
        if "alias" in arguments:
            alias = self.ledger.arguments(arguments["alias"], "this")["this"]
            if alias.name.startswith("_"):
                self.ledger.refuse(alias, "names that start with _ belong to the server")
            self.ledger.spend(TokenType.IDENTIFIER)
            if self.ledger.open[TokenType.ALIAS] and self._alias_is_marked():
                self.ledger.spend(TokenType.ALIAS)
            qualifiers = frozenset(((alias.name,),))
        return f"{namespace}.{table}", self.ledger.offset(node), qualifiers

    def _alias_is_marked(self) -> bool:
        kinds = [token.token_type for token in self.ledger.tokens]
        start = kinds.index(TokenType.FROM)
        end = kinds.index(TokenType.WHERE) if TokenType.WHERE in kinds else len(kinds)
        return TokenType.ALIAS in kinds[start:end]
