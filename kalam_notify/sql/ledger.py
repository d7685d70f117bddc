"""The walk over sqlglot's tree, and its ledger.

sqlglot is a parser for some thirty dialects and forgives much, so its tree is not believed but
checked twice: only the node types that a reader names are understood, each with only the arguments
it names; and every token has to be accounted for by a node of the result (`spend`), so that nothing
the client wrote can have been dropped on the way (`a BETWEEN 1 2`, a trailing comma, a clause given
twice). Parentheses are not accounted for: the tokenizer has seen that they balance.
"""

from collections import Counter
from typing import Any, NoReturn

from sqlglot import exp
from sqlglot.tokenizer_core import Token, TokenType

from kalam_notify.sql.lexer import Source
from kalam_notify.sql.tree import Name

# Arguments that sqlglot sets on its own account; they repeat the dialect, not the text.
_NOISE = frozenset(("typed", "safe", "_type"))
_PLAIN_NAMES: dict[type[Any], str] = {
    exp.Tuple: "a list in parentheses",
    exp.Star: "* in this place",
    exp.Concat: "two strings side by side",
    type(None): "a missing operand",
}

# Where to look for a word that sqlglot has read and nobody wrote.
_COMPANIONS = {
    TokenType.AND: TokenType.BETWEEN,
    TokenType.THEN: TokenType.CASE,
    TokenType.IS: TokenType.NOT,
}


class Ledger:
    """The tokens that no node has accounted for yet."""

    def __init__(self, source: Source, tokens: list[Token]) -> None:
        self.source = source
        self.tokens = tokens
        self.open = Counter(token.token_type for token in tokens)
        for kind in (TokenType.L_PAREN, TokenType.R_PAREN):
            self.open.pop(kind, None)

    def spend(self, *kinds: TokenType) -> None:
        """These tokens have found their node."""
        self.open.subtract(kinds)

    def close(self) -> None:
        """Refuse the query if a token is left over, or was read where there is none."""
        for token in self.tokens:
            if self.open[token.token_type] > 0:
                self.source.refuse(f"{token.text[:40]!r} is out of place", token.start)
        for kind, count in self.open.items():
            if count < 0:
                near = _COMPANIONS.get(kind)
                places = [token.start for token in self.tokens if token.token_type is near]
                self.source.refuse(f"{kind.name} is missing", min(places, default=0))

    def arguments(self, node: Any, *allowed: str) -> dict[str, Any]:
        """The arguments that are set on a node; any beyond the allowed ones is refused."""
        given = {key: value for key, value in node.args.items() if value not in (None, False, [])}
        for key in given:
            if key not in allowed and key not in _NOISE:
                self.refuse(node, f"{described(node)} with {key.strip('_')} is not supported")
        return {key: value for key, value in given.items() if key in allowed}

    def name(self, node: Any, name: str) -> Name:
        """A column, qualified or not."""
        if node.args.get("catalog"):
            self.refuse(node, "a name of four parts; write namespace.table.column at most")
        arguments = self.arguments(node, "this", "table", "db")
        parts = len(arguments)
        self.spend(*[TokenType.IDENTIFIER] * parts, *[TokenType.DOT] * (parts - 1))
        qualifier = tuple(arguments[key].name for key in ("db", "table") if key in arguments)
        # Quicker than `offset`, which looks through everything below a node.
        leftmost = arguments.get("db") or arguments.get("table") or arguments["this"]
        offset = int(leftmost.meta.get("start", 0))
        if name.startswith("_"):
            server = "names that begin with _ belong to the server"
            self.source.refuse(f"unexpected column {name}; {server}", offset)
        return Name(name, qualifier, offset)

    def offset(self, node: Any) -> int:
        """Where a node begins: its first name or constant, or that of what it stands in."""
        while isinstance(node, exp.Expr):
            leaves = node.find_all(exp.Identifier, exp.Literal, exp.Anonymous)
            starts = [leaf.meta["start"] for leaf in leaves if "start" in leaf.meta]
            if starts:
                return int(min(starts))
            node = node.parent
        return 0

    def refuse(self, node: Any, message: str) -> NoReturn:
        self.source.refuse(message, self.offset(node))


def described(node: Any) -> str:
    """A node in words."""
    return _PLAIN_NAMES.get(type(node)) or type(node).__name__
