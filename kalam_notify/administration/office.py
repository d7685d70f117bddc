"""Answers other workers' questions, and one's own, about this worker."""

import asyncio
from collections.abc import Callable
from typing import Any

import orjson

from kalam_notify.administration.finding import CHECKS_PER_STEP
from kalam_notify.administration.listing import OWNER, Lists
from kalam_notify.administration.questions import Answer, Kick, Listing, Question, Why
from kalam_notify.administration.why import Case, case_of, judged
from kalam_notify.budget import Budget, Steps
from kalam_notify.errors import Compacted, SubscriptionRefused
from kalam_notify.log import EventLog
from kalam_notify.model import Change, ConnectionId
from kalam_notify.model.tables import Catalog
from kalam_notify.protocol.close import Close
from kalam_notify.sql import Limits
from kalam_notify.subscriptions.manager import Connection, ConnectionsManager

KICKED = 1008
MOST_CASES = 1000
"""Subscriptions of a user that a change is judged at; further ones are counted."""


class Office:
    """One for a worker. `life` tells this life of it from those before."""

    def __init__(
        self,
        life: str,
        lists: Lists,
        manager: ConnectionsManager,
        catalog: Catalog,
        log: EventLog,
        budget: Budget,
        *,
        position: Callable[[], int],
        limits: Callable[[], Limits],
    ) -> None:
        self._life = life
        self._lists = lists
        self._manager = manager
        self._catalog = catalog
        self._log = log
        self._budget = budget
        self._position = position
        self._limits = limits

    async def answer(self, question: Question) -> Answer:
        """Raises LogUnavailable."""
        match question:
            case Listing():
                return await self._list(question)
            case Kick():
                return self._kick(question)
            case Why():
                return Answer(self._life, [orjson.dumps(await self._why(question))])

    async def _list(self, asked: Listing) -> Answer:
        if asked.connection is not None and asked.life != self._life:
            return Answer(self._life, [])
        if asked.subject == "tables":
            return await self._lists.tables(asked)
        if asked.life not in ("", self._life):
            # The place is one of a life before this one.
            asked = Listing(
                asked.subject,
                asked.limit,
                asked.max_bytes,
                user=asked.user,
                table=asked.table,
                lagging=asked.lagging,
            )
        if asked.subject == "connections":
            return await self._lists.connections(asked)
        return await self._lists.subscriptions(asked)

    def _kick(self, asked: Kick) -> Answer:
        connection = self._manager.connections.get(ConnectionId(asked.number))
        if connection is None or asked.life != self._life:
            return Answer(self._life, [])
        name = self._lists.name_of(connection.connection_id)
        connection.end(Close(KICKED, asked.reason))
        return Answer(self._life, [orjson.dumps(name)])

    async def _why(self, asked: Why) -> dict[str, Any]:
        change = await self._change(asked.seq)
        report: dict[str, Any] = {
            "connections": 0,
            "other_subscriptions": 0,
            "more": 0,
            "subscriptions": [],
            "change": None if change is None else _told(change),
            "refused": None,
            "denied": [],
            "log": [self._log.first_seq, self._log.last_seq],
        }
        if change is None:
            return report
        steps = self._cases(asked.user, change, report)
        for case in await self._budget.do(steps, OWNER):
            # A filter may take long on a row of its own: a thread's business.
            report["subscriptions"].append(await asyncio.to_thread(judged, case, change))
        return report

    async def _change(self, seq: int) -> Change | None:
        """None where the log holds no such change, or holds it no longer."""
        found = self._log.recent(seq - 1, 1)
        if not found:
            try:
                found = (await self._log.read(seq - 1, limit=1, max_bytes=1)).changes
            except Compacted:
                return None
        return found[0] if found and found[0].seq == seq else None

    def _cases(self, user: str, change: Change, report: dict[str, Any]) -> Steps[list[Case]]:
        """The user's subscriptions to the change's table; what else there is goes into `report`."""
        cases: list[Case] = []
        for number, connection in enumerate(list(self._manager.connections.values()), 1):
            if number % CHECKS_PER_STEP == 0:
                yield
            if connection.identity.user_id == user and connection.connection_id:
                report["connections"] += 1
                self._note_access(connection, change, report)
                yield from self._cases_of(connection, change, report, cases)
        return cases

    def _note_access(self, connection: Connection, change: Change, report: dict[str, Any]) -> None:
        """Which of the roles that the user is here with may not read the table."""
        table, identity = self._catalog.get(change.table), connection.identity
        if table is not None and not table.admits(identity):
            denied = f"role {identity.role.label} may not read it: its access is {table.access}"
            if denied not in report["denied"]:
                report["denied"].append(denied)

    def _cases_of(
        self, connection: Connection, change: Change, report: dict[str, Any], cases: list[Case]
    ) -> Steps[None]:
        for handle in list(connection.subscriptions.values()):
            if handle.plan.table.id != change.table:
                report["other_subscriptions"] += 1
            elif len(cases) >= MOST_CASES:
                report["more"] += 1
            elif not handle.is_closed:
                name = self._lists.name_of(connection.connection_id)
                try:
                    case = yield from case_of(
                        handle,
                        connection.identity,
                        name,
                        connection.waiting,
                        self._limits(),
                        self._position(),
                    )
                except SubscriptionRefused as refusal:
                    report["refused"] = refusal.message
                else:
                    cases.append(case)


def _told(change: Change) -> dict[str, Any]:
    """What may be told of a change: whose row it is, but of a USER table not the row."""
    report: dict[str, Any] = {
        "seq": change.seq,
        "table": change.table,
        "change_type": change.kind,
        "user_id": change.owner or None,
    }
    if not change.owner:
        old, new = change.old, change.row
        report["old_data"] = None if old is None else orjson.loads(old.json)
        report["row_data"] = None if new is None else orjson.loads(new.json)
    return report
