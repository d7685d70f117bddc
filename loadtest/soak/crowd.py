"""All actors, those who post, and the checkpoints."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from loadtest.harness.faults import LoadTestFault
from loadtest.harness.http import HttpConnection
from loadtest.soak.actor import OPEN_SECONDS, USERS, Actor
from loadtest.soak.history import MARKS, WRITTEN, Change, History, Row
from loadtest.soak.life import Life, Wrong

SECONDS = 120.0  # for what must come
POSTERS = 2
KEYS = [*range(40), "1", "é"]


class Crowd:
    """Owns everything; `run` for a while, `checkpoint` in between."""

    def __init__(
        self,
        addresses: Sequence[str],
        token: Callable[[str, str], str],
        seed: int,
        *,
        actors: int = 30,
        slow_reader_timeout: float = 2.0,
    ) -> None:
        self.rng = random.Random(seed)
        self.slow_reader_timeout = slow_reader_timeout
        self.counts: Counter[str] = Counter()
        self.delays: list[int] = []
        self.history = History()
        self.retired: list[Life] = []
        # What a checkpoint found.
        self.wrong: Wrong | None = None
        self._addresses, self._sign = addresses, token
        self._actors = [Actor.any(self, number) for number in range(actors)]
        self._excused_until = self._resting_since = 0.0
        self._lags: list[tuple[float, float]] = []
        self._posting, self._rest = asyncio.Event(), asyncio.Event()
        self._in_hand = 0
        self._made = 0

    # What actors ask (actor.World)

    def token(self, user: str) -> str:
        return self._sign(user, "user")

    def address(self) -> str:
        return self.rng.choice(self._addresses)

    def retire(self, life: Life) -> None:
        self.retired.append(life)

    def excuse(self, seconds: float) -> None:
        """Somebody is about to kill a worker, or to cut connections."""
        self._excused_until = time.monotonic() + seconds

    def excuses(self, code: int) -> bool:
        """In the wake of a fault; or when this very process did not read for too long."""
        if time.monotonic() < self._excused_until:
            return True
        if code == 1013 and self._own_lag() > self.slow_reader_timeout / 2:
            self.counts["closed while this process stood still"] += 1
            return True
        return False

    def is_resting(self) -> bool:
        return not self._posting.is_set()

    @property
    def resting_seconds(self) -> float:
        """How long everybody has been coming to rest by now."""
        return time.monotonic() - self._resting_since if self.is_resting() else 0.0

    async def resting(self) -> None:
        await self._rest.wait()

    def delayed(self, nanoseconds: int) -> None:
        self.delays.append(nanoseconds)

    def _own_lag(self) -> float:
        since = time.monotonic() - 2 * self.slow_reader_timeout
        return max((lag for at, lag in self._lags if at > since), default=0.0)

    async def _watch_own_lag(self) -> None:
        while True:
            begun = time.monotonic()
            await asyncio.sleep(0.05)
            lag = time.monotonic() - begun - 0.05
            self._lags = [*self._lags[-200:], (time.monotonic(), lag)]

    # Posting

    def _row(self, *, big: bool) -> Row:
        self._made += 1
        rng = self.rng
        row: Row = {
            "id": rng.choice(KEYS),
            "n": self._made,
            "v": rng.choice([None, *range(7)]),
            "name": rng.choice(["anna", "bert", "abc", "zoë"]),
            "at": time.monotonic_ns(),
        }
        return row | ({"pad": "x" * rng.randint(2000, 12_000)} if big else {})

    def _change(self, *, big: bool) -> Change:
        rng = self.rng
        table = rng.choice(WRITTEN)
        owner = rng.choice(USERS) if table.owned else ""
        row = self._row(big=big)
        if table.keyed and rng.random() < 0.2:
            return Change(table.name, owner, "delete", {"id": row["id"]})
        kind = rng.choice(["insert", "update"]) if table.keyed else "insert"
        return Change(table.name, owner, kind, row)

    async def _post_on_and_on(self) -> None:
        connection = self._http()
        while True:
            await self._posting.wait()
            self._in_hand += 1
            burst = self.rng.random() < 0.08
            for _ in range(self.rng.randint(4, 12) if burst else 1):
                size = 40 if burst else self.rng.randint(1, 12)
                _, body = self.history.batch([self._change(big=burst) for _ in range(size)])
                connection = await self._post(connection, body)
            self._in_hand -= 1
            await asyncio.sleep(self.rng.uniform(0.0, 0.08))

    async def _post(self, connection: HttpConnection, body: list[Row]) -> HttpConnection:
        """Until it is acknowledged; by another worker where the one asked has gone."""
        until = time.monotonic() + SECONDS
        data = json.dumps(body).encode()
        while time.monotonic() < until:
            try:
                status, answer = await connection.request(
                    "POST", "/v1/changes", self._sign("poster", "service"), data
                )
            except (OSError, EOFError, LoadTestFault):
                self.counts["posts tried again"] += 1
                connection.close()
                connection = self._http()
                await asyncio.sleep(0.02)
                continue
            if status == 200:
                told = json.loads(answer)
                if told["accepted"] + told["duplicates"] != len(body):
                    raise Wrong(f"{len(body)} changes were posted, the answer was {told}")
                self.counts["changes"] += len(body)
                return connection
            if status not in (429, 503):
                raise Wrong(f"a post was answered {status}: {answer[:300]!r}")
            await asyncio.sleep(0.05)
        raise Wrong("a post was not acknowledged")

    def _http(self) -> HttpConnection:
        return HttpConnection(self._addresses[0])

    async def _witness(self) -> None:
        """Hears the mark of every batch, whatever happens to its connection."""
        position: int | None = None
        url = self._addresses[0].replace("http", "ws", 1) + "/v1/ws"
        headers = {"Authorization": f"Bearer {self._sign('witness', 'user')}"}
        while True:
            options = None if position is None else {"from": position}
            subscription = {"id": "w", "sql": f"SELECT * FROM {MARKS}", "options": options}
            try:
                async with connect(
                    url,
                    additional_headers=headers,
                    proxy=None,
                    max_size=None,
                    ping_interval=None,
                    open_timeout=OPEN_SECONDS,
                ) as client:
                    await client.send(
                        json.dumps({"type": "subscribe", "subscription": subscription})
                    )
                    async for text in client:
                        position = self._testify(json.loads(text), position)
            except (OSError, EOFError, InvalidHandshake, ConnectionClosed):
                await asyncio.sleep(0.02)

    def _testify(self, told: Row, position: int | None) -> int | None:
        match told["type"]:
            case "subscription_ack":
                if position is not None:
                    return position
                self._posting.set()
                return int(told["batch_control"]["last_seq_id"])
            case "change":
                for row in told["rows"]:
                    self.history.witness(row["batch"], int(row["_seq"]))
                    position = int(row["_seq"])
            case "error":
                raise Wrong(f"the witness was told {told}")
        return position

    # Running

    @asynccontextmanager
    async def living(self) -> AsyncIterator["Crowd"]:
        """Everybody at work; ends at once with the first Wrong."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._witness()), group.create_task(self._watch_own_lag())]
            async with asyncio.timeout(SECONDS):
                await self._posting.wait()
            tasks += [group.create_task(actor.run()) for actor in self._actors]
            tasks += [group.create_task(self._post_on_and_on()) for _ in range(POSTERS)]
            try:
                yield self
            except Wrong as wrong:
                # Told at once, for what others meet while all ends comes before it in the group.
                self.wrong = wrong
                raise
            finally:
                for task in tasks:
                    task.cancel()

    async def pass_time(self, seconds: float) -> None:
        """Let everybody go on for so long."""
        await asyncio.sleep(seconds)

    async def checkpoint(self) -> None:
        """Let everything come to rest, and hold it against what was posted."""
        self._posting.clear()
        self._rest.set()
        self._resting_since = time.monotonic()
        await self._until(lambda: not self._in_hand, "posts are acknowledged")
        await self._until(lambda: self.history.is_witnessed, "every batch is heard of")
        self.history.settle()
        await self._until(self._all_settled, self._who_is_not)
        for actor in self._actors:
            await actor.echo()
        await self._until(self._all_settled, self._who_is_not)
        for life in self.retired:
            life.check(self.history, is_whole=False)
        lives = [life for actor in self._actors for life in actor.living()]
        for life in lives:
            life.check(self.history, is_whole=True)
        self.counts["subscriptions checked"] += len(lives) + len(self.retired)
        self.counts["checkpoints"] += 1
        base = self.history.compact()
        self.retired = []
        for life in lives:
            life.checked(base)
        self._rest.clear()
        self._posting.set()

    def _all_settled(self) -> bool:
        return all(
            actor.is_settled and all(life.is_level(self.history) for life in actor.living())
            for actor in self._actors
        )

    def _who_is_not(self) -> str:
        for actor in self._actors:
            if not actor.is_settled:
                return f"connection {actor.number} comes to rest ({actor.lives})"[:1500]
            for life in actor.living():
                if not life.is_level(self.history):
                    life.check(self.history, is_whole=True)
                    return f"{life.name} is level"
        return "all come to rest"

    async def _until(self, condition: Callable[[], bool], what: str | Callable[[], str]) -> None:
        give_up = time.monotonic() + SECONDS
        while not condition():
            if time.monotonic() > give_up:
                raise Wrong(
                    f"not within {SECONDS:.0f} s: {what if isinstance(what, str) else what()}"
                )
            await asyncio.sleep(0.02)


def first_of(group: BaseExceptionGroup[Any]) -> BaseException:
    """The first exception in nested groups."""
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first
