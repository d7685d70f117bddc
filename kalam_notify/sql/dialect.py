"""Tokens -> sqlglot's tree, in a dialect of our own.

It is PostgreSQL's in what binds tighter, from loose to tight: OR, AND, NOT, IS, comparison,
LIKE/IN/BETWEEN, `||` and `->`, + -, * / %, unary minus; without the parts that give plain tokens a
second meaning.
"""

import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NoReturn

from sqlglot import exp
from sqlglot.dialects.postgres import Postgres
from sqlglot.errors import ParseError
from sqlglot.parsers.postgres import PostgresParser
from sqlglot.tokenizer_core import Token, TokenType

from kalam_notify.sql.lexer import Source

_log = logging.getLogger(__name__)

# sqlglot recurs some 25 frames per parenthesis; tokens.MAX_DEPTH of them must fit, whatever is
# on the stack already. (Python's own default leaves room for 40.)
sys.setrecursionlimit(max(sys.getrecursionlimit(), 5000))


class Arrow(exp.Expression, exp.Binary):
    """`->`"""


class TextArrow(exp.Expression, exp.Binary):
    """`->>`"""


def _arrow(node: type[exp.Expression]) -> Callable[[Any, Any, Any], Any]:
    # sqlglot would read the key as a JSON path ('a.b' as two steps); it is one name.
    return lambda parser, this, key: parser.expression(node(this=this, expression=key))


class LiveQueries(Postgres):
    """The dialect of live queries."""

    class Parser(PostgresParser):
        # COALESCE(a -> 'b', c) holds no lambda.
        LAMBDAS: ClassVar[dict[TokenType, Any]] = {}
        JSON_OPERATORS: ClassVar[dict[TokenType, Any]] = {
            TokenType.ARROW: _arrow(Arrow),
            TokenType.DARROW: _arrow(TextArrow),
        }


_DIALECT = LiveQueries()
# How sqlglot's complaints begin, and what they come down to in our language.
_COMPLAINTS = {
    "Required keyword": "something is missing here",
    "Expected table name": "expected a table: FROM namespace.table",
    "Invalid expression": "not expected here",
    "Expecting )": "expected )",
    "Expected END": "expected WHEN condition THEN value .. END",
    "Expected AS": "expected AS: CAST(x AS TIMESTAMP)",
}


def parse_statement(source: Source, tokens: list[Token]) -> exp.Select:
    """Sqlglot's tree of a SELECT. Raises SqlRefused."""
    trees = _parse(source, lambda: _DIALECT.parser().parse(tokens, source.text))
    if len(trees) != 1 or not isinstance(trees[0], exp.Select):
        source.refuse("not one SELECT", 0)
    return trees[0]


def parse_condition(source: Source, tokens: list[Token]) -> Any:
    """Sqlglot's tree of what could stand after WHERE. Raises SqlRefused."""
    trees = _parse(source, lambda: _DIALECT.parser().parse_into(exp.Condition, tokens, source.text))
    if len(trees) != 1 or trees[0] is None:
        source.refuse("not one condition", 0)
    return trees[0]


def _parse(source: Source, parse: Callable[[], Sequence[Any]]) -> Sequence[Any]:
    try:
        return parse()
    except ParseError as error:
        _refuse(source, error)
    except RecursionError:
        source.refuse("nested too deeply", 0)
    except Exception:
        # What sqlglot trips over is the text's fault to whoever sent it, and never ours to die of.
        _log.warning("sqlglot failed on %r", source.text[:500], exc_info=True)
        source.refuse("cannot be read", 0)


def _refuse(source: Source, error: ParseError) -> NoReturn:
    detail: dict[str, Any] = error.errors[0] if error.errors else {}
    # The tokens carry offsets in the place of columns.
    offset = min(int(detail.get("col") or 0), max(len(source.text) - 1, 0))
    said = str(detail.get("description") or "")
    meant = [ours for theirs, ours in _COMPLAINTS.items() if said.startswith(theirs)]
    met = source.text[offset : offset + 40].split()
    near = f" at {met[0]!r}" if met else ""
    source.refuse(f"syntax error{near}: {meant[0] if meant else 'cannot be read'}", offset)
