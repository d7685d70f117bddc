"""Text -> `Select`: what a query says, before anybody asks which table or whose it is."""

import re
from typing import NamedTuple

import msgspec

from kalam_notify.errors import SqlRefused
from kalam_notify.model import TableId, parse_table_id
from kalam_notify.sql.cache import LatestCache
from kalam_notify.sql.lexer import Source
from kalam_notify.sql.statement import Statement, read_condition, read_statement
from kalam_notify.sql.tokens import Tokens, tokenize
from kalam_notify.sql.tree import Call, Expression, Name

MAX_NODES = 10_000
"""Nodes of an expression, each counted as often as it has to be evaluated."""

_EXPLAIN = re.compile(r"\s*explain(?![A-Za-z0-9_$\x80-\U0010ffff])", re.IGNORECASE)


class Limits(NamedTuple):
    """Bounds on a query: bytes of UTF-8, and columns and constants after WHERE."""

    max_bytes: int = 16_384
    max_terms: int = 512


class Select(msgspec.Struct, frozen=True, eq=False):
    """A parsed query. It knows no table and no subscriber yet, so it can be shared by all."""

    source: Source
    table: TableId
    # In the query's order, each once; None stands for `*`.
    columns: tuple[str, ...] | None
    where: Expression | None
    names: tuple[Name, ...]


class Policy(msgspec.Struct, frozen=True, eq=False):
    """A parsed row policy: the WHERE expression of a table's definition."""

    source: Source
    where: Expression


_parsed: LatestCache[tuple[str, "Limits"], "Select"] = LatestCache(512 * 1024)


def parse(sql: str, limits: Limits) -> Select:
    """The query that `sql` spells: `SELECT *|columns FROM namespace.table [WHERE condition] [;]`.

    Raises SqlRefused. Results are immutable and cached by text, in all 512 KiB of text.
    """
    found = _parsed.get((sql, limits))
    if found is not None:
        return found
    source, tokens = _tokens(sql, limits, in_where=False)
    select = _select(source, read_statement(source, tokens.tokens))
    return _parsed.put((sql, limits), select, len(sql))


def parse_explain(sql: str, limits: Limits) -> Select:
    """Like `parse`, with EXPLAIN in front (or left out). Raises SqlRefused."""
    match = _EXPLAIN.match(sql)
    if match is None:
        return parse(sql, limits)
    # Blanks keep the places of what follows.
    return parse(re.sub(r"\S", " ", match.group()) + sql[match.end() :], limits)


def parse_policy(text: str, limits: Limits) -> Policy:
    """The policy that `text` spells, an expression as after WHERE. Raises SqlRefused."""
    source, tokens = _tokens(text, limits, in_where=True)
    where = read_condition(source, tokens.tokens)
    for name in _names(where):
        if name.qualifier:
            source.refuse("columns of a policy are written without their table", name.offset)
    _check_size(source, where)
    return Policy(source, where)


def _tokens(text: str, limits: Limits, *, in_where: bool) -> tuple[Source, Tokens]:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise SqlRefused("the text is not valid Unicode: it holds a lone surrogate") from None
    if size > limits.max_bytes:
        raise SqlRefused(f"a query of {size} bytes; at most {limits.max_bytes} are read")
    source = Source(text)
    if "\0" in text:
        source.refuse("unexpected NUL character", text.index("\0"))
    tokens = tokenize(source, in_where=in_where)
    if tokens.terms > limits.max_terms:
        source.refuse(
            f"{tokens.terms} columns and constants after WHERE; at most {limits.max_terms} "
            "are evaluated",
            0,
        )
    return source, tokens


def _select(source: Source, statement: Statement) -> Select:
    table = parse_table_id(statement.table)
    if table is None:
        source.refuse(
            f"{statement.table[:80]!r} is no table's name; write namespace.table in letters, "
            "digits and _",
            statement.table_offset,
        )
    used = _names(statement.where)
    for name in (*(statement.columns or ()), *used):
        _check_qualifier(source, statement.qualifiers, name)
    columns = None
    if statement.columns is not None:
        columns = tuple(dict.fromkeys(name.name for name in statement.columns))
    if statement.where is not None:
        _check_size(source, statement.where)
    names = (*(statement.columns or ()), *used)
    return Select(source, table, columns, statement.where, names)


def _check_qualifier(source: Source, known: frozenset[tuple[str, ...]], name: Name) -> None:
    if not name.qualifier or name.qualifier in known:
        return
    folded = tuple(part.lower() for part in name.qualifier)
    # Tables fold to lower case, aliases are matched as written.
    if folded in known and len(known) > 1:
        return
    written = ".".join(name.qualifier)
    wanted = " or ".join(sorted(".".join(parts) for parts in known))
    source.refuse(f"{written} is not the table of this query; write {wanted}", name.offset)


def _names(expression: Expression | None) -> list[Name]:
    """The columns an expression names, as written."""
    found: list[Name] = []
    waiting = [] if expression is None else [expression]
    seen: set[int] = set()
    while waiting:
        node = waiting.pop()
        if isinstance(node, Name):
            found.append(node)
        elif isinstance(node, Call) and id(node) not in seen:
            seen.add(id(node))
            waiting.extend(node.args)
    found.sort(key=lambda name: name.offset)
    return found


def _check_size(source: Source, expression: Expression) -> None:
    """Refuse what is short to write and long to evaluate: BETWEENs and CASEs inside each other."""
    sizes: dict[int, int] = {}
    if _size(expression, sizes) > MAX_NODES:
        source.refuse("BETWEEN, IN and CASE are nested too deeply in each other", 0)


def _size(expression: Expression, sizes: dict[int, int]) -> int:
    if not isinstance(expression, Call):
        return 1
    size = sizes.get(id(expression))
    if size is None:
        size = sizes[id(expression)] = 1 + sum(_size(arg, sizes) for arg in expression.args)
    return size


def forget_parsed() -> None:
    """Drop the cached results of `parse`."""
    _parsed.clear()
