"""Fixtures, a log they are posted to, and the rows that come of it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kalam_notify.config.settings import LimitSettings
from kalam_notify.http.decoders import at_once, decode_batch
from kalam_notify.http.foreign import Foreign, format_named
from kalam_notify.http.items import Form
from kalam_notify.http.rules import Rules
from kalam_notify.log import MemoryLog
from kalam_notify.model import Change, PostedChange, TableDef, TableId
from kalam_notify.model.changes import Appended
from kalam_notify.model.tables import Catalog
from kalam_notify.store.base import PageRequest

FIXTURES = Path(__file__).parent / "fixtures"
ORDERS = TableDef(TableId("shop.orders"), "shared", "public", ("id",))
LINES = TableDef(TableId("shop.lines"), "shared", "public", ("order_id", "line"))
FULL = TableDef(TableId("shop.full_ident"), "shared", "public", ("id",))
EVENTS = TableDef(TableId("shop.events"), "shared", "public")
TABLES = (ORDERS, LINES, FULL, EVENTS)


def messages(name: str) -> list[bytes]:
    return (FIXTURES / f"{name}.jsonl").read_bytes().splitlines()


def decode(
    body: bytes,
    form: Form = Form.JSON,
    *,
    format: str | None = None,
    tables: Mapping[str, TableId] | None = None,
    declared: Iterable[TableDef] = TABLES,
    only: Iterable[TableId] | None = None,
) -> list[PostedChange]:
    foreign = Foreign(tables or {}, format_named(format), None if only is None else set(only))
    return at_once(decode_batch(body, form, Rules(Catalog(declared), LimitSettings()), foreign))


class Shop:
    """A started log with the fixtures' tables."""

    def __init__(self) -> None:
        self.log = MemoryLog()

    async def start(self) -> None:
        self.log.declare(TABLES)
        await self.log.start()

    async def post(self, *bodies: bytes, **how: Any) -> list[Appended]:
        return [await self.log.append(decode(body, **how)) for body in bodies]

    async def rows(self, table: TableDef = ORDERS) -> list[dict[str, Any]]:
        page = await self.log.page(PageRequest(table, "", None, 0, None, 1000, 1 << 30))
        return [row.values for _, row in page.rows]

    async def changes(self, table: TableDef = ORDERS) -> list[Change]:
        span = await self.log.read(0, limit=10_000, max_bytes=1 << 30, table=table.id)
        return list(span.changes)
