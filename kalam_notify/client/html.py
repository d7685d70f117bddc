"""A live view as an HTML table, which Jupyter shows in place of the object."""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import islice
from typing import Any, Final

import msgspec

MOST_ROWS: Final = 60
MOST_CHARACTERS: Final = 200


def table(columns: Sequence[str], rows: Sequence[object], caption: str) -> str:
    """The first rows as a table; everything in it is escaped."""
    shown = [_fields(row) for row in islice(rows, MOST_ROWS)]
    names = _names(columns, shown)
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(_line(names, fields) for fields in shown)
    more = len(rows) - len(shown)
    rest = f"<div>and {more:,} more rows</div>" if more else ""
    return (
        f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>{rest}"
    )


def _fields(row: object) -> Mapping[str, Any]:
    """A row as its columns; the types of `row_type` are read back into them."""
    fields: Mapping[str, Any] = (
        row if isinstance(row, Mapping) else msgspec.to_builtins(row, str_keys=True)
    )
    return fields


def _names(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns of the schema that rows have, then those that only rows tell of."""
    has_values = {name: None for row in rows for name in row if name != "_seq"}
    known = [name for name in columns if name != "_seq" and (name in has_values or not rows)]
    return [*known, *(name for name in has_values if name not in known)]


def _line(names: Sequence[str], fields: Mapping[str, Any]) -> str:
    cells = "".join(f"<td>{_cell(fields[name]) if name in fields else ''}</td>" for name in names)
    return f"<tr>{cells}</tr>"


def _cell(value: Any) -> str:
    if value is None:
        return "<i>null</i>"
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return escape(text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS] + "…")
