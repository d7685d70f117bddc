"""A whole server without sockets: log, fan-out, feeder and requests on one event loop."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson

from helpers.sinks import FakeConnection
from kalam_notify.budget import Budget, Steps, at_once
from kalam_notify.catchup.feeder import Feeder
from kalam_notify.config import WebSocketSettings
from kalam_notify.delivery.service import NotificationService
from kalam_notify.delivery.stats import FanoutStats
from kalam_notify.log import Appended, EventLog
from kalam_notify.model import Identity, Kind, PostedChange, Row, TableDef
from kalam_notify.model.tables import Catalog
from kalam_notify.protocol.messages import NextBatch, SubscriptionRequest
from kalam_notify.subscriptions.manager import ConnectionsManager
from kalam_notify.subscriptions.plans import SubscriptionState
from kalam_notify.subscriptions.requests import SubscriptionRequests


class World:
    """Post changes, make connections, and let everything settle."""

    def __init__(self, log: EventLog, tables: Sequence[TableDef], **websocket: Any) -> None:
        self.log = log
        self.tables = {table.id: table for table in tables}
        self.manager = ConnectionsManager()
        self.stats = FanoutStats()
        loop = asyncio.get_running_loop()
        self.service = NotificationService(log, self.manager, self.stats, clock=loop.time)
        settings = WebSocketSettings(**{"batch_grace": 0.01, **websocket})
        self.budget = Budget(loop.time)
        self.feeder = Feeder(
            log,
            self.manager,
            self.stats,
            self.budget,
            position=lambda: self.service.position,
            is_quiet=self.service.is_quiet,
            waiters=self.service.waiters,
            batch_grace=lambda: settings.batch_grace,
        )
        self.service.on_fallen = self.feeder.wake_all
        self.service.on_broken = self.feeder.disable
        self.requests = SubscriptionRequests(Catalog(tables), self.manager, self.feeder)
        self.requests.configure(settings, 0)

    def connect(self, identity: Identity, limit: int = 1 << 20) -> FakeConnection:
        connection = FakeConnection(identity, limit)
        self.manager.connect(connection)
        return connection

    def subscribe(
        self, connection: FakeConnection, name: str, sql: str, options: dict[str, Any] | None
    ) -> None:
        at_once(self.requests.subscribe(connection, SubscriptionRequest(name, sql, options)))

    def renew(self, steps: Steps[None]) -> None:
        """Check subscriptions anew, at once."""
        at_once(steps)

    def next_batch(self, connection: FakeConnection, name: str) -> None:
        self.requests.next_batch(connection, NextBatch(name))

    def next_batch_if_there(self, connection: FakeConnection, name: str) -> None:
        if name in connection.subscriptions:
            self.next_batch(connection, name)

    def drain(self, connection: FakeConnection) -> None:
        """The connection's socket takes everything and has room again."""
        connection.drain()
        self.feeder.drained(connection)

    async def post(self, *changes: PostedChange) -> Appended:
        return await self.log.append(changes)

    def change(
        self, table: TableDef, kind: Kind, values: dict[str, Any], owner: str = ""
    ) -> PostedChange:
        """A change of a keyed table whose key is `id`."""
        row = Row(orjson.dumps(values), values)
        key = orjson.dumps([values["id"]]).decode()
        if kind == "delete":
            return PostedChange(table.id, owner, "delete", None, row, key)
        return PostedChange(table.id, owner, kind, row, None, key)

    async def settle(self) -> None:
        """Until every subscription of a connection with room is live at the end of the log."""
        # Not `last_seq`: what a truncate has stored may still be on its way out of the file.
        head = await self.log.latest()
        async with asyncio.timeout(30):
            while not self._is_settled(head):
                await asyncio.sleep(0.001)

    def _is_settled(self, head: int) -> bool:
        if self.service.position < head or self.service.under_way or self.log.waiting:
            return False
        return all(
            handle.state is SubscriptionState.LIVE
            or (handle.plan.node.is_demoted and self.feeder.is_at_head(handle))
            for connection in self.manager.connections.values()
            for handle in connection.subscriptions.values()
        )


@asynccontextmanager
async def world(
    log: EventLog, tables: Sequence[TableDef], **websocket: Any
) -> AsyncIterator[World]:
    """A world with its loops running."""
    await log.start()
    log.declare(tables)
    it = World(log, tables, **websocket)
    loops = [
        asyncio.create_task(loop) for loop in (it.service.run(), it.feeder.run(), it.budget.run())
    ]
    try:
        yield it
    finally:
        for loop in loops:
            loop.cancel()
        outcomes = await asyncio.gather(*loops, return_exceptions=True)
        await log.close()
        for outcome in outcomes:
            if not isinstance(outcome, asyncio.CancelledError):
                raise AssertionError("a loop ended by itself") from outcome
