"""Text -> `Select`: what a query says, before anybody asks which table or whose it is."""

import re
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from kalam_notify.errors import SqlRefused
from kalam_notify.model import TableId, table_id
from kalam_notify.sql.cache import LatestCache
from kalam_notify.sql.grammar import Grammar
from kalam_notify.sql.lexer import Source, Tokens
from kalam_notify.sql.tree import Call, Constant, Expression, Name

MAX_NODES = 10_000
"""Nodes of an expression, each counted as often as it has to be evaluated."""

_EXPLAIN = re.compile(r"\s*explain(?![A-Za-z0-9_$\x80-\U0010ffff])", re.IGNORECASE)


class Limits(NamedTuple):
    """Bounds on a query: bytes of UTF-8, and columns and constants after WHERE."""

    max_bytes: int = 16_384
    max_terms: int = 512


class Condition(msgspec.Struct, frozen=True, eq=False):
    """An expression as written; `calls` are its calls, each after those inside it."""

    source: Source
    where: Expression
    names: tuple[Name, ...]
    calls: tuple[Call, ...]
    is_policy: bool = False

    def place(self, call: Call, operand: Expression | None) -> int:
        """The token of a call, or of an operand of it.

        Nobody asks this of a query that is in order, so it is told by reading the text again.
        """
        grammar = Grammar(Tokens(self.source), placed=True)
        again = _policy(grammar) if self.is_policy else _select(grammar).condition
        assert again is not None
        assert grammar.places is not None
        number = next(place for place, known in enumerate(self.calls) if known is call)
        twin = again.calls[number]
        place = grammar.places[id(twin)]
        for mine, theirs in zip(call.args, twin.args, strict=True):
            if mine is operand:
                place = grammar.places.get(id(theirs), getattr(theirs, "at", place))
        return place


Policy = Condition
"""A parsed row policy: the WHERE expression of a table's definition."""


class Select(msgspec.Struct, frozen=True, eq=False):
    """A parsed query. It knows no table, subscriber and parameter yet, so all can share it."""

    source: Source
    table: TableId
    # In the query's order, each once; None stands for `*`.
    columns: tuple[str, ...] | None
    # The same as written.
    listed: tuple[Name, ...]
    condition: Condition | None
    # The highest N of its $N.
    parameters: int

    @property
    def names_any(self) -> bool:
        """Whether it names any column."""
        return bool(self.listed) or self.condition is not None

    @property
    def named(self) -> tuple[str, ...]:
        """Every column that it names, each once."""
        names = (*self.listed, *(self.condition.names if self.condition else ()))
        return tuple(dict.fromkeys(name.name for name in names))


_parsed: LatestCache[tuple[str, "Limits"], "Select"] = LatestCache(512 * 1024)


def parse(sql: str, limits: Limits) -> Select:
    """The query that `sql` spells: `SELECT *|columns FROM namespace.table [WHERE condition] [;]`.

    Raises SqlRefused. Results are immutable and cached by text, in all 512 KiB of text.
    """
    found = _parsed.get((sql, limits))
    if found is not None:
        return found
    return _parsed.put((sql, limits), _select(_grammar(sql, limits)), len(sql))


def parse_explain(sql: str, limits: Limits) -> Select:
    """Like `parse`, with EXPLAIN in front (or left out). Raises SqlRefused."""
    match = _EXPLAIN.match(sql)
    if match is None:
        return parse(sql, limits)
    # Blanks keep the places of what follows.
    return parse(re.sub(r"\S", " ", match.group()) + sql[match.end() :], limits)


def parse_policy(text: str, limits: Limits) -> Policy:
    """The policy that `text` spells, an expression as after WHERE. Raises SqlRefused."""
    return _policy(_grammar(text, limits))


def _policy(grammar: Grammar) -> Policy:
    if grammar.kinds[0] == "end":
        grammar.refuse("an empty condition")
    policy = _condition(grammar, is_policy=True)
    grammar.take("end", "an operator or the end of the policy")
    for name in policy.names:
        if name.qualifier:
            grammar.refuse("columns of a policy are written without their table", name.at)
    if grammar.parameters:
        grammar.refuse("a policy has no parameters; write CLAIM('name')", 0)
    return policy


def _grammar(text: str, limits: Limits) -> Grammar:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise SqlRefused("the text is not valid Unicode: it holds a lone surrogate") from None
    if size > limits.max_bytes:
        raise SqlRefused(f"a query of {size} bytes; at most {limits.max_bytes} are read")
    source = Source(text)
    if "\0" in text:
        source.refuse_offset("unexpected NUL character", text.index("\0"))
    return Grammar(Tokens(source), max_terms=limits.max_terms)


def _select(grammar: Grammar) -> Select:
    kinds = grammar.kinds
    if kinds[0] == "end":
        grammar.refuse("an empty query; write SELECT * FROM namespace.table")
    grammar.take("SELECT", "SELECT")
    listed = _list(grammar)
    grammar.take("FROM", "a comma, or FROM after the columns (columns keep their own names)")
    table, qualifiers = _table(grammar)
    condition = None
    if grammar.skip("WHERE"):
        condition = _condition(grammar)
    grammar.skip(";")
    if kinds[grammar.at] != "end":
        before = "the end: one statement" if kinds[grammar.at - 1] == ";" else ""
        before = before or ("an operator or the end" if condition else "WHERE or the end")
        grammar.unexpected(f"{before} (there is no operator before this)" if condition else before)
    for name in (*listed, *grammar.names):
        _check_qualifier(grammar, qualifiers, name)
    columns = tuple(dict.fromkeys(name.name for name in listed))
    everything = columns == ("",)
    shown = () if everything else listed
    return Select(
        grammar.source, table, None if everything else columns, shown, condition, grammar.parameters
    )


def _list(grammar: Grammar) -> tuple[Name, ...]:
    """`*` or columns."""
    if grammar.kinds[grammar.at] == "FROM":
        grammar.refuse("nothing is selected; write * or columns")
    listed = [_listed(grammar)]
    while grammar.skip(","):
        listed.append(_listed(grammar))
    if len(listed) > 1 and any(not name.name for name in listed):
        grammar.refuse("* already stands for every column; write * or names", listed[1].at)
    return tuple(listed)


def _listed(grammar: Grammar) -> Name:
    at = grammar.at
    kind = grammar.kinds[at]
    if kind == "*":
        grammar.at += 1
        return Name("", (), at)
    if kind == "DISTINCT" or kind == "ALL":
        grammar.unexpected("columns: every change is delivered")
    if kind not in ("name", "quoted"):
        grammar.unexpected("* or columns (an expression in the list is not supported)")
    name = grammar.column(star=True)
    after = grammar.kinds[grammar.at]
    if after not in (",", "FROM", "end", "word", "WHERE"):
        what = "an alias" if after in ("AS", "name", "quoted") else "an expression in the list"
        grammar.refuse(f"{what}; only * or columns can be selected, under their own names")
    return name


def _table(grammar: Grammar) -> tuple[TableId, frozenset[tuple[str, ...]]]:
    """The table, and what may stand in front of a column."""
    start = grammar.at
    if grammar.kinds[start] not in ("name", "quoted"):
        grammar.unexpected("a table: FROM namespace.table")

    name = grammar.column()
    if len(name.qualifier) != 1:
        parts = (
            "a table's name of three parts" if name.qualifier else "a table without its namespace"
        )
        grammar.refuse(f"{parts}; write FROM namespace.table", start)
    # namespace . table
    namespace, table = _part(grammar, start), _part(grammar, start + 2)
    found = table_id(namespace, table)
    if found is None or not (_is_name(grammar, start) and _is_name(grammar, start + 2)):
        grammar.refuse(
            f"{namespace[:40]}.{table[:40]} is no table's name; write namespace.table in letters, "
            'digits and _, other names in double quotes: public."User"',
            start,
        )
    if grammar.kinds[grammar.at] == ",":
        grammar.refuse("a second table; a live query reads one")
    is_marked = grammar.skip("AS")
    if is_marked or grammar.kinds[grammar.at] in ("name", "quoted"):
        return found, frozenset(((grammar.identifier(),),))
    return found, frozenset(((table,), (namespace, table)))


def _part(grammar: Grammar, at: int) -> str:
    """A part of a table's name: in double quotes as written, else folded."""
    text = grammar.text(at)
    return text if grammar.kinds[at] == "quoted" else _folded(text)


def _is_name(grammar: Grammar, at: int) -> bool:
    """Whether an unquoted part is of ASCII letters, digits and _ only."""
    text = grammar.text(at)
    return grammar.kinds[at] == "quoted" or (text.isascii() and "$" not in text)


def _folded(text: str) -> str:
    return text.lower() if text.isascii() else text


def _condition(grammar: Grammar, *, is_policy: bool = False) -> Condition:
    where = grammar.condition()
    if grammar.terms > grammar.max_terms:
        grammar.refuse(
            f"{grammar.terms} columns and constants after WHERE; at most {grammar.max_terms} "
            "are evaluated",
            0,
        )
    if grammar.repeats and _size(grammar.calls) > MAX_NODES:
        grammar.refuse("BETWEEN, IN and CASE are nested too deeply in each other", 0)
    calls = tuple(grammar.calls)
    return Condition(grammar.source, where, tuple(grammar.names), calls, is_policy)


def _check_qualifier(grammar: Grammar, known: frozenset[tuple[str, ...]], name: Name) -> None:
    if not name.qualifier or name.qualifier in known:
        return
    folded = tuple(_folded(part) for part in name.qualifier)
    # Tables fold to lower case, aliases are matched as written.
    if folded in known and len(known) > 1:
        return
    written = ".".join(name.qualifier)
    wanted = " or ".join(sorted(".".join(parts) for parts in known))
    cure = f"{written} is not the table of this query; write {wanted}"
    if len(name.qualifier) == 1:
        cure += f", or {written} -> '{name.name}' for a value in JSON"
    grammar.refuse(cure, name.at)


def _size(calls: Iterable[Call]) -> int:
    """Calls to evaluate: what is short to write can be long, BETWEENs inside each other."""
    sizes: dict[int, int] = {}
    size = 0
    for call in calls:
        size = 1 + sum(sizes.get(id(arg), 0) for arg in call.args)
        if call.op == "in":
            # A member that is no constant is compared with the subject by itself.
            others = sum(not isinstance(member, Constant) for member in call.args[1:])
            size += max(others - 1, 0) * (1 + sizes.get(id(call.args[0]), 0))
        sizes[id(call)] = size
    return size


def forget_parsed() -> None:
    """Drop the cached results of `parse`."""
    _parsed.clear()
