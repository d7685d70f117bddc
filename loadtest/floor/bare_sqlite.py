"""The floor of ingest: rows into a SQLite file, one durable transaction per batch, nothing else.

`python -m loadtest.floor.bare_sqlite DIRECTORY SECONDS BATCH` tells one JSON line.
"""

import json
import sqlite3
import sys
import time
from pathlib import Path

from loadtest.harness.rows import RowMaker


def run(directory: Path, seconds: float, batch: int) -> float:
    """Rows per second, with write-ahead log and fsync per commit as the server's log has them."""
    database = sqlite3.connect(directory / "floor.db", isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("CREATE TABLE log (seq INTEGER PRIMARY KEY, name TEXT, row TEXT)")
    row = RowMaker().row()
    rows = [("load.rows", row)] * batch
    begun, count = time.monotonic(), 0
    while time.monotonic() - begun < seconds:
        database.execute("BEGIN IMMEDIATE")
        database.executemany("INSERT INTO log (name, row) VALUES (?, ?)", rows)
        database.execute("COMMIT")
        count += batch
    return count / (time.monotonic() - begun)


if __name__ == "__main__":
    rate = run(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
    print(json.dumps({"event": "stored", "rows_per_second": rate}), flush=True)
