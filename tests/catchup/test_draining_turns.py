"""Several tables of one slow connection: each has its turn when the socket has room."""

import asyncio
from typing import Any

import pytest
from helpers.sinks import FakeConnection
from helpers.world import World, world

from kalam_notify.log import MemoryLog
from kalam_notify.model import Identity, Role, TableDef, TableId, UserId

TABLES = [TableDef(TableId(f"app.t{n}"), "shared", "public", ("id",)) for n in range(3)]


class Slow(FakeConnection):
    """Takes one write, and waits to be drained."""

    def send_frames(self, frames: bytes) -> None:
        super().send_frames(frames)
        self.waiting += len(frames)

    @property
    def has_room(self) -> bool:
        return not self.waiting


async def _post(it: World, count: int) -> None:
    for table in TABLES:
        rows: list[dict[str, Any]] = [{"id": id, "pad": "x" * 2000} for id in range(count)]
        await it.post(*[it.change(table, "insert", row) for row in rows])


@pytest.mark.parametrize("options", [{"from": 0}, {"batch_size": 20}])
async def test_every_table_of_a_slow_connection_goes_on(options: dict[str, Any]) -> None:
    async with world(MemoryLog(), TABLES, batch_grace=0.0) as it:
        await _post(it, 2000)
        await it.settle()
        connection = Slow(Identity(UserId("slow"), Role.USER), 1000)
        it.manager.connect(connection)
        for table in TABLES:
            it.subscribe(connection, table.id, f"SELECT * FROM {table.id}", options)
            it.drain(connection)
        told = dict.fromkeys((table.id for table in TABLES), 0)
        async with asyncio.timeout(20):
            while max(told.values()) < 1500:
                for message in connection.heard():
                    told[message["subscription_id"]] += len(message.get("rows", ()))
                if connection.waiting:
                    it.drain(connection)
                await asyncio.sleep(0)
        assert min(told.values()) > 500
