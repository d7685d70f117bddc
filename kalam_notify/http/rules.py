"""The rules a posted change must keep, on the path where it keeps them.

The limits ingest asks for: the `limits` section of the configuration fits.

Nearly every change is in order, so this module only answers yes or no, in as few steps as Python
allows; `refusals` looks again at the one that is not, and says what is wrong with it. What is
accepted is decided here alone.

Three checks are left to the encoder. `orjson.dumps` refuses exactly the integers the contract
refuses (outside -2**63 .. 2**64-1) and every text that is not Unicode, and the number of brackets
in its output bounds the row's depth, so that only rows with many of them are walked.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, Protocol

import msgspec
import orjson

from kalam_notify.auth.claims import is_user_id
from kalam_notify.model import (
    SHARED,
    Owner,
    PostedChange,
    PostedKind,
    Row,
    TableDef,
    TableId,
    Values,
    parse_table_id,
)
from kalam_notify.model.changes import key_of
from kalam_notify.model.tables import Catalog
from kalam_notify.model.types import ColumnType, RowCheck


class IngestLimits(Protocol):
    """Sizes in bytes; `max_depth` counts the row itself as 1."""

    @property
    def max_body_bytes(self) -> int: ...

    @property
    def max_batch_changes(self) -> int: ...

    @property
    def max_row_bytes(self) -> int: ...

    @property
    def max_depth(self) -> int: ...

    @property
    def ingest_queue_bytes(self) -> int: ...


MAX_ID_CHARS: Final = 256
MAX_COLUMN_BYTES: Final = 255
# orjson itself stops at 254 levels, whatever the configuration says.
MAX_ENCODABLE_DEPTH: Final = 250

_ABSENT = msgspec.Raw()

Verb = (
    Literal["insert", "update", "delete", "upsert", "truncate"]
    | Literal["INSERT", "UPDATE", "DELETE", "UPSERT", "TRUNCATE"]
)
# What a verb is taken for. The stored row decides whether an upsert inserts; where none is kept
# it adds one.
_KIND_OF: dict[str, PostedKind] = {
    "insert": "insert",
    "update": "update",
    "delete": "delete",
    "upsert": "insert",
    "truncate": "truncate",
}
KIND_OF = _KIND_OF | {verb.upper(): kind for verb, kind in _KIND_OF.items()}


class RawChange(msgspec.Struct, gc=False):
    """A change as its JSON says it; rows are still text. Unknown fields are skipped."""

    table: str
    change_type: Verb
    row_data: msgspec.Raw = _ABSENT
    old_data: msgspec.Raw = _ABSENT
    user_id: str | None = None
    id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_CHARS)] | None = None
    unchanged: list[str] | None = None


class _RawRows(msgspec.Struct, gc=False):
    """The rows of a change, whatever else there is."""

    row_data: msgspec.Raw = _ABSENT
    old_data: msgspec.Raw = _ABSENT


_RAW_ROWS = msgspec.json.Decoder(_RawRows)


class RuleBroken(Exception):
    """A change breaks a rule; `refusals.explain` knows which."""


_decode_row: Callable[[msgspec.Raw], Values | None] = msgspec.json.Decoder(
    dict[str, Any] | None
).decode

_KEY_TYPES = (int, str, bool)
_COLUMN = re.compile(r"[^_\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*")


def is_column_name(name: str) -> bool:
    """1-255 bytes of UTF-8, no control character, not one of the server's own (`_...`)."""
    return _COLUMN.fullmatch(name) is not None and len(name.encode()) <= MAX_COLUMN_BYTES


def keys_differ(columns: tuple[str, ...], new: Values, old: Values) -> str | None:
    """The key column in which `old` says something else than `new`; None when they agree.

    Key columns that one of them leaves out do not differ.
    """
    for column in columns:
        if column in old and column in new:
            ours, theirs = new[column], old[column]
            if ours != theirs or type(ours) is not type(theirs):
                return column
    return None


def unchanged_fault(
    names: Sequence[str], row: Values, table: TableDef, has_old: bool
) -> tuple[int | None, str] | None:
    """(which of the names, what is wrong with it) of an `unchanged`; None when it is in order."""
    if not table.is_keyed and not has_old:
        return None, f"{table.id} has no primary key: what has not changed is taken from old_data"
    for place, name in enumerate(names):
        if name in row:
            return place, "row_data gives this column a value"
        if not is_column_name(name) or not (table.columns is None or name in table.columns):
            return place, f"{table.id} can have no such column"
    return None


def depth_of(values: object) -> int:
    """How deep JSON values are nested; a scalar is 0, an empty object 1."""
    depth = 0
    level = [values]
    while level := [value for value in level if isinstance(value, dict | list)]:
        depth += 1
        level = [
            inner
            for value in level
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
    return depth


def is_too_long(text: msgspec.Raw | bytes, limit: int) -> bool:
    """Whether a row's text is so far beyond `limit` that it is not even decoded.

    White space and escapes do not count, for they are not kept. A text that is up to twice too long
    for other reasons (a name given twice, zeros at the end of a number) is given a chance.
    """
    if len(text) <= 2 * limit:
        return False
    text = bytes(text)
    spared = sum(map(text.count, (b" ", b"\n", b"\r", b"\t", b"\\"))) + 5 * text.count(b"\\u")
    return len(text) - spared > 2 * limit


class _ColumnNames(set[str]):
    """Names found good. Bounded, because producers choose them."""

    def learn(self, names: Values) -> bool:
        if not all(is_column_name(name) for name in names):
            return False
        if len(self) > 10_000:
            self.clear()
        self.update(names)
        return True


_good_names = _ColumnNames()


_checks: dict[TableId, tuple[Mapping[str, ColumnType], RowCheck]] = {}


def _check_of(table: TableId, columns: Mapping[str, ColumnType]) -> RowCheck:
    """The check of a table's rows; one for all batches, for it learns what rows look like."""
    known = _checks.get(table)
    if known is None or known[0] is not columns:
        known = _checks[table] = columns, RowCheck(columns)
    return known[1]


class _Target:
    """A table and what must hold of a change to it."""

    __slots__ = ("_check", "_limits", "_max_depth", "table")

    def __init__(self, table: TableDef, limits: IngestLimits) -> None:
        self.table = table
        self._limits = limits
        self._max_depth = min(limits.max_depth, MAX_ENCODABLE_DEPTH)
        self._check = None if table.columns is None else _check_of(table.id, table.columns)

    def owner(self, user_id: str | None) -> Owner:
        if self.table.is_shared:
            if user_id is not None:
                raise RuleBroken
            return SHARED
        if user_id is None or not is_user_id(user_id):
            raise RuleBroken
        return user_id

    def row(self, raw: msgspec.Raw) -> Row | None:
        """The row of a `row_data` or `old_data`; None when it is absent or null."""
        if raw is _ABSENT:
            return None
        if is_too_long(raw, self._limits.max_row_bytes):
            raise RuleBroken
        values = _decode_row(raw)
        if values is None:
            return None
        if self._check is not None:
            # Declared names are good ones.
            if self._check(values) is not None:
                raise RuleBroken
        elif not _good_names.issuperset(values) and not _good_names.learn(values):
            raise RuleBroken
        # Copied, for orjson leaves its result in the kilobytes of its buffer, and rows are kept.
        json = b"".join((orjson.dumps(values), b""))
        if len(json) > self._limits.max_row_bytes:
            raise RuleBroken
        # Most rows are flat, which costs little to see.
        if json.rfind(b"{") or b"[" in json:
            brackets = json.count(b"{") + json.count(b"[")
            if brackets > self._max_depth and depth_of(values) > self._max_depth:
                raise RuleBroken
        return Row(json, values)

    def admit(self, raw: RawChange) -> PostedChange:
        owner = self.owner(raw.user_id)
        kind = KIND_OF[raw.change_type]
        if kind == "truncate":
            return self._truncate(owner, raw)
        row, old = self.row(raw.row_data), self.row(raw.old_data)
        key_columns = self.table.primary_key
        if row is not None and old is not None and keys_differ(key_columns, row.values, old.values):
            raise RuleBroken
        if kind == "delete":
            gone, key = self._gone(row, old)
            return PostedChange(self.table.id, owner, "delete", None, gone, key, raw.id)
        if row is None:
            raise RuleBroken
        key = self._key(row) if key_columns else None
        unchanged = self._unchanged(raw.unchanged, row, old) if raw.unchanged else ()
        if key is None and kind == "insert":
            old = None  # nothing was there before an insert
        return PostedChange(self.table.id, owner, kind, row, old, key, raw.id, unchanged)

    def _truncate(self, owner: Owner, raw: RawChange) -> PostedChange:
        if not self.table.is_keyed:
            raise RuleBroken
        return PostedChange(self.table.id, owner, "truncate", None, None, None, raw.id)

    def _unchanged(self, names: list[str], row: Row, old: Row | None) -> tuple[str, ...]:
        """The columns that keep their values, each once."""
        if unchanged_fault(names, row.values, self.table, old is not None) is not None:
            raise RuleBroken
        return tuple(dict.fromkeys(names))

    def _gone(self, row: Row | None, old: Row | None) -> tuple[Row, str | None]:
        """What a delete says of the row that goes, and its key."""
        if not self.table.is_keyed:
            if old is None:
                raise RuleBroken
            return old, None
        for image in (old, row):
            if image is not None and (key := key_of(self.table.primary_key, image.values)):
                return image, key
        raise RuleBroken

    def _key(self, row: Row) -> str:
        key = key_of(self.table.primary_key, row.values)
        if key is None:
            raise RuleBroken
        return key


class Rules:
    """The rules as they stand for one batch: a reload in between cannot split it."""

    def __init__(self, catalog: Catalog, limits: IngestLimits) -> None:
        self.catalog = catalog
        self.limits = limits
        self._targets: dict[str, _Target] = {}

    def admit(self, raw: RawChange) -> PostedChange:
        """The change, validated; raises Doubt, or what the decoder and encoder raise."""
        target = self._targets.get(raw.table)
        if target is None:
            target = self._target(raw.table)
        return target.admit(raw)

    def too_long(self, change: bytes) -> str | None:
        """The field of a change that is too long to be looked into, if there is one."""
        limit = self.limits.max_row_bytes
        if len(change) <= 2 * limit:
            return None
        try:
            raw = _RAW_ROWS.decode(change)
        except (msgspec.DecodeError, RecursionError):
            return None
        if is_too_long(raw.row_data, limit):
            return "row_data"
        return "old_data" if is_too_long(raw.old_data, limit) else None

    def _target(self, name: str) -> _Target:
        table_id = parse_table_id(name)
        table = None if table_id is None else self.catalog.get_or_create(table_id)
        if table is None:
            raise RuleBroken
        target = self._targets[name] = _Target(table, self.limits)
        return target
