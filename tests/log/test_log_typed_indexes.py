"""Indexes of typed columns know what is read of a value, not how it is spelled."""

import asyncio
import json
from pathlib import Path

import pytest
from log_kit import PLENTY, Clock, new_log, seqs

from kalam_notify.filters import bind
from kalam_notify.log import PageRequest, SqliteLog
from kalam_notify.model import ANONYMOUS, SHARED, PostedChange, Row, TableDef, TableId
from kalam_notify.model.changes import key_of
from kalam_notify.model.types import parse_type
from kalam_notify.sql import Limits, parse

UPPER, LOWER = "6F9619FF-8B86-D011-B42D-00C04FC964FF", "6f9619ff-8b86-d011-b42d-00c04fc964ff"
TYPED = TableDef(
    TableId("app.typed"),
    "shared",
    "public",
    primary_key=("id",),
    columns={
        "id": parse_type("uuid"),
        "total": parse_type("numeric(12,2)"),
        "at": parse_type("timestamptz"),
    },
    indexes=(("total",), ("at",)),
)


def posted(**values: object) -> PostedChange:
    row = Row(json.dumps(values, separators=(",", ":")).encode())
    return PostedChange(TYPED.id, SHARED, "insert", row, None, key_of(("id",), values))


@pytest.mark.parametrize(
    ("where", "path", "expected"),
    [
        (f"id = '{LOWER}'", "index (id)", [1]),
        ("total = 1.5", "index (total)", [1, 2]),
        ("total > 1.5", "index (total)", [3]),
        ("total BETWEEN 1 AND 2", "index (total)", [1, 2]),
        ("at = '2024-05-01T00:00:00Z'", "index (at)", [1, 2]),
        ("at > '2024-05-01T00:00:00Z' AND at < '2024-06-01'", "index (at)", [3]),
    ],
)
async def test_rows_are_found_by_what_is_read(
    tmp_path: Path, where: str, path: str, expected: list[int]
) -> None:
    log = new_log("sqlite", tmp_path, Clock())
    assert isinstance(log, SqliteLog)
    log.declare([TYPED])
    await log.start()
    await log.append(
        [
            posted(id=UPPER, total="1.50", at="2024-05-01T02:00:00+02:00"),
            posted(id=LOWER[:-1] + "0", total=1.5, at="2024-05-01"),
            posted(id=LOWER[:-1] + "1", total="12.00", at="2024-05-01T00:00:01Z"),
        ]
    )
    # The entries themselves, and not only what was written since.
    await log.trim()
    select = parse(f"SELECT * FROM app.typed WHERE {where}", Limits(16384, 512))
    filter = bind(select, TYPED, ANONYMOUS).filter
    # Until the index has been begun, and then built, there is a scan.
    async with asyncio.timeout(60):
        while await log.access_path(TYPED, SHARED, filter.hints) != path:
            await asyncio.sleep(0.01)
    request = PageRequest(TYPED, SHARED, filter.matches, 0, None, 10, PLENTY, filter.hints)
    assert seqs(await log.page(request)) == expected
    await log.close()
