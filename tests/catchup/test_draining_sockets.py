"""A transport may tell that it has drained in the very call that writes to it, as TLS does."""

from typing import Any

import pytest
from helpers.sinks import FakeConnection
from helpers.world import World, world

from kalam_notify.log import MemoryLog
from kalam_notify.model import ANONYMOUS, TableDef, TableId

ORDERS = TableDef(TableId("app.orders"), "shared", "public", ("id",))


class Eager(FakeConnection):
    """Tells of having drained before `send_frames` returns."""

    def __init__(self, world: World) -> None:
        super().__init__(ANONYMOUS)
        self._world = world

    def send_frames(self, frames: bytes) -> None:
        super().send_frames(frames)
        self._world.feeder.drained(self)


@pytest.mark.parametrize(
    ("options", "batches"),
    [
        (None, 1),
        ({}, 1),
        ({"batch_size": 2}, 3),
        ({"last_rows": 2}, 1),
        ({"last_rows": 0}, 1),
        ({"from": 0}, 1),
        ({"from": 1 << 52, "on_gap": "snapshot"}, 1),
    ],
)
@pytest.mark.parametrize("rows", [0, 5])
async def test_a_socket_that_drains_while_it_is_written_to_is_acknowledged_once(
    rows: int, options: dict[str, Any] | None, batches: int
) -> None:
    async with world(MemoryLog(), [ORDERS]) as it:
        for number in range(rows):
            await it.post(it.change(ORDERS, "insert", {"id": number}))
        connection = Eager(it)
        it.manager.connect(connection)
        it.subscribe(connection, "a", "SELECT * FROM app.orders", options)
        await it.settle()
        await it.post(it.change(ORDERS, "insert", {"id": "last"}))
        await it.settle()
        heard = connection.heard()
        kinds = [message["type"] for message in heard]
        assert kinds.count("subscription_ack") == 1
        assert kinds.count("initial_data_batch") == (batches if rows else 1)
        ids = [row["id"] for message in heard for row in message.get("rows", ())]
        assert len(ids) == len(set(ids))
        assert ids[-1] == "last"
