"""Files of a log that are really damaged: bytes turned over in a page of this table or index."""

import sqlite3
from contextlib import closing
from pathlib import Path

# https://sqlite.org/fileformat2.html#b_tree_pages
_INTERIOR = (0x02, 0x05)
_RIGHT_MOST, _CELLS = 8, 12


def settle(path: Path) -> None:
    """Bring all that is in the write-ahead log into the file itself."""
    with closing(sqlite3.connect(path)) as connection:
        busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert busy == 0


def leaf(path: Path, tree: str, *, middle: bool = False) -> tuple[int, int]:
    """Where in the file the last leaf of a table's or an index's tree begins (or one in its
    middle), and its length.
    """
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        query = "SELECT rootpage FROM sqlite_schema WHERE name = ?"
        ((number,),) = connection.execute(query, (tree,)).fetchall()
        ((size,),) = connection.execute("PRAGMA page_size").fetchall()
    with path.open("rb") as file:
        while True:
            file.seek((number - 1) * size)
            page = file.read(size)
            if page[0] not in _INTERIOR:
                return (number - 1) * size, size
            number = _middle_child(page) if middle else _number(page, _RIGHT_MOST)


def _middle_child(page: bytes) -> int:
    count = int.from_bytes(page[3:5], "big")
    place = _CELLS + count // 2 * 2
    return _number(page, int.from_bytes(page[place : place + 2], "big"))


def _number(page: bytes, place: int) -> int:
    return int.from_bytes(page[place : place + 4], "big")


def turn_bytes(path: Path, tree: str, *, middle: bool = False) -> None:
    """Turn over every byte of the last page of this tree, or of one in its middle."""
    begin, size = leaf(path, tree, middle=middle)
    with path.open("r+b") as file:
        file.seek(begin)
        turned = bytes(byte ^ 0xFF for byte in file.read(size))
        file.seek(begin)
        file.write(turned)
