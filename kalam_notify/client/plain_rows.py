"""Rows without an envelope, and CSV, as changes."""

import csv
import hashlib
import io
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, Final

import msgspec
import orjson

from kalam_notify.client.json_stream import LONGEST_ELEMENT, Malformed

_LONGEST_ID: Final = 256
_NUMBER: Final = re.compile(r"-?(?:0|[1-9]\d{0,19})(?:\.\d+)?")
_WORDS: Final = {"": None, "true": True, "false": False}

_row = msgspec.json.Decoder(dict[str, Any]).decode


class Envelope:
    """Makes a change of a row.

    `key` are columns whose values become the change's `id`, so that the server stores a row that
    is posted again once. `user` owns the rows of a USER table.
    """

    def __init__(
        self,
        table: str,
        change_type: str = "insert",
        key: Sequence[str] = (),
        user: str | None = None,
    ) -> None:
        self._table = table
        self._user = user
        self._key = tuple(key)
        head: dict[str, str] = {"table": table, "change_type": change_type}
        if user is not None:
            head["user_id"] = user
        self._head = orjson.dumps(head)[:-1]

    def of(self, row: bytes) -> bytes:
        """`row` as JSON, to a change as JSON. Raises Malformed for what is no object."""
        text = row.strip()
        if not text.startswith(b"{"):
            raise Malformed(f"this is no row: {text[:60].decode(errors='replace')}")
        id = b',"id":' + orjson.dumps(self._id(text)) if self._key else b""
        return self._head + id + b',"row_data":' + text + b"}"

    def _id(self, text: bytes) -> str:
        try:
            row = _row(text)
        except msgspec.DecodeError as fault:
            raise Malformed(f"this is no row: {fault}") from fault
        for name in self._key:
            if name not in row:
                raise Malformed(f"a row has no column {name}, which --key names")
        values = [self._table, self._user, *(row[name] for name in self._key)]
        id = msgspec.json.encode(values).decode()
        return id if len(id) <= _LONGEST_ID else hashlib.sha256(id.encode()).hexdigest()


def csv_rows(source: BinaryIO, text_columns: Sequence[str] = ()) -> Iterator[bytes]:
    """The rows of a CSV file (RFC 4180, UTF-8) whose first line names the columns, as JSON.

    Numbers, `true` and `false` become values of their kind, nothing becomes null; those of
    `text_columns` (`*`: all) stay texts. Numbers that would not come out as they stand, such as
    007 or 1.50, stay texts too. Raises Malformed, with the line.
    """
    csv.field_size_limit(LONGEST_ELEMENT)
    lines = csv.reader(io.TextIOWrapper(source, "utf-8-sig", newline=""), strict=True)
    try:
        names = next(lines, None)
        if names is None:
            return
        readers = _readers(names, text_columns)
        for fields in lines:
            if fields:
                yield _csv_row(names, readers, fields, lines.line_num)
    except csv.Error as fault:
        raise Malformed(f"line {lines.line_num} of the CSV: {fault}") from fault
    except UnicodeDecodeError as fault:
        raise Malformed(f"the CSV is not UTF-8 behind line {lines.line_num}: {fault}") from fault


def _readers(names: Sequence[str], text_columns: Sequence[str]) -> list[Callable[[str], Any]]:
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise Malformed(f"the first line of the CSV names a column twice: {', '.join(twice)}")
    for name in text_columns:
        if name != "*" and name not in names:
            raise Malformed(f"the CSV has no column {name}, which --text names")
    return [str if "*" in text_columns or name in text_columns else _value for name in names]


def _csv_row(
    names: Sequence[str], readers: Sequence[Callable[[str], Any]], fields: Sequence[str], line: int
) -> bytes:
    if len(fields) != len(names):
        raise Malformed(f"line {line} of the CSV has {len(fields)} fields, not {len(names)}")
    row = {name: read(text) for name, read, text in zip(names, readers, fields, strict=True)}
    return orjson.dumps(row)


def _value(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if not _NUMBER.fullmatch(text):
        return text
    if "." not in text:
        return int(text) if -(2**63) <= int(text) < 2**64 and text != "-0" else text
    number = float(text)
    return number if repr(number) == text else text
