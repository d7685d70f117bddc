"""Pages of rows as of a position, by an index or by a scan.

Which rows make a page: filter, count, bytes, and whether one more follows.

Chunks of rows: as many in one step of SQLite as make a text of a good size.

A chunk comes as one text from one step (see storing.py), so a scan of a big table does its work in
SQLite without the interpreter lock. How many rows fit is not known beforehand: a chunk begins with
a few and learns from what came. Where rows are suddenly large, SQLite stops at `_MOST_BYTES`, and
fewer are asked for.

Asking the file for the rows of a lookup: which way is the best, and the seqs it leads to.

Rows as of S need no transaction held open from page to page. A row that has stood unchanged since S
is a current row with `seq <= S`; one that was replaced or deleted since is the old image of the
first entry after S that did so, and that entry says which seq wrote the image (`old_seq <= S`). The
two never overlap, so a page is their merge by seq. Only when retention has passed S can an image be
missing: then the answer is Compacted.

Indexes know current rows only, and are read in the transaction that reads them. Images come out of
the log in any case: what the page costs beyond its rows is what has been written since S.

Where a filter came with hints, rows that they exclude never leave SQLite in a scan (see
`Prefilter`), and where they name a key or an index (see `access`), no other rows are looked at.
"""

import heapq
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import chain, islice
from operator import itemgetter
from sqlite3 import Connection
from typing import Any, NamedTuple

from kalam_notify.errors import Compacted
from kalam_notify.model import Owner, Row, TableDef
from kalam_notify.model.hints import Hints
from kalam_notify.store.access import (
    Entries,
    KeyRanges,
    Keys,
    Lookup,
    Parameter,
    Part,
    Prefilter,
    indexes_of,
    lookups,
    stored_table,
)
from kalam_notify.store.base import Matches, Page, PageRequest
from kalam_notify.store.filtering import Candidate, RowFilter
from kalam_notify.store.reader import Chunking, chunk, read_transaction
from kalam_notify.store.rows import (
    FIELD,
    STANDING,
    TEXT,
    WITH_TEXT,
    Template,
    pieces,
    statement,
    tuples,
)


def keep_matching(
    chunks: Iterable[Sequence[Candidate]], matches: Matches | None, row_filter: RowFilter
) -> Iterator[Candidate]:
    """The candidates that match, in the order given, chunk by chunk as they are wanted."""
    for some in chunks:
        yield from some if matches is None else row_filter(some, matches)


def fill_page(request: PageRequest, as_of: int, matching: Iterable[Candidate]) -> Page:
    """The page that these rows, already filtered and in order, make."""
    rows: list[Candidate] = []
    size = 0
    for candidate in matching:
        if len(rows) >= request.limit or (rows and size >= request.max_bytes):
            return Page(as_of, rows, has_more=True)
        rows.append(candidate)
        size += len(candidate[1].json)
    return Page(as_of, rows, has_more=False)


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
            _SINCE.format(hints=prefilter.on(TEXT)),
            {**parameters, "after": after, "upto": span.upto},
        ).fetchone()
        yield from _numbers(found)


def _numbers(text: bytes | None) -> Iterator[int]:
    return map(int, text.split()) if text else iter(())


_SINCE = f"""
SELECT group_concat(r.seq, ' ') FROM rows_by_seq AS r {WITH_TEXT}
WHERE r.tbl = :tbl AND r.owner = :owner AND r.seq > :after AND r.seq <= :upto
    AND {STANDING}{{hints}}
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


QUICK_ROWS = 500
"""Rows of a lookup that are no work for the threads that scan."""

_ROWS = """
SELECT group_concat(seq || char(9) || row, char(10)) FROM (
    {rows} {images}
    ORDER BY 1 {order} LIMIT :limit
)
"""
_CURRENT = f"""
    SELECT r.seq AS seq, {TEXT} AS row FROM rows_by_seq AS r {WITH_TEXT}
    WHERE r.tbl = :tbl AND r.owner = :owner AND r.seq > :after AND r.seq <= :upto
        AND {STANDING}{{hints}}
"""
_EVENTS = """
    SELECT seq, row FROM log WHERE tbl = :tbl AND owner = :owner AND row IS NOT NULL
        AND seq > :after AND seq <= :upto{hints}
"""
_IMAGES = """
    SELECT old_seq AS seq, old AS row FROM log WHERE tbl = :tbl AND owner = :owner
        AND seq > :as_of AND old_seq > :after AND old_seq <= :upto{old_hints}
"""
_IMAGES_ALONE = (
    f"SELECT group_concat(seq || char(9) || row, char(10)) FROM ({_IMAGES} ORDER BY 1 LIMIT :limit)"
)

_ROWS_BY_SEQ = f"""
SELECT group_concat(r.seq || char(9) || {TEXT}, char(10))
FROM (SELECT value AS seq FROM json_each(:seqs) LIMIT :limit) AS r {WITH_TEXT}
"""
_AT_ONCE = 64


def page(connection: sqlite3.Connection, request: PageRequest, row_filter: RowFilter) -> Page:
    """See EventLog.page."""
    found = _page(connection, request, row_filter, quick=False)
    assert found is not None
    return found


def quick_page(
    connection: sqlite3.Connection, request: PageRequest, row_filter: RowFilter
) -> Page | None:
    """The page, where a key or an index leads to few rows; None: it is work for a scanner."""
    return _page(connection, request, row_filter, quick=True)


def _page(
    connection: sqlite3.Connection, request: PageRequest, row_filter: RowFilter, *, quick: bool
) -> Page | None:
    table = request.table
    with read_transaction(connection) as tail:
        as_of = tail.last_seq if request.as_of is None else request.as_of
        stored = stored_table(connection, table.id)
        if stored is None:
            return Page(as_of, (), has_more=False)
        if as_of < tail.floor:
            raise Compacted(tail.floor)
        _refuse_compacted(request, as_of, stored.horizon)
        place = Place(stored.number, request.owner)
        asked = _Asked(connection, place, request.after, as_of, Prefilter(request.hints))
        seqs = asked.looked_up(table, request.hints)
        if quick and (seqs is None or len(seqs) > QUICK_ROWS):
            return None
        is_past = table.is_keyed and as_of < tail.last_seq
        if seqs is None:
            wanted = request.limit + 1 if request.matches is None else None
            rows = asked.forwards(asked.query(table, with_images=is_past), wanted)
        elif is_past:
            rows = asked.merged(seqs)
        else:
            rows = asked.by_seqs(seqs)
        return fill_page(request, as_of, keep_matching(rows, request.matches, row_filter))


def _refuse_compacted(request: PageRequest, as_of: int, horizon: int) -> None:
    if as_of < horizon:
        raise Compacted(horizon)
    if not request.table.is_keyed and request.as_of is not None and request.after < horizon:
        raise Compacted(horizon)


class _Asked(NamedTuple):
    """Rows of one place with `after < seq <= upto`, chunk by chunk as they are wanted."""

    connection: sqlite3.Connection
    place: Place
    after: int
    upto: int
    prefilter: Prefilter

    @property
    def parameters(self) -> dict[str, Parameter]:
        return {
            **self.prefilter.parameters,
            "tbl": self.place.table,
            "owner": self.place.owner,
            "after": self.after,
            "upto": self.upto,
            "as_of": self.upto,
        }

    def looked_up(self, table: TableDef, hints: Hints) -> list[int] | None:
        """The seqs of all current rows that can pass; None: nobody knows without a scan."""
        if not table.is_keyed or not hints:
            return None
        lookup = choose(self.connection, self.place, table, hints)
        if lookup is None:
            return None
        span = Span(self.after, self.upto)
        return find(self.connection, self.place, lookup, span, self.prefilter)

    def query(self, table: TableDef, *, with_images: bool = False, order: str = "") -> str:
        if table.is_keyed:
            rows = _CURRENT.format(hints=self.prefilter.on(TEXT))
        else:
            rows = _EVENTS.format(hints=self.prefilter.on("row"))
        images = f"UNION ALL {self._images(_IMAGES)}" if with_images else ""
        return _ROWS.format(rows=rows, images=images, order=order)

    def _images(self, text: str) -> str:
        return text.format(old_hints=self.prefilter.on("old"))

    def forwards(self, query: str, wanted: int | None = None) -> Iterator[list[Candidate]]:
        """In rising order of seq; at most `wanted`, where it is given."""
        chunking, parameters = Chunking(), self.parameters
        while wanted is None or wanted > 0:
            asked = chunking.rows if wanted is None else min(chunking.rows, wanted)
            lines, asked = chunk(self.connection, query, parameters, chunking, asked)
            found = _candidates(lines)
            yield found
            if len(found) < asked:
                return
            parameters["after"] = found[-1][0]
            wanted = None if wanted is None else wanted - asked

    def backwards(self, query: str) -> Iterator[list[Candidate]]:
        """In falling order of seq."""
        chunking, parameters = Chunking(), self.parameters
        while True:
            lines, asked = chunk(self.connection, query, parameters, chunking, chunking.rows)
            found = _candidates(lines)
            yield found
            if len(found) < asked:
                return
            parameters["upto"] = found[-1][0] - 1

    def by_seqs(self, seqs: Sequence[int]) -> Iterator[list[Candidate]]:
        """The current rows that these seqs wrote, in the order given."""
        chunking = Chunking()
        while seqs:
            asked = min(chunking.rows, len(seqs))
            wanted = {**self.parameters, "seqs": f"[{','.join(map(str, seqs[:asked]))}]"}
            lines, asked = chunk(self.connection, _ROWS_BY_SEQ, wanted, chunking, asked)
            yield _candidates(lines)
            seqs = seqs[asked:]

    def merged(self, seqs: Sequence[int]) -> Iterator[list[Candidate]]:
        """The rows of `by_seqs` and the images that have been replaced since, in order."""
        rows = chain.from_iterable(self.by_seqs(seqs))
        images = chain.from_iterable(self.forwards(self._images(_IMAGES_ALONE)))
        both = heapq.merge(rows, images, key=itemgetter(0))
        while some := list(islice(both, _AT_ONCE)):
            yield some


def _candidates(lines: Iterable[bytes]) -> list[Candidate]:
    return [(int(seq), Row(row)) for seq, _, row in (line.partition(FIELD) for line in lines)]


def newest(
    connection: sqlite3.Connection,
    table: TableDef,
    owner: Owner,
    matches: Matches | None,
    count: int,
    hints: Hints,
    row_filter: RowFilter,
) -> tuple[int, int]:
    """See EventLog.newest."""
    with read_transaction(connection) as tail:
        stored = stored_table(connection, table.id)
        if count <= 0 or stored is None:
            return tail.last_seq, tail.last_seq if count <= 0 else 0
        place = Place(stored.number, owner)
        asked = _Asked(connection, place, 0, tail.last_seq, Prefilter(hints))
        seqs = asked.looked_up(table, hints)
        if seqs is None:
            rows = asked.backwards(asked.query(table, order="DESC"))
        else:
            rows = asked.by_seqs(seqs[::-1])
        for seq, _ in keep_matching(rows, matches, row_filter):
            count -= 1
            if not count:
                return tail.last_seq, seq - 1
        return tail.last_seq, 0 if table.is_keyed else stored.horizon


def access_path(connection: sqlite3.Connection, table: TableDef, owner: Owner, hints: Hints) -> str:
    """See EventLog.access_path."""
    stored = stored_table(connection, table.id)
    if stored is None or not table.is_keyed:
        return "no rows are kept" if not table.is_keyed else "no rows yet"
    lookup = choose(connection, Place(stored.number, owner), table, hints)
    if lookup is not None:
        return str(lookup) or "nothing can match"
    building = [index for index in indexes_of(connection, stored.number) if not index.is_ready]
    return "scan" + "".join(f"; index {index} is being built" for index in building)
