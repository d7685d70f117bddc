"""An event of a subscription as lines: whole rows in pipes, colours and differences for people."""

from collections.abc import Sequence
from typing import Any

import orjson

from kalam_notify.client.events import Acknowledged, Changed, Event, Loaded, Row
from kalam_notify.client.terminal import Palette, safe


def json_of(value: Any) -> str:
    return orjson.dumps(value).decode()


class Columns:
    """Which columns are shown, in which order; all of them where none are named."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self.names = tuple(names)

    def of(self, row: Row) -> dict[str, Any]:
        names = self.names or [name for name in row if name != "_seq"]
        return {name: row[name] for name in names if name in row}

    def unknown(self, event: Acknowledged) -> list[str]:
        """Those that the server's schema does not name; none where it names no columns."""
        known = {column["name"] for column in event.message.get("schema") or ()}
        return [name for name in self.names if known and name not in known]


class PlainLines:
    """One line a row, whole rows: what stands in files and pipes."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns

    def of(self, event: Event) -> list[str]:
        match event:
            case Loaded(rows=rows):
                return [f"row     {self._row(row)}" for row in rows]
            case Changed(kind="delete", old_values=gone):
                word = "leave" if event.transition == "leave" else "delete"
                return [f"{word:<7} {self._row(row)}" for row in gone]
            case Changed(kind="update", rows=rows, old_values=old):
                return [
                    f"update  {self._row(new)}  was {json_of(self._columns.of(before))}"
                    for new, before in zip(rows, old, strict=False)
                ]
            case Changed(rows=rows):
                word = "enter" if event.transition == "enter" else "insert"
                return [f"{word:<7} {self._row(row)}" for row in rows]
        return []

    def _row(self, row: Row) -> str:
        return f"{row.get('_seq', '-'):>8}  {json_of(self._columns.of(row))}"


class TerminalLines:
    """One line a row, coloured by what happened; of an update what has changed."""

    def __init__(self, columns: Columns, palette: Palette) -> None:
        self._columns = columns
        self._palette = palette
        self._key: tuple[str, ...] = ()

    def of(self, event: Event) -> list[str]:
        match event:
            case Acknowledged(primary_key=key):
                self._key = key
            case Loaded(rows=rows):
                return [self._line("row", "cyan", row, self._fields(row)) for row in rows]
            case Changed(kind="delete", old_values=gone):
                word = "leave" if event.transition == "leave" else "delete"
                return [self._line(word, "red", row, self._fields(row)) for row in gone]
            case Changed(kind="update", rows=rows, old_values=old):
                return [
                    self._line("update", "yellow", new, self._diff(new, before))
                    for new, before in zip(rows, old, strict=False)
                ]
            case Changed(rows=rows):
                word = "enter" if event.transition == "enter" else "insert"
                return [self._line(word, "green", row, self._fields(row)) for row in rows]
        return []

    def _line(self, word: str, colour: str, row: Row, text: str) -> str:
        seq = self._palette.paint("dim", f"{row.get('_seq', '-'):>8}")
        return f"{self._palette.paint(colour, f'{word:<7}')} {seq}  {text}"

    def _fields(self, row: Row) -> str:
        return "  ".join(self._field(name, value) for name, value in self._columns.of(row).items())

    def _field(self, name: str, value: Any) -> str:
        return f"{self._palette.paint('dim', safe(name) + ':')} {safe(json_of(value))}"

    def _diff(self, new: Row, old: Row) -> str:
        """Which row, and what of it is another than before."""
        key = [self._field(name, new[name]) for name in self._key if name in new]
        changed = [name for name in self._columns.of(old) if name not in self._key]
        parts = [self._step(name, old[name], new.get(name)) for name in changed]
        return "  ".join([*key, *(parts or [self._palette.paint("dim", "(nothing shown here)")])])

    def _step(self, name: str, old: Any, new: Any) -> str:
        before = self._palette.paint("red", safe(json_of(old)))
        after = self._palette.paint("green", safe(json_of(new)))
        return f"{safe(name)}: {before} -> {after}"
