"""Which tables there are: the declared ones, and under `auto_create` any that is named."""

from collections.abc import Callable, Iterable

from kalam_notify.model.ids import TableId
from kalam_notify.model.tables import TableDef


def auto_created(table: TableId) -> TableDef:
    """What `tables.auto_create` makes of an unknown table: shared, public, primary key `id`."""
    return TableDef(id=table, kind="shared", access="public", primary_key=("id",))


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

    def tables(self) -> list[TableDef]:
        """Every table known by now, the declared ones first."""
        created = self._created.values() if self._auto_create else ()
        return [
            *self._declared.values(),
            *(table for table in created if table.id not in self._declared),
        ]

    def is_declared(self, table: TableId) -> bool:
        """Whether the configuration names it."""
        return table in self._declared

    def get(self, table: TableId) -> TableDef | None:
        """The table a reader asks for; None when there is none. Remembers nothing.

        Under `auto_create` every well-formed name answers, so that a subscriber may come before
        the first producer, and no subscriber can fill the server's memory with names.
        """
        found = self._declared.get(table)
        if found is None and self._auto_create:
            found = self._created.get(table) or auto_created(table)
        return found

    def get_or_create(self, table: TableId) -> TableDef | None:
        """The table a producer writes to, created where the settings allow; else None."""
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
        if table in self._declared:
            return True
        return self._auto_create and (table in self._created or not self.is_full)

    def _create(self, table: TableId) -> TableDef:
        definition = auto_created(table)
        if self._on_create is not None:
            self._on_create(definition)
        self._created[table] = definition
        return definition
