"""Asking the file for the rows of a lookup: which way is the best, and the seqs it leads to."""

from collections.abc import Callable, Iterator
from functools import cache
from sqlite3 import Connection
from typing import Any, NamedTuple

from kalam_notify.model import Owner, TableDef
from kalam_notify.model.hints import Hints
from kalam_notify.store.access import Entries, KeyRanges, Keys, Lookup, Part, lookups
from kalam_notify.store.bulk import Template, pieces, statement, tuples
from kalam_notify.store.indexes import indexes_of
from kalam_notify.store.prefilter import Prefilter

MOST_ROWS = 20_000
"""A lookup of more is no gain: for every page all of them are looked at, and a scan stops when the
page is full."""


class Place(NamedTuple):
    """Whose rows: a table by its number in the file, and an owner."""

    table: int
    owner: Owner


class Span(NamedTuple):
    """Rows with `after < seq <= upto`."""

    after: int
    upto: int


EVERYTHING = Span(0, 1 << 62)


def choose(connection: Connection, place: Place, table: TableDef, hints: Hints) -> Lookup | None:
    """The lookup with the fewest rows; None where none has few: the table is to be scanned."""
    ready = (index for index in indexes_of(connection, place.table) if index.is_ready)
    ways = lookups(table, ready, hints)
    if not ways or ways[0].is_exact:
        return ways[0] if ways else None
    counted = [(_count(connection, place, way), way) for way in ways]
    count, way = min(counted, key=lambda found: found[0])
    return way if count <= MOST_ROWS else None


def _count(connection: Connection, place: Place, lookup: Lookup) -> int:
    """How many rows a lookup leads to, or something above `MOST_ROWS`."""
    count = 0
    found: int
    for part in lookup.parts:
        for (found,) in _ask(connection, place, part, EVERYTHING, _count_template):
            count += found
            if count > MOST_ROWS:
                return count
    return count


def find(
    connection: Connection, place: Place, lookup: Lookup, span: Span, prefilter: Prefilter
) -> list[int]:
    """The seqs of the rows that a lookup leads to, in rising order.

    `prefilter` is that of the hints which the lookup was made of.
    """
    seqs: set[int] = set()
    for part in lookup.parts:
        for (found,) in _ask(connection, place, part, span, _seqs_template):
            seqs.update(_numbers(found))
    if lookup.uses_entries:
        seqs.update(_written_since(connection, place, span, prefilter))
    return sorted(seqs)


def _written_since(
    connection: Connection, place: Place, span: Span, prefilter: Prefilter
) -> Iterator[int]:
    """Rows that the indexes do not know yet."""
    (indexed,) = connection.execute("SELECT indexed FROM state").fetchone()
    if indexed < span.upto:
        parameters = {**prefilter.parameters, "tbl": place.table, "owner": place.owner}
        after = max(span.after, indexed)
        (found,) = connection.execute(
            _SINCE.format(hints=prefilter.on("row")),
            {**parameters, "after": after, "upto": span.upto},
        ).fetchone()
        yield from _numbers(found)


def _numbers(text: bytes | None) -> Iterator[int]:
    return map(int, text.split()) if text else iter(())


_SINCE = """
SELECT group_concat(seq, ' ') FROM rows
WHERE tbl = :tbl AND owner = :owner AND seq > :after AND seq <= :upto{hints}
"""


class _Way(NamedTuple):
    """How the places of a part, `want`, lead to `rows`: by their keys, perhaps over an index."""

    width: int
    joined: str
    keyed: str


# ?1 to ?5 are the table, the owner, the index, and the span.
_BY_KEYS = _Way(1, "want", "want.a")
_BY_RANGES = _Way(
    2, "want CROSS JOIN rows k ON k.tbl = ?1 AND k.owner = ?2 AND k.key >= a AND k.key < b", "k.key"
)
_BY_ENTRIES = _Way(
    2,
    "want CROSS JOIN entries e ON e.idx = ?3 AND e.owner = ?2 AND e.value >= a AND e.value < b",
    "e.key",
)


def _ask(
    connection: Connection,
    place: Place,
    part: Part,
    span: Span,
    template: Callable[[_Way], Template],
) -> Iterator[tuple[Any]]:
    """The answers for a part, some of its places at a time."""
    way, wanted, index = _places(part)
    fixed = (*place, index, *span)
    for start, size in pieces(len(wanted) // way.width):
        some = wanted[start * way.width : (start + size) * way.width]
        yield connection.execute(statement(template(way), size), (*fixed, *some)).fetchone()


def _places(part: Part) -> tuple[_Way, list[str | bytes], int]:
    match part:
        case Keys(keys):
            return _BY_KEYS, list(keys), 0
        case KeyRanges(ranges):
            return _BY_RANGES, [end for ends in ranges for end in ends], 0
        case Entries(index, spans):
            return _BY_ENTRIES, [end for ends in spans for end in ends], index.number


def _want(width: int, size: int) -> str:
    """The places as a table. What stands before it gives the parameters their numbers."""
    columns, one = ("a", "(?)") if width == 1 else ("a, b", "(?,?)")
    return f"WITH fixed AS (SELECT ?5), want ({columns}) AS (VALUES {tuples(size, one)})"


@cache
def _seqs_template(way: _Way) -> Template:
    return lambda size: (
        f"{_want(way.width, size)} SELECT group_concat(r.seq, ' ') FROM {way.joined}"
        f" CROSS JOIN rows r ON r.tbl = ?1 AND r.owner = ?2 AND r.key = {way.keyed}"
        " WHERE r.seq > ?4 AND r.seq <= ?5"
    )


@cache
def _count_template(way: _Way) -> Template:
    return lambda size: (
        f"{_want(way.width, size)} SELECT count(*) FROM"
        f" (SELECT 1 FROM {way.joined} LIMIT {MOST_ROWS + 1})"
    )
