"""One answer out of those of all workers.

Connections and subscriptions are told worker by worker; a cursor says in which one the next page
begins. A table is known to several workers, so each is asked for the same names, and what they
count is added up. A worker that is being replaced has no connections, and is passed over.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import msgspec
import orjson

from kalam_notify.administration.questions import (
    PAGE_BYTES,
    Answer,
    ConnectionName,
    Cursor,
    Kick,
    Listing,
    Place,
    Question,
    Why,
)

Ask = Callable[[int, Question], Awaitable[Answer | None]]
"""Put a question to a worker (from 1); None: there is none at the moment. Raises TimeoutError."""


class Page(NamedTuple):
    """Rows of JSON, and where the next page begins; None: this was the last one."""

    rows: list[bytes]
    next: Cursor | None


class Gathering:
    """Asks all workers; `workers` tells how many there should be."""

    def __init__(self, ask: Ask, workers: Callable[[], int]) -> None:
        self._ask = ask
        self._workers = workers

    async def page(self, wanted: Listing, cursor: Cursor | None) -> Page:
        """A page of connections or subscriptions; their `limit` is the page's."""
        start = cursor or Cursor(1)
        rows: list[bytes] = []
        for worker in range(start.worker, self._workers() + 1):
            room = PAGE_BYTES - sum(map(len, rows))
            if len(rows) == wanted.limit or room <= 0:
                return Page(rows, Cursor(worker))
            asked = _narrowed(wanted, wanted.limit - len(rows), room)
            if worker == start.worker and start.life:
                asked = msgspec.structs.replace(asked, after=start.after, life=start.life)
            answer = await self._ask(worker, asked)
            if answer is None:
                continue
            rows += answer.rows
            if answer.last is not None:
                return Page(rows, Cursor(worker, answer.life, answer.last))
        return Page(rows, None)

    async def of_connection(
        self, wanted: Listing, name: ConnectionName, cursor: Cursor | None
    ) -> Page:
        """A page of the subscriptions of one connection."""
        if name.worker > self._workers():
            return Page([], None)
        after = cursor.after if cursor is not None else wanted.after
        asked = msgspec.structs.replace(wanted, connection=name.number, life=name.life, after=after)
        answer = await self._ask(name.worker, asked)
        if answer is None or answer.last is None:
            return Page([] if answer is None else answer.rows, None)
        return Page(answer.rows, Cursor(name.worker, answer.life, answer.last))

    async def tables(self, wanted: Listing, cursor: Cursor | None) -> Page:
        """A page of tables, what the workers count of each added up."""
        asked = msgspec.structs.replace(wanted, after=cursor.after if cursor else Place())
        found: dict[str, dict[str, Any]] = {}
        reach: str | None = None
        async for answer in self._all(asked):
            for row in answer.rows:
                _add(found, orjson.loads(row))
            if answer.last is not None:
                # What others have beyond it, this worker may have, too.
                reach = answer.last.name if reach is None else min(reach, answer.last.name)
        names = sorted(name for name in found if reach is None or name <= reach)
        if len(names) > wanted.limit:
            names = names[: wanted.limit]
            reach = names[-1]
        rows = [orjson.dumps(found[name]) for name in names]
        return Page(rows, None if reach is None else Cursor(1, "", Place(0, reach)))

    async def kick(self, name: ConnectionName, reason: str) -> bool:
        """Close a connection with 1008; False: there is none of that name."""
        if name.worker > self._workers():
            return False
        answer = await self._ask(name.worker, Kick(name.life, name.number, reason))
        return answer is not None and bool(answer.rows)

    async def why(self, seq: int, user: str) -> dict[str, Any]:
        """What became of a change at a user's subscriptions.

        `change` is None where the log does not hold one of that seq; `log` tells what it holds.
        """
        pages: list[dict[str, Any]] = [
            orjson.loads(answer.rows[0]) async for answer in self._all(Why(seq, user))
        ]
        change = next((one["change"] for one in pages if one["change"] is not None), None)
        whole: dict[str, Any] = {
            "seq": seq,
            "user": user,
            "change": change,
            "log": [
                min((one["log"][0] for one in pages), default=0),
                max((one["log"][1] for one in pages), default=0),
            ],
            "connections": sum(one["connections"] for one in pages),
            "other_subscriptions": sum(one["other_subscriptions"] for one in pages),
            "more": sum(one["more"] for one in pages),
            "subscriptions": [case for one in pages for case in one["subscriptions"]],
        }
        denied = sorted({text for one in pages for text in one["denied"]})
        refused = next((one["refused"] for one in pages if one["refused"]), None)
        return {**whole, "verdict": _verdict(whole, denied, refused)}

    async def _all(self, question: Question) -> AsyncIterator[Answer]:
        for worker in range(1, self._workers() + 1):
            answer = await self._ask(worker, question)
            if answer is not None:
                yield answer


def _narrowed(wanted: Listing, limit: int, max_bytes: int) -> Listing:
    return msgspec.structs.replace(wanted, limit=limit, max_bytes=max_bytes)


_COUNTS = ("subscriptions", "changes")


def _add(found: dict[str, dict[str, Any]], table: dict[str, Any]) -> None:
    known = found.setdefault(table["table"], table)
    if known is not table:
        for count in _COUNTS:
            known[count] += table[count]
        known["seen_columns"] = sorted({*known["seen_columns"], *table["seen_columns"]})


def _verdict(pages: dict[str, Any], denied: list[str], refused: str | None) -> str:
    """The answer in one sentence."""
    user, change = pages["user"], pages["change"]
    if change is None:
        return f"the log holds no change {pages['seq']}"
    if not pages["connections"]:
        return f"{user} has no connection now"
    if pages["subscriptions"]:
        return "; ".join(dict.fromkeys(case["why"] for case in pages["subscriptions"]))
    if refused is not None:
        return f"a subscription of {user} no longer fits the table: {refused}"
    why = f", and {'; '.join(denied)}" if denied else ""
    return f"{user} has no subscription to {change['table']} now{why}"
