"""Tables, limits and small helpers for the tests of ingest."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from kalam_notify.config.hooks import IngestSettings
from kalam_notify.http.decoders import Rules, at_once, decode_batch
from kalam_notify.http.items import Form
from kalam_notify.model import PostedChange, TableDef, TableId
from kalam_notify.model.tables import Catalog
from kalam_notify.model.types import parse_type

_STRICT = {"id": parse_type("Int"), "a": parse_type("Text")}


@dataclass
class Limits:
    max_body_bytes: int = 1024 * 1024
    max_batch_changes: int = 1000
    max_row_bytes: int = 4096
    max_depth: int = 8
    ingest_queue_bytes: int = 4 * 1024 * 1024


@dataclass
class Settings:
    limits: Limits = field(default_factory=Limits)
    ingest: IngestSettings = field(default_factory=IngestSettings)


def tables() -> Iterable[TableDef]:
    return [
        TableDef(TableId("app.orders"), "shared", "public", ("id",)),
        TableDef(TableId("app.lines"), "shared", "public", ("order_id", "line")),
        TableDef(TableId("app.events"), "shared", "public"),
        TableDef(TableId("chat.inbox"), "user", "private", ("id",)),
        TableDef(TableId("app.strict"), "shared", primary_key=("id",), columns=_STRICT),
    ]


def decode(
    body: bytes,
    form: Form = Form.JSON,
    *,
    limits: Limits | None = None,
    catalog: Catalog | None = None,
) -> list[PostedChange]:
    return at_once(
        decode_batch(body, form, Rules(catalog or Catalog(tables()), limits or Limits()))
    )


def insert(row: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """An insert into app.orders that is in order, but for what `fields` says."""
    change: dict[str, Any] = {
        "table": "app.orders",
        "change_type": "insert",
        "row_data": {"id": 1} if row is None else row,
        **fields,
    }
    return {name: value for name, value in change.items() if value is not ...}


def body(*changes: object) -> bytes:
    return orjson.dumps(list(changes))
