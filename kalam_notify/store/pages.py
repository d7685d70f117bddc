"""Pages of rows as of a position, by an index or by a scan.

Rows as of S need no transaction held open from page to page. A row that has stood unchanged since S
is a current row with `seq <= S`; one that was replaced or deleted since is the old image of the
first entry after S that did so, and that entry says which seq wrote the image (`old_seq <= S`). The
two never overlap, so a page is their merge by seq. Only when retention has passed S can an image be
missing: then the answer is Compacted.

Indexes know current rows only, and are read in the transaction that reads them. Images come out of
the log in any case: what the page costs beyond its rows is what has been written since S.

Where a filter came with hints, rows that they exclude never leave SQLite in a scan (see
`prefilter`), and where they name a key or an index (see `access`), no other rows are looked at.
"""

import heapq
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from operator import itemgetter
from typing import NamedTuple

from kalam_notify.errors import Compacted
from kalam_notify.model import Owner, Row, TableDef
from kalam_notify.model.hints import Hints
from kalam_notify.store.base import Matches, Page, PageRequest
from kalam_notify.store.bulk import FIELD
from kalam_notify.store.candidates import Place, Span, choose, find
from kalam_notify.store.catalog import stored_table
from kalam_notify.store.chunks import Chunking, chunk
from kalam_notify.store.filtering import Candidate, RowFilter
from kalam_notify.store.indexes import indexes_of
from kalam_notify.store.prefilter import Parameter, Prefilter
from kalam_notify.store.reader import read_transaction
from kalam_notify.store.selection import fill_page, keep_matching

QUICK_ROWS = 500
"""Rows of a lookup that are no work for the threads that scan."""

_ROWS = """
SELECT group_concat(seq || char(9) || row, char(10)) FROM (
    SELECT seq, row FROM {source} WHERE tbl = :tbl AND owner = :owner AND row IS NOT NULL
        AND seq > :after AND seq <= :upto{row_hints}
    {images}
    ORDER BY 1 {order} LIMIT :limit
)
"""
_IMAGES = """
    SELECT old_seq AS seq, old AS row FROM log WHERE tbl = :tbl AND owner = :owner
        AND seq > :as_of AND old_seq > :after AND old_seq <= :upto{old_hints}
"""
_IMAGES_ALONE = (
    f"SELECT group_concat(seq || char(9) || row, char(10)) FROM ({_IMAGES} ORDER BY 1 LIMIT :limit)"
)

_ROWS_BY_SEQ = """
SELECT group_concat(r.seq || char(9) || r.row, char(10))
FROM (SELECT value AS seq FROM json_each(:seqs) LIMIT :limit) AS want
CROSS JOIN rows AS r INDEXED BY rows_by_seq
    ON r.tbl = :tbl AND r.owner = :owner AND r.seq = want.seq
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
        source = "rows" if table.is_keyed else "log"
        images = f"UNION ALL {self._images(_IMAGES)}" if with_images else ""
        hints = self.prefilter.on("row")
        return _ROWS.format(source=source, row_hints=hints, images=images, order=order)

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
