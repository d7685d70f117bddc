"""One connection that lives as people's do, and takes note of all that it is told."""

import asyncio
import contextlib
import json
import random
import socket
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from loadtest.soak.history import FILTERS, PROJECTIONS, TABLES, Query
from loadtest.soak.life import Life, Message, Wrong

USERS = ("alice", "bob", "eve")
OPEN_SECONDS = 60.0  # for an upgrade, on a machine that has much else to do
TINY = 4096  # bytes of SO_RCVBUF: the kernel takes its least


class World(Protocol):
    """What an actor knows of the others."""

    rng: random.Random
    counts: Counter[str]
    slow_reader_timeout: float

    def token(self, user: str) -> str: ...

    def address(self) -> str:
        """`http://host:port` to connect to; another one each time, where there are several."""

    def retire(self, life: Life) -> None:
        """Whatever it was told so far is to be checked; no more will come."""

    def excuses(self, code: int) -> bool:
        """Whether a close that nobody asked for may come now."""

    def is_resting(self) -> bool: ...

    async def resting(self) -> None:
        """Until everybody is to come to rest."""

    def delayed(self, nanoseconds: int) -> None: ...


@dataclass
class Actor:
    """One client; connects, and connects again."""

    world: World
    number: int
    user: str
    has_tiny_buffer: bool
    deflates: bool
    lives: dict[str, Life] = field(default_factory=dict)
    # Subscribed, not yet acknowledged.
    pending: dict[str, Life] = field(default_factory=dict)
    # For every token refresh that is on the way: the lives that end with its answer.
    echoes: deque[list[Life]] = field(default_factory=deque)
    _socket: ClientConnection | None = None
    _reads: asyncio.Event = field(default_factory=asyncio.Event)
    _hangs_up: bool = False
    _stalled_long: bool = False

    @classmethod
    def any(cls, world: World, number: int) -> "Actor":
        rng = world.rng
        actor = cls(world, number, rng.choice(USERS), rng.random() < 0.5, rng.random() < 0.2)
        actor.begin(rng.randint(1, 8), rng.sample(TABLES, rng.randint(1, 4)))
        return actor

    def begin(self, count: int, tables: list[Any]) -> None:
        """Subscriptions for the first connection."""
        self.tables = tables
        for place in range(count):
            self._prepare(f"s{place}")

    # Connections

    async def run(self) -> None:
        """For ever; ends by being cancelled, or by Wrong."""
        this = asyncio.current_task()
        assert this is not None
        # What closing a connection meets with may come in the place of the cancellation.
        while not this.cancelling():
            try:
                async with await self._connect() as connection:
                    await self._converse(connection)
            except ConnectionClosed as close:
                self._judge(close)
            except (OSError, EOFError, InvalidHandshake, TimeoutError) as refused:
                if not self.world.excuses(0):
                    raise Wrong(f"connection {self.number} was refused: {refused!r}") from refused
                await asyncio.sleep(0.05)
            finally:
                self._socket = None

    async def _connect(self) -> ClientConnection:
        to = urlsplit(self.world.address())
        sock = socket.socket()
        sock.setblocking(False)
        if self.has_tiny_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, TINY)
        await asyncio.get_running_loop().sock_connect(sock, (to.hostname, to.port))
        return await connect(
            f"ws://{to.netloc}/v1/ws",
            sock=sock,
            additional_headers={"Authorization": f"Bearer {self.world.token(self.user)}"},
            compression="deflate" if self.deflates else None,
            proxy=None,
            max_size=None,
            max_queue=2,
            ping_interval=None,
            open_timeout=OPEN_SECONDS,
        )

    def _judge(self, close: ConnectionClosed) -> None:
        code = close.rcvd.code if close.rcvd else 1006
        self.world.counts[f"closed {code}"] += 1
        if self._hangs_up:
            return
        if code == 1013 and self._stalled_long:
            self.world.counts["closed while it did not read"] += 1
        elif not self.world.excuses(code):
            raise Wrong(f"connection {self.number} read, and was closed: {close}")

    async def _converse(self, connection: ClientConnection) -> None:
        self._hangs_up = self._stalled_long = False
        self._reads.set()
        told = json.loads(await connection.recv())
        if told["type"] != "auth_success":
            raise Wrong(f"connection {self.number} was told {told}")
        await self._subscribe_all(connection)
        self._socket = connection
        acting = asyncio.create_task(self._act_on_and_on(connection))
        try:
            await self._read(connection)
        finally:
            acting.cancel()
            # Not awaited by itself: a cancellation of this very task would be taken for its own.
            await asyncio.wait([acting])

    async def _subscribe_all(self, connection: ClientConnection) -> None:
        """What was live is resumed; what had not been answered is asked for again."""
        self.world.counts["connections"] += 1
        for lives in self.echoes:
            self._end(lives)
        self.echoes.clear()
        for name, life in self.pending.items():
            # Whether it had been replaced when the connection went nobody can know.
            if (old := self.lives.get(name, life)) is not life:
                self._end([old])
        self.pending = {n: life for n, life in self.lives.items() if not life.ended} | self.pending
        for name, life in self.pending.items():
            await self._subscribe(connection, name, life)

    async def _subscribe(self, connection: ClientConnection, name: str, life: Life) -> None:
        options = life.resume()
        if life.resuming:
            self.world.counts["resumes"] += 1
        subscription = {"id": name, "sql": life.query.sql, "options": options}
        await self._say(connection, type="subscribe", subscription=subscription)

    async def _say(self, connection: ClientConnection, **message: Any) -> None:
        await connection.send(json.dumps(message))

    # Listening

    async def _read(self, connection: ClientConnection) -> None:
        while True:
            await self._reads.wait()
            await self._take(connection, json.loads(await connection.recv()))

    async def _take(self, connection: ClientConnection, message: Message) -> None:
        if message["type"] == "auth_success":
            if not self.echoes:
                raise Wrong(f"connection {self.number}: an auth_success that nobody asked for")
            self._end(self.echoes.popleft())
            return
        name = message.get("subscription_id", "")
        if message.get("code") == "BATCH_FETCH_FAILED" and self._has_left(name):
            return  # a page asked for and an unsubscribe have crossed
        if message["type"] == "subscription_ack" and name in self.pending:
            self._replace(name, self.pending.pop(name))
        life = self.lives.get(name)
        if life is None:
            raise Wrong(f"connection {self.number} was told {str(message)[:300]}")
        life.take(message)
        self._note_delay(message)
        has_more = message["type"] == "initial_data_batch" and message["batch_control"]["has_more"]
        # Who does not ask for a page is given it after a while.
        if has_more and self.world.rng.random() < 0.7:
            await self._say(connection, type="next_batch", subscription_id=name)

    def _has_left(self, name: str) -> bool:
        life = self.lives.get(name)
        return life is not None and (life.ended or any(life in ending for ending in self.echoes))

    def _replace(self, name: str, life: Life) -> None:
        old = self.lives.get(name)
        if old is not None and old is not life and not old.ended:
            old.ended = True
            self.world.retire(old)
        self.lives[name] = life

    def _end(self, lives: list[Life]) -> None:
        for life in lives:
            if not life.ended:
                life.ended = True
                self.world.retire(life)

    def _note_delay(self, message: Message) -> None:
        if message["type"] == "change" and self._reads.is_set():
            for row in message.get("rows", ()):
                if "at" in row:
                    self.world.delayed(time.monotonic_ns() - row["at"])

    # Acting

    async def _act_on_and_on(self, connection: ClientConnection) -> None:
        rng = self.world.rng
        while True:
            await asyncio.sleep(rng.uniform(0.02, 0.4))
            if self.world.is_resting():
                self._reads.set()
                continue
            try:
                await self._act(connection, rng.randrange(20))
            except ConnectionClosed:
                return  # the reader tells why

    async def _act(self, connection: ClientConnection, choice: int) -> None:
        match choice:
            case 0 | 1 | 2 | 3:
                await self._stall(
                    self.world.rng.uniform(0.05, 0.3 * self.world.slow_reader_timeout)
                )
            case 4:
                # Longer than the server waits: it may close, and must lose nothing.
                self._stalled_long = True
                await self._stall(1.5 * self.world.slow_reader_timeout)
            case 5 | 6:
                await self._subscribe_anew(connection)
            case 7:
                await self._unsubscribe(connection)
            case 8:
                self._hangs_up = True
                await connection.close()
            case 9:
                self._hangs_up = True
                connection.transport.abort()
            case 10 | 11:
                await self.refresh(connection, [])

    async def _stall(self, seconds: float) -> None:
        self.world.counts["stalls"] += 1
        self._reads.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.world.resting(), seconds)
        self._reads.set()

    def _prepare(self, name: str) -> Life:
        rng = self.world.rng
        table = rng.choice(self.tables)
        owner = self.user if table.owned else ""
        query = Query(table, owner, rng.randrange(len(FILTERS)), rng.choice(PROJECTIONS))
        options = rng.choice([None, {}, {"batch_size": rng.randint(1, 20)}])
        if not table.keyed and options:
            options = {"last_rows": rng.randint(0, 30)}
        life = Life(f"{self.number}/{name}", query, options)
        self.pending[name] = life
        return life

    async def _subscribe_anew(self, connection: ClientConnection) -> None:
        """Under an id that is in use, as often as not.

        Not while an ack is due for it: the server owes none to a subscription that was replaced
        while its snapshot was read, so nobody could tell whose ack the next one is.
        """
        name = f"s{self.world.rng.randrange(8)}"
        if name not in self.pending:
            self.world.counts["subscribed anew"] += 1
            await self._subscribe(connection, name, self._prepare(name))

    async def _unsubscribe(self, connection: ClientConnection) -> None:
        free = [n for n, life in self.lives.items() if not life.ended and n not in self.pending]
        free = [n for n in free if not any(self.lives[n] in lives for lives in self.echoes)]
        if not free:
            return
        name = self.world.rng.choice(free)
        self.world.counts["unsubscribed"] += 1
        await self._say(connection, type="unsubscribe", subscription_id=name)
        # Messages are handled in order: with the answer to this it must be over.
        await self.refresh(connection, [self.lives[name]])

    async def refresh(self, connection: ClientConnection, ending: list[Life]) -> None:
        self.echoes.append(ending)
        token = self.world.token(self.user)
        await self._say(connection, type="authenticate", method="jwt", token=token)

    # At a checkpoint

    @property
    def is_settled(self) -> bool:
        """Connected, everything answered."""
        return (
            self._socket is not None
            and not self.echoes
            and not self.pending
            and all(life.ended or life.is_live for life in self.lives.values())
        )

    async def echo(self) -> None:
        """Hear everything that was sent before now."""
        connection = self._socket
        if connection is not None:
            with contextlib.suppress(ConnectionClosed):
                await self.refresh(connection, [])

    def living(self) -> list[Life]:
        return [life for life in self.lives.values() if not life.ended]
