"""Tables: their names, what the server knows of them, and which there are.

There are the tables of sources, the declared ones, and under `auto_create` any that is named.
"""

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Literal, NamedTuple, NewType

import msgspec

from kalam_notify.model.identity import Identity, Role, UserId
from kalam_notify.model.types import ColumnType

TableId = NewType("TableId", str)
"""`namespace.name`, interned, in its one spelling; made by `table_id` and `parse_table_id` only.

A part that is no lower-case name stands in double quotes: `public."User"`.
"""

ConnectionId = NewType("ConnectionId", int)
"""Counts up within one worker process; never reused while the process lives."""

Owner = str
"""Whose rows: a `UserId` in a USER table, `SHARED` in a SHARED one."""

SHARED: Owner = ""
"""The owner of every row of a SHARED table. A user id is never empty."""

MAX_TABLE_NAME = 63
"""Characters of a part of a table's name in double quotes."""

_REMEMBERED_CHARS = 256

_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
_PARTS = re.compile(
    r'([A-Za-z_][A-Za-z0-9_]*|"(?:[^"]|"")+")\.([A-Za-z_][A-Za-z0-9_]*|"(?:[^"]|"")+")'
)


class LiveQueryId(NamedTuple):
    """One subscription of one connection, unique within a worker process."""

    user_id: UserId
    connection_id: ConnectionId
    subscription_id: str

    def __str__(self) -> str:
        return f"{self.user_id}-{self.connection_id}-{self.subscription_id}"


def table_id(namespace: str, name: str) -> TableId | None:
    """The table of two names as they are, nothing folded; None when one of them cannot be."""
    if not all(0 < len(part) <= MAX_TABLE_NAME or _is_plain(part) for part in (namespace, name)):
        return None
    return TableId(sys.intern(f"{_spelled(namespace)}.{_spelled(name)}"))


def _is_plain(part: str) -> bool:
    return _PLAIN.fullmatch(part) is not None


def _spelled(part: str) -> str:
    if _is_plain(part):
        return part
    doubled = part.replace('"', '""')
    return f'"{doubled}"'


def table_parts(table: TableId) -> tuple[str, str]:
    """The two names of a table, as they are."""
    match = _PARTS.fullmatch(table)
    assert match is not None
    namespace, name = (
        part[1:-1].replace('""', '"') if part[0] == '"' else part for part in match.groups()
    )
    return namespace, name


def parse_table_id(text: str) -> TableId | None:
    """The table that `text` names, or None when it is not `namespace.name`.

    A part in double quotes is taken as written. Of others only ASCII letters are folded: a name is
    never changed into another by a Unicode case rule.
    """
    # Names come with every post, and most are short; long ones must not fill the memory.
    return _parsed(text) if len(text) <= _REMEMBERED_CHARS else _parsed.__wrapped__(text)


@lru_cache(maxsize=1024)
def _parsed(text: str) -> TableId | None:
    match = _PARTS.fullmatch(text)
    if match is None:
        return None
    parts = [
        part[1:-1].replace('""', '"') if part[0] == '"' else part.lower() for part in match.groups()
    ]
    return table_id(*parts)


Access = Literal["public", "restricted", "private", "dba"]

_LEAST_ROLE: dict[str, Role] = {
    "public": Role.ANONYMOUS,
    "restricted": Role.SERVICE,
    "private": Role.SERVICE,
    "dba": Role.DBA,
}


class TableDef(msgspec.Struct, frozen=True):
    """A declared (or auto-created) table."""

    id: TableId
    kind: Literal["shared", "user"]
    access: Access = "private"
    # Column names; empty: append-only, the server keeps no current rows.
    primary_key: tuple[str, ...] = ()
    # Column -> its type, in declared order; None: any column may appear.
    columns: Mapping[str, ColumnType] | None = None
    # Columns by which current rows are found without reading all of them; each index a tuple.
    indexes: tuple[tuple[str, ...], ...] = ()
    # A WHERE expression joined to every subscriber's own filter; SHARED tables only.
    policy: str | None = None
    # Seconds after which a change of this table leaves the log; None: the log's own retention.
    max_age: float | None = None

    @property
    def is_shared(self) -> bool:
        return self.kind == "shared"

    @property
    def is_keyed(self) -> bool:
        return bool(self.primary_key)

    def reads_as(self, other: "TableDef") -> bool:
        """Whether rows look alike through both definitions, whatever else they say."""
        return self is other or (
            self.kind == other.kind
            and self.primary_key == other.primary_key
            and self.columns == other.columns
        )

    def admits(self, identity: Identity) -> bool:
        """Whether this identity may subscribe: by role for SHARED, any known user for USER."""
        if self.is_shared:
            return identity.role >= _LEAST_ROLE[self.access]
        return not identity.is_anonymous


def auto_created(table: TableId) -> TableDef:
    """What `tables.auto_create` makes of an unknown table: shared, public, primary key `id`."""
    return TableDef(id=table, kind="shared", access="public", primary_key=("id",))


class SeenColumns(NamedTuple):
    """Names that the newest rows of a table have; `are_all`: each of those rows was looked at."""

    names: frozenset[str]
    are_all: bool


class Catalog:
    """The tables of this server. One object for the life of the process; `replace` reloads it.

    `on_create` is told of an auto-created table before its first change is stored; the log wants
    to know every table by then. It may raise StorageFault, and the table is then not created.
    """

    def __init__(
        self,
        declared: Iterable[TableDef] = (),
        *,
        auto_create: bool = False,
        max_tables: int = 0,
        on_create: Callable[[TableDef], None] | None = None,
    ) -> None:
        self._on_create = on_create
        self._created: dict[TableId, TableDef] = {}
        self._declared: dict[TableId, TableDef] = {}
        self._sourced: dict[TableId, TableDef] = {}
        self._auto_create = auto_create
        self.max_tables = max_tables
        self.replace(declared, auto_create=auto_create)

    def replace(
        self,
        declared: Iterable[TableDef],
        *,
        auto_create: bool | None = None,
        max_tables: int | None = None,
    ) -> None:
        """Take the tables of a reloaded configuration in place of those before.

        `max_tables`, 0 for no limit, bounds the declared and created ones together; what is there
        by then stays.
        """
        if max_tables is not None:
            self.max_tables = max_tables
        self._declared = {table.id: table for table in declared}
        if auto_create is not None:
            self._auto_create = auto_create

    def set_sourced(self, tables: Iterable[TableDef]) -> None:
        """Take the tables of sources in place of those before; they win over others so named."""
        self._sourced = {table.id: table for table in tables}

    def tables(self) -> list[TableDef]:
        """Every table known by now: those of sources, the declared ones, the created ones."""
        created = self._created if self._auto_create else {}
        return list({**created, **self._declared, **self._sourced}.values())

    def declared(self, table: TableId) -> TableDef | None:
        """What the configuration says of it."""
        return self._declared.get(table)

    def is_declared(self, table: TableId) -> bool:
        """Whether the configuration, or a source, names it."""
        return table in self._declared or table in self._sourced

    def is_sourced(self, table: TableId) -> bool:
        """Whether a source tells its changes, and nobody else may."""
        return table in self._sourced

    def get(self, table: TableId) -> TableDef | None:
        """The table a reader asks for; None when there is none. Remembers nothing.

        Under `auto_create` every well-formed name answers, so that a subscriber may come before
        the first producer, and no subscriber can fill the server's memory with names.
        """
        found = self._sourced.get(table) or self._declared.get(table)
        if found is None and self._auto_create:
            found = self._created.get(table) or auto_created(table)
        return found

    def get_or_create(self, table: TableId) -> TableDef | None:
        """The table a producer writes to, created where the settings allow; else None."""
        if table in self._sourced:
            return None
        found = self._declared.get(table)
        if found is None and self._auto_create:
            found = self._created.get(table) or (None if self.is_full else self._create(table))
        return found

    @property
    def is_full(self) -> bool:
        """Whether there may be no further table."""
        return 0 < self.max_tables <= len(self._declared) + len(self._created)

    def takes_changes(self, table: TableId) -> bool:
        """Whether a producer could write to it: it is there, or may be created."""
        if table in self._sourced:
            return False
        if table in self._declared:
            return True
        return self._auto_create and (table in self._created or not self.is_full)

    def _create(self, table: TableId) -> TableDef:
        definition = auto_created(table)
        if self._on_create is not None:
            self._on_create(definition)
        self._created[table] = definition
        return definition
