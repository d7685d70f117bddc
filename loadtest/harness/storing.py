"""CPU of one thread that writes a log's file, and of reads of it, with the store of any checkout.

`python -P loadtest/harness/storing.py DIRECTORY SOURCE FILLED` keeps a log's file in DIRECTORY, by
the kalam_notify of the checkout SOURCE. It is told what to do by lines, a word and a number, and
tells one JSON line for each:

    fill 0           as many rows as FILLED, in a SHARED table and in one of a thousand users
    WRITE 8000       so many changes, 100 in a transaction: CPU microseconds of one
    READ 0           microseconds for one row, or one change
    bytes 0          of the file

WRITE is one of `inserts` (new keys), `updates` (of random keys among the filled ones), `events` (of
a table without a key) or `owned` (updates of random users' rows), with `+id` where each change has
an id. Durability is that of a server by default. The changes themselves are made, and the garbage
collector is told, as a server does; neither is what is measured.
"""

import gc
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BATCH = 100
OWNERS = 1000
BACK = 20_000
"""An old position is so many changes back."""

_ROW = (
    '{"id":%d,"x_load":"%010d.0000000000000000000.%s","g":%d,"c0":%d,"c1":%d,"c2":%d,"c3":"ab",'
    '"c4":true,"c5":null}'
)


def row_text(n: int, key: int) -> bytes:
    """About 200 bytes, like those of RowMaker."""
    padding = (f"{n:010d}" * 10)[:92]
    return (_ROW % (key, n, padding, n % 1000, n % 7, n % 11, n % 13)).encode()


class Stand:
    """The file, and what a writing thread knows of it."""

    def __init__(self, directory: Path, filled: int) -> None:
        # Of whichever checkout: its path is known by now.
        from kalam_notify import log, model
        from kalam_notify.model import hints
        from kalam_notify.store import catalog, pages, reader, rows, schema, storing, trimming

        self.log, self.model, self.hints = log, model, hints
        self.storing, self.pages, self.reader, self.trimming = storing, pages, reader, trimming
        self.tables: dict[str, Any] = {
            "keyed": self._table("keyed", "shared", ("id",)),
            "events": self._table("events", "shared", ()),
            "owned": self._table("owned", "user", ("id",)),
        }
        self.path = directory / "kalam.db"
        schema.prepare(self.path)
        self.writing = schema.open_writer(self.path, "commit")
        self.reading = schema.open_reader(self.path)
        # Releases before kept these with the tables.
        at_hand = rows if hasattr(rows, "Indexes") else catalog
        self.indexes = at_hand.Indexes()
        self.numbers = at_hand.Numbers({one.id: one for one in self.tables.values()})
        self.random = random.Random(1)
        self.filled = filled
        self.made = self.keys = 0

    def _table(self, name: str, kind: Any, primary_key: tuple[str, ...]) -> Any:
        table = self.model.TableId(f"load.{name}")
        return self.model.TableDef(table, kind, primary_key=primary_key)

    # -- writing ---------------------------------------------------------------------------------

    def _change(self, table: str, key: int | None, with_id: bool, owner: str = "") -> Any:
        self.made += 1
        n = self.made
        row = self.model.Row(row_text(n, n if key is None else key))
        return self.model.PostedChange(
            *(self.tables[table].id, owner, "insert", row, None),
            key=None if key is None else f"[{key}]",
            id=f"evt-{n:012d}" if with_id else None,
        )

    def inserts(self, with_id: bool) -> Any:
        self.keys += 1
        return self._change("keyed", self.keys, with_id)

    def updates(self, with_id: bool) -> Any:
        return self._change("keyed", self.random.randint(1, self.filled), with_id)

    def events(self, with_id: bool) -> Any:
        return self._change("events", None, with_id)

    def owned(self, with_id: bool) -> Any:
        return self._owned(self.random.randint(1, self.filled), with_id)

    def _owned(self, key: int, with_id: bool = False) -> Any:
        return self._change("owned", key, with_id, f"user-{key % OWNERS:06d}")

    def _write(self, make: Callable[[], Any], count: int) -> float:
        """Store so many changes; CPU seconds of it."""
        spent = 0.0
        for _ in range(count // BATCH):
            postings = [self.storing.Posting([make() for _ in range(BATCH)], None)]
            begun = time.thread_time()
            self.writing.execute("BEGIN IMMEDIATE")
            self.storing.store(self.writing, self.numbers, self.indexes, postings, time.time())
            self.writing.execute("COMMIT")
            self.numbers.committed()
            spent += time.thread_time() - begun
        return spent

    def fill(self) -> int:
        self._write(lambda: self.inserts(with_id=True), self.filled)
        keys = iter(range(1, self.filled + 1))
        self._write(lambda: self._owned(next(keys)), self.filled)
        return 2 * self.filled

    # -- reading ---------------------------------------------------------------------------------

    def _page(self, after: int, as_of: int | None, hints: Any = ()) -> Any:
        keyed = self.tables["keyed"]
        request = self.log.PageRequest(keyed, "", None, after, as_of, 1000, 1 << 20, hints)
        return self.pages.page(self.reading, request, None)

    def snapshot(self, as_of: int | None = None) -> int:
        """All pages of the keyed table; how many rows."""
        after, found, more = 0, 0, True
        while more:
            page = self._page(after, as_of)
            as_of, more = page.as_of, page.has_more
            found += len(page.rows)
            after = page.rows[-1][0] if page.rows else 0
        return found

    def snapshot_before(self) -> int:
        return self.snapshot(max(1, self.reader.last_seq(self.reading) - BACK))

    def by_key(self) -> int:
        for n in range(500):
            wanted = self.hints.ColumnIn("id", (self.random.randint(1, self.filled),))
            if len(self._page(0, None, ((wanted,),)).rows) != 1:
                raise AssertionError(f"row {n} of a key was not found by it")
        return 500

    def resume(self) -> int:
        """From an old position to the end, of the keyed table."""
        return self._resume("keyed", "", max(0, self.reader.last_seq(self.reading) - BACK))

    def resume_owner(self) -> int:
        """All changes of a hundred users, one by one."""
        return sum(self._resume("owned", f"user-{n:06d}", 0) for n in range(100))

    def _resume(self, table: str, owner: str, after: int) -> int:
        found, names = 0, self.reader.TableNames()
        while True:
            span = self.reader.read(
                *(self.reading, names, after, 1000, 1 << 20, self.tables[table].id, owner)
            )
            found += len(span.changes)
            if not span.changes:
                return found
            after = span.changes[-1].seq

    def trim(self) -> int:
        """Retention takes some thousand changes out; how many."""
        removed = 0
        for _ in range(10):
            self.writing.execute("BEGIN IMMEDIATE")
            removed += self.trimming.trim_by_bytes(self.writing, 1).removed
            self.writing.execute("COMMIT")
        return removed

    # -- what is told ----------------------------------------------------------------------------

    def answer(self, what: str, count: int) -> float:
        """What a command tells."""
        if what == "bytes":
            self.writing.execute("PRAGMA wal_checkpoint").fetchall()
            return float(self.path.stat().st_size)
        shape, _, more = what.partition("+")
        if count:
            make = getattr(self, shape)
            return self._write(lambda: make(with_id=more == "id"), count) * 1e6 / count
        begun = time.thread_time()
        found = getattr(self, shape.replace("-", "_"))()
        return (time.thread_time() - begun) * 1e6 / max(found, 1)


def main(directory: str, source: str, filled: str) -> None:
    sys.path.insert(0, source)
    gc.set_threshold(50_000, 20, 1_000_000)
    stand = Stand(Path(directory), int(filled))
    while (line := sys.stdin.readline().split()) and line != ["quit"]:
        value = stand.answer(line[0], int(line[1]))
        print(json.dumps({"event": line[0], "value": value}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
