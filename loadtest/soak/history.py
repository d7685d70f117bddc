"""What was posted, and what a subscription must be told of it.

Every batch begins with a row of the table `soak.marks` that holds the batch's number. A witness
reads that table, so the seq of every batch is known even where the answer to the post was lost
with the worker that should have given it; `id`s make posting it again harmless.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Row = dict[str, Any]
Predicate = Callable[[Row], bool]
Key = Any

MARKS = "soak.marks"
_TAIL = 1000  # changes: more than any filter leaves of the thirty that `last_rows` may ask for


@dataclass(frozen=True)
class Table:
    """A table of the soak; keys are `id`."""

    name: str
    owned: bool
    keyed: bool

    @property
    def declared(self) -> dict[str, Any]:
        key = {"primary_key": ["id"]} if self.keyed else {}
        return {"type": "user", **key} if self.owned else {
            "type": "shared", "access": "public", **key,
        }  # fmt: skip


TABLES = [
    Table("soak.orders", owned=False, keyed=True),
    Table("soak.events", owned=False, keyed=False),
    Table("soak.notes", owned=True, keyed=True),
    Table("soak.inbox", owned=True, keyed=False),
    Table("soak.prices", owned=False, keyed=True),
    Table("soak.silent", owned=False, keyed=True),
]
WRITTEN = TABLES[:-1]


def declared() -> dict[str, Any]:
    """For `tables.declared` of a configuration."""
    marks = {"type": "shared", "access": "public"}
    return {MARKS: marks, **{table.name: table.declared for table in TABLES}}


FILTERS: list[tuple[str, Predicate]] = [
    ("", lambda row: True),
    (" WHERE v = 3", lambda row: row["v"] == 3),
    (" WHERE v IN (1, 2, 5)", lambda row: row["v"] in (1, 2, 5)),
    (" WHERE v BETWEEN 2 AND 4", lambda row: row["v"] is not None and 2 <= row["v"] <= 4),
    (" WHERE v % 2 = 0", lambda row: row["v"] is not None and row["v"] % 2 == 0),
    (
        " WHERE v IS NULL OR name LIKE 'a%'",
        lambda row: row["v"] is None or row["name"].startswith("a"),
    ),
    (" WHERE NOT (v > 3)", lambda row: row["v"] is not None and row["v"] <= 3),
]
PROJECTIONS: list[tuple[str, ...]] = [(), ("id", "v"), ("id", "n", "name")]


class Change(NamedTuple):
    """One posted change."""

    table: str
    owner: str
    kind: str
    row: Row  # of a delete: the key alone

    def posted(self, identity: str) -> Row:
        """As it goes over HTTP."""
        image = "old_data" if self.kind == "delete" else "row_data"
        told = {"table": self.table, "change_type": self.kind, image: self.row, "id": identity}
        return {**told, "user_id": self.owner} if self.owner else told


class Applied(NamedTuple):
    """A change at its seq, with the rows before and after it (None: there is none)."""

    seq: int
    old: Row | None
    new: Row | None


class Event(NamedTuple):
    """One row as a `change` message tells it."""

    seq: int
    kind: str
    transition: str | None
    row: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Query:
    """What a subscription asks for."""

    table: Table
    owner: str
    filter: int
    projection: tuple[str, ...]

    @property
    def sql(self) -> str:
        columns = ", ".join(self.projection) or "*"
        return f"SELECT {columns} FROM {self.table.name}{FILTERS[self.filter][0]}"

    def matches(self, row: Row | None) -> bool:
        return row is not None and FILTERS[self.filter][1](row)

    def shown(self, row: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
        """The row as this query projects it, comparable."""
        names = self.projection or tuple(name for name in row if name != "_seq")
        return tuple(sorted((name, row.get(name)) for name in names))

    def event(self, change: Applied) -> Event | None:
        before, after = self.matches(change.old), self.matches(change.new)
        if not before and not after:
            return None
        seen = change.new if after else change.old
        assert seen is not None
        kind = "update" if before and after else "insert" if after else "delete"
        transition = None
        if before != after and change.old is not None and change.new is not None:
            transition = "enter" if after else "leave"
        return Event(change.seq, kind, transition, self.shown(seen))


@dataclass
class History:
    """All batches since the last checkpoint, and the rows that were there then."""

    posted: dict[int, list[Change]] = field(default_factory=dict)
    seqs: dict[int, int] = field(default_factory=dict)  # of a batch's mark, by its number
    rows: dict[tuple[str, str], dict[Key, tuple[int, Row]]] = field(default_factory=dict)
    base: int = 0  # the seq of the checkpoint
    # Of tables without a key: what `last_rows` reads.
    tail: dict[tuple[str, str], list[Applied]] = field(default_factory=dict)
    _applied: dict[tuple[str, str], list[Applied]] = field(default_factory=dict)
    _number: int = 0

    def batch(self, changes: list[Change]) -> tuple[int, list[Row]]:
        """Remember a batch that is about to be posted: its number, and what to post."""
        self._number += 1
        self.posted[self._number] = changes
        mark = Change(MARKS, "", "insert", {"batch": self._number})
        whole = [mark, *changes]
        named = (c.posted(f"b{self._number}-{place}") for place, c in enumerate(whole))
        return self._number, list(named)

    def witness(self, batch: int, seq: int) -> None:
        """The mark of a batch was heard of."""
        assert self.seqs.setdefault(batch, seq) == seq, f"batch {batch} has two seqs"

    @property
    def is_witnessed(self) -> bool:
        return self.posted.keys() <= self.seqs.keys()

    def settle(self) -> None:
        """All batches are witnessed: put their changes in order."""
        tables = {table.name: table for table in TABLES}
        current = {scope: dict(rows) for scope, rows in self.rows.items()}
        self._applied = {}
        for batch in sorted(self.posted, key=self.seqs.__getitem__):
            for place, change in enumerate(self.posted[batch], 1):
                scope = (change.table, change.owner)
                applied = _apply(
                    current.setdefault(scope, {}),
                    self.seqs[batch] + place,
                    change,
                    tables[change.table].keyed,
                )
                self._applied.setdefault(scope, []).append(applied)
        self._current = current

    def events(self, query: Query, after: int) -> Iterator[Event]:
        """What a subscription that stood at `after` must have been told since, in order."""
        for change in self._applied.get((query.table.name, query.owner), ()):
            if change.seq > after and (event := query.event(change)):
                yield event

    def snapshot(self, query: Query, at: int) -> dict[int, tuple[tuple[str, Any], ...]]:
        """Seq -> row of what matches at `at`, a position since the last checkpoint."""
        scope = (query.table.name, query.owner)
        rows = dict(self.rows.get(scope, {}))
        for change in self._applied.get(scope, ()):
            if change.seq > at:
                break
            image = change.new or change.old
            if image is None:
                continue
            if change.new is None:
                rows.pop(image["id"], None)
            else:
                rows[image["id"]] = (change.seq, change.new)
        return {seq: query.shown(row) for seq, row in rows.values() if query.matches(row)}

    def last_rows(self, query: Query, count: int, at: int) -> list[int]:
        """The seqs of the last so many matching rows of a table without a key."""
        scope = (query.table.name, query.owner)
        known = [*self.tail.get(scope, ()), *self._applied.get(scope, ())]
        seqs = [c.seq for c in known if c.seq <= at and query.matches(c.new)]
        return seqs[-count:] if count else []

    def compact(self) -> int:
        """Begin anew behind what is settled; returns the seq that all stand at now."""
        last = max((seq + len(self.posted[b]) for b, seq in self.seqs.items()), default=self.base)
        for scope, changes in self._applied.items():
            self.tail[scope] = [*self.tail.get(scope, ()), *changes][-_TAIL:]
        self.rows, self.base = self._current, max(self.base, last)
        self.posted, self.seqs, self._applied = {}, {}, {}
        return self.base


def _apply(rows: dict[Key, tuple[int, Row]], seq: int, change: Change, keyed: bool) -> Applied:
    if not keyed:
        return Applied(seq, None, change.row)
    key = change.row["id"]
    _, old = rows.get(key, (0, None))
    if change.kind == "delete":
        rows.pop(key, None)
        return Applied(seq, old, None)
    rows[key] = (seq, change.row)
    return Applied(seq, old, change.row)
