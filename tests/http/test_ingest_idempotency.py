"""Retries are harmless: POST /v1/changes in front of both logs."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from ingest_fixtures import Settings, body, insert, tables
from starlette.applications import Starlette
from starlette.types import Message

from kalam_notify.http.answers import ERROR_HANDLERS
from kalam_notify.http.ingest import create_ingest_routes
from kalam_notify.log import EventLog, open_log
from kalam_notify.model import Identity, Role, UserId
from kalam_notify.model.tables import Catalog


async def anybody(authorization: str | None, api_key: str | None) -> Identity:
    return Identity(UserId("feeder"), Role.SERVICE)


class Counts:
    def __init__(self) -> None:
        self.tables: dict[str, int] = {}

    def request(self, status: int) -> None:
        pass

    def ingested(self, table: str, changes: int) -> None:
        self.tables[table] = self.tables.get(table, 0) + changes


class Ingest:
    """The endpoint in front of a real log, asked by ASGI."""

    def __init__(self, log: EventLog) -> None:
        self.log = log
        self.counts = Counts()
        self.app = Starlette(
            routes=create_ingest_routes(
                log, Catalog(tables()), anybody, Settings, metrics=self.counts
            ),
            exception_handlers=dict(ERROR_HANDLERS),
        )

    async def post(self, *changes: dict[str, Any], key: str | None = None) -> dict[str, Any]:
        sent: list[Message] = []
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/changes",
            "query_string": b"",
            "headers": [] if key is None else [(b"idempotency-key", key.encode())],
        }

        async def receive() -> Message:
            return {"type": "http.request", "body": body(*changes), "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        assert sent[0]["status"] == 200, sent
        answer: dict[str, Any] = orjson.loads(sent[1]["body"])
        return answer


@pytest.fixture(params=["sqlite:", "memory:"])
async def ingest(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ingest]:
    log = open_log(request.param, tmp_path)
    await log.start()
    log.declare(tables())
    yield Ingest(log)
    await log.close()


def outcome(answer: dict[str, Any]) -> tuple[int, int, bool]:
    """Accepted, duplicates, and whether seqs were given."""
    assert (answer["first_seq"] is None) == (answer["last_seq"] is None)
    return answer["accepted"], answer["duplicates"], answer["first_seq"] is not None


async def test_an_id_seen_is_a_duplicate_whatever_it_brings(ingest: Ingest) -> None:
    assert outcome(await ingest.post(insert(id="a"), insert({"id": 2}, id="b"))) == (2, 0, True)
    again = insert({"x": 5}, id="b", table="app.events")
    assert outcome(await ingest.post(again, insert({"id": 3}, id="c"))) == (1, 1, True)
    assert outcome(await ingest.post(again)) == (0, 1, False)
    assert ingest.counts.tables == {"app.orders": 3}


async def test_an_id_twice_in_one_batch_counts_once(ingest: Ingest) -> None:
    assert outcome(await ingest.post(insert(id="a"), insert(id="a"))) == (1, 1, True)


async def test_the_seqs_are_those_of_the_new_changes(ingest: Ingest) -> None:
    await ingest.post(insert(id="a"))
    answer = await ingest.post(insert(id="a"), insert(id="b"), insert(id="c"))
    assert answer["last_seq"] == answer["first_seq"] + 1


@pytest.mark.parametrize("count", [1, 3, 5])
async def test_a_batch_key_seen_makes_all_changes_duplicates(ingest: Ingest, count: int) -> None:
    first = [insert({"id": number}) for number in range(3)]
    assert outcome(await ingest.post(*first, key="k")) == (3, 0, True)
    retry = [insert({"id": number}, id=f"new-{number}") for number in range(count)]
    assert outcome(await ingest.post(*retry, key="k")) == (0, count, False)
    # Nothing of the retry was looked at: its ids are still new.
    assert outcome(await ingest.post(*retry)) == (count, 0, True)


async def test_a_batch_key_and_an_id_of_the_same_text_never_meet(ingest: Ingest) -> None:
    assert outcome(await ingest.post(insert(), key="same")) == (1, 0, True)
    assert outcome(await ingest.post(insert(id="same"))) == (1, 0, True)
    assert outcome(await ingest.post(insert(), key="same")) == (0, 1, False)


async def test_ids_inside_a_keyed_batch_count_too(ingest: Ingest) -> None:
    assert outcome(await ingest.post(insert(id="a"), key="k-1")) == (1, 0, True)
    assert outcome(await ingest.post(insert(id="a"), insert(id="b"), key="k-2")) == (1, 1, True)
    assert outcome(await ingest.post(insert(id="b"))) == (0, 1, False)


async def test_of_posts_at_the_same_time_one_is_stored(ingest: Ingest) -> None:
    answers = await asyncio.gather(
        *(ingest.post(insert({"id": n}), insert({"id": -n}), key="k") for n in range(1, 20))
    )
    assert sorted(outcome(answer) for answer in answers)[-1] == (2, 0, True)
    assert sum(answer["accepted"] for answer in answers) == 2


async def test_keys_survive_a_restart(tmp_path: Path) -> None:
    for expected in [(1, 0, True), (0, 1, False)]:
        log = open_log("sqlite:", tmp_path)
        await log.start()
        log.declare(tables())
        assert outcome(await Ingest(log).post(insert(), key="k")) == expected
        assert outcome(await Ingest(log).post(insert(id="i"))) == expected
        await log.close()


async def test_what_was_posted_is_what_the_log_tells(ingest: Ingest) -> None:
    await ingest.post(
        insert({"id": 1, "price": 1.5, "n": 2**64 - 1, "t": "é\u0000"}),
        insert({"id": 1, "price": None}, change_type="update"),
        {"table": "app.orders", "change_type": "delete", "row_data": {"id": 1}},
    )
    span = await ingest.log.read(0, limit=10, max_bytes=10_000)
    told = [(change.kind, change.row, change.old) for change in span.changes]
    assert [kind for kind, _, _ in told] == ["insert", "update", "delete"]
    assert told[0][1] is not None
    assert (
        told[0][1].json == '{"id":1,"price":1.5,"n":18446744073709551615,"t":"é\\u0000"}'.encode()
    )
    assert told[2][2] == told[1][1]
