"""What the server knows of a table."""

from collections.abc import Mapping
from typing import Literal

import msgspec

from kalam_notify.model.identity import Identity, Role
from kalam_notify.model.ids import TableId
from kalam_notify.model.types import ColumnType

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

    def admits(self, identity: Identity) -> bool:
        """Whether this identity may subscribe: by role for SHARED, any known user for USER."""
        if self.is_shared:
            return identity.role >= _LEAST_ROLE[self.access]
        return not identity.is_anonymous
