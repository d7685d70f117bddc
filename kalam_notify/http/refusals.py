"""Why a change was refused, told so that its producer can mend it.

`rules` has found a change that breaks a rule. Here it is read again, slowly, with the standard
library's parser, which can be asked to keep numbers that fit nowhere, and its faults are looked
for in the order in which a person would: table, kind, owner, id, rows.
"""

import json
import math
from collections.abc import Sequence
from typing import Any, NoReturn

import orjson

from kalam_notify.auth.claims import is_user_id
from kalam_notify.errors import ChangeRefused
from kalam_notify.http.rules import (
    KIND_OF,
    MAX_ENCODABLE_DEPTH,
    MAX_ID_CHARS,
    Rules,
    depth_of,
    is_column_name,
    keys_differ,
    unchanged_fault,
)
from kalam_notify.model import TableDef, parse_table_id
from kalam_notify.model.changes import key_of
from kalam_notify.model.types import RowCheck

_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1


class _Unfit:
    """A number that is refused, in the place where it stood."""

    def __init__(self, why: str) -> None:
        self.why = why


def _integer(text: str) -> int | _Unfit:
    if len(text) > 20 or not _INT_MIN <= int(text) <= _INT_MAX:
        return _Unfit("an integer must lie within -2^63 .. 2^64-1; send larger ones as text")
    return int(text)


def _float(text: str) -> float | _Unfit:
    value = float(text)
    return value if math.isfinite(value) else _Unfit("a number must fit a 64-bit float")


def _constant(text: str) -> NoReturn:
    raise invalid_json(f"{text} is not JSON")


_DECODER = json.JSONDecoder(parse_int=_integer, parse_float=_float, parse_constant=_constant)


def invalid_json(why: str, index: int | None = None) -> ChangeRefused:
    """The refusal of a body, or of one line of it, that is not JSON."""
    return ChangeRefused(400, "INVALID_JSON", why, index=index)


def too_many(limit: int) -> ChangeRefused:
    """The refusal of a batch of more than `limit` changes."""
    return ChangeRefused(413, "TOO_LARGE", f"a batch holds at most max_batch_changes ({limit})")


def too_large(limit: int, index: int, field: str) -> ChangeRefused:
    """The refusal of a row of more than `limit` bytes."""
    message = f"a row takes at most max_row_bytes ({limit}) as JSON"
    return ChangeRefused(413, "TOO_LARGE", message, index=index, field=field)


def explain(text: str, index: int, rules: Rules) -> ChangeRefused:
    """What is wrong with the change in `text`, the one at `index` of its batch."""
    try:
        raw = _DECODER.decode(text)
    except json.JSONDecodeError as fault:
        return invalid_json(str(fault), index)
    except RecursionError:
        return invalid_json("nested too deeply", index)
    except ChangeRefused as refusal:
        return invalid_json(refusal.message, index)
    # Before anything of it is said again, names in `field` for one.
    if "\\u" in text and not _is_unicode(raw):
        return invalid_json("a text is not Unicode", index)
    return _Examination(index, rules).verdict(raw)


def _is_unicode(raw: object) -> bool:
    """Whether no text of it, names included, is half a surrogate pair."""
    try:
        json.dumps(raw, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        return False
    except RecursionError:
        # So deep that it is refused for that.
        return True
    return True


class _Examination:
    """One change under the lamp. Every method that finds something wrong raises it."""

    def __init__(self, index: int, rules: Rules) -> None:
        self._index = index
        self._rules = rules

    def verdict(self, raw: object) -> ChangeRefused:
        return self.fault(raw) or self._refusal("this change is not understood", None)

    def fault(self, raw: object) -> ChangeRefused | None:
        try:
            self._examine(raw)
        except ChangeRefused as refusal:
            return refusal
        except TypeError:  # from the encoder: half a surrogate pair
            return invalid_json("a text is not Unicode", self._index)
        return None

    def _refusal(
        self, message: str, field: str | None, *, status: int = 400, code: str = "INVALID_CHANGE"
    ) -> ChangeRefused:
        return ChangeRefused(status, code, message, index=self._index, field=field)

    def _examine(self, raw: object) -> None:
        if not isinstance(raw, dict):
            raise self._refusal("a change is a JSON object", None)
        table = self._table(raw)
        kind = raw.get("change_type")
        if not isinstance(kind, str) or kind not in KIND_OF:
            raise self._refusal(
                "change_type is insert, update, upsert, delete or truncate", "change_type"
            )
        self._owner(raw.get("user_id"), table)
        self._id(raw.get("id"))
        self._names(raw.get("unchanged"))
        if KIND_OF[kind] == "truncate":
            self._truncate(table)
            return
        row = self._row(raw, "row_data", table)
        old = self._row(raw, "old_data", table)
        if KIND_OF[kind] == "delete":
            self._delete(row, old, table)
        elif row is None:
            raise self._refusal(f"an {kind.lower()} needs row_data, the whole new row", "row_data")
        else:
            if table.is_keyed:
                self._key(row, "row_data", table)
            self._unchanged(raw.get("unchanged") or (), row, old is not None, table)
        self._agreement(row, old, table)

    def _truncate(self, table: TableDef) -> None:
        if not table.is_keyed:
            raise self._refusal(
                f"{table.id} has no primary key: no rows are kept that could be deleted",
                "change_type",
            )

    def _names(self, names: object) -> None:
        """Also where they say nothing: of a delete, or a truncate."""
        if names is None:
            return
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise self._refusal("unchanged is an array of column names", "unchanged")

    def _unchanged(
        self, names: Sequence[str], row: dict[str, Any], has_old: bool, table: TableDef
    ) -> None:
        fault = unchanged_fault(names, row, table, has_old) if names else None
        if fault is not None:
            place = "" if fault[0] is None else f".{fault[0]}"
            raise self._refusal(fault[1], f"unchanged{place}")

    def _table(self, raw: dict[str, Any]) -> TableDef:
        if "table" not in raw:
            raise self._refusal("the table is missing: say namespace.name", "table")
        name = raw["table"]
        table_id = parse_table_id(name) if isinstance(name, str) else None
        if table_id is None:
            raise self._refusal(
                "table is namespace.name; a part that is not of letters, digits and _ stands in "
                "double quotes",
                "table",
            )
        table = self._rules.catalog.get(table_id)
        if table is None:
            raise self._refusal(
                f"there is no table {table_id}: declare it under tables.declared",
                "table",
                code="UNKNOWN_TABLE",
            )
        catalog = self._rules.catalog
        if catalog.is_sourced(table_id):
            raise self._refusal(
                f"the changes of {table_id} come from its source, and from nobody else",
                "table",
                status=403,
                code="FORBIDDEN",
            )
        if not catalog.takes_changes(table_id):
            raise self._refusal(
                f"there is no table {table_id}, and no room for another one: limits.max_tables"
                f" is {catalog.max_tables}",
                "table",
                code="UNKNOWN_TABLE",
            )
        return table

    def _owner(self, user_id: object, table: TableDef) -> None:
        if table.is_shared:
            if user_id is not None:
                raise self._refusal(f"{table.id} is SHARED: its rows have no user_id", "user_id")
        elif user_id is None:
            raise self._refusal(f"{table.id} is a USER table: say whose row it is", "user_id")
        elif not is_user_id(user_id):
            raise self._refusal("user_id is a string of 1-128 printable characters", "user_id")

    def _id(self, change_id: object) -> None:
        if change_id is None:
            return
        if not isinstance(change_id, str) or not 0 < len(change_id) <= MAX_ID_CHARS:
            raise self._refusal(f"id is a string of 1-{MAX_ID_CHARS} characters", "id")

    def _row(self, raw: dict[str, Any], field: str, table: TableDef) -> dict[str, Any] | None:
        row = raw.get(field)
        if row is None:
            return None
        if not isinstance(row, dict):
            raise self._refusal(f"{field} is a JSON object", field)
        for column in row:
            self._column(column, f"{field}.{column}", table)
        self._depth(row, field)
        self._numbers(row, field)
        fault = RowCheck(table.columns)(row) if table.columns is not None else None
        if fault is not None:
            raise self._refusal(fault[1], f"{field}.{fault[0]}")
        limit = self._rules.limits.max_row_bytes
        if len(orjson.dumps(row)) > limit:
            raise too_large(limit, self._index, field)
        return row

    def _column(self, column: str, field: str, table: TableDef) -> None:
        if column.startswith("_"):
            raise self._refusal("names starting with _ belong to the server", field)
        if not is_column_name(column):
            raise self._refusal(
                "a column name takes 1-255 bytes and holds no control character", field
            )
        if table.columns is not None and column not in table.columns:
            raise self._refusal(f"{table.id} declares no such column", field)

    def _depth(self, row: dict[str, Any], field: str) -> None:
        limit = min(self._rules.limits.max_depth, MAX_ENCODABLE_DEPTH)
        if depth_of(row) > limit:
            raise self._refusal(f"a row is nested at most max_depth ({limit}) deep", field)

    def _numbers(self, value: object, field: str) -> None:
        """Find a number that does not fit. The depth is known to be bounded by now."""
        if isinstance(value, _Unfit):
            raise self._refusal(value.why, field)
        if isinstance(value, dict):
            for name, inner in value.items():
                self._numbers(inner, f"{field}.{name}")
        elif isinstance(value, list):
            for place, inner in enumerate(value):
                self._numbers(inner, f"{field}.{place}")

    def _delete(
        self, row: dict[str, Any] | None, old: dict[str, Any] | None, table: TableDef
    ) -> None:
        if not table.is_keyed:
            if old is None:
                raise self._refusal(
                    f"{table.id} has no primary key: a delete needs old_data", "old_data"
                )
            return
        if row is None and old is None:
            raise self._refusal(
                "a delete needs old_data (or row_data) with the primary key", "old_data"
            )
        if any(image and key_of(table.primary_key, image) for image in (old, row)):
            return
        if old is not None:
            self._key(old, "old_data", table)
        elif row is not None:
            self._key(row, "row_data", table)

    def _key(self, row: dict[str, Any], field: str, table: TableDef) -> None:
        for column in table.primary_key:
            if column not in row:
                raise self._refusal(
                    f"the primary key column {column} is missing", f"{field}.{column}"
                )
            if type(row[column]) not in (int, str, bool):
                raise self._refusal(
                    "a primary key value is a string, an integer or a boolean", f"{field}.{column}"
                )

    def _agreement(
        self, row: dict[str, Any] | None, old: dict[str, Any] | None, table: TableDef
    ) -> None:
        if row is None or old is None:
            return
        column = keys_differ(table.primary_key, row, old)
        if column is not None:
            raise self._refusal(
                "a change keeps its primary key: post a delete and an insert instead",
                f"old_data.{column}",
            )
