"""Starts the client program and speaks to it."""

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

from loadtest.harness import native
from loadtest.harness.faults import DeliveryFault
from loadtest.harness.lines import Event, LineProcess

Shape = Literal["fixed", "beside", "spread"]
"""fixed: as it stands; beside: silent ones are added; spread: rows may be shared out to tables."""


@dataclass(frozen=True)
class ClientPlan:
    """Who subscribes to what. Active subscription i takes SQL i modulo their number, tokens alike.

    A connection holds `subscriptions` active ones, each of them on each of `tables` (whose names
    stand in for the first's), and `beside` silent ones, on tables that nobody writes.
    """

    connections: int
    sql: Sequence[str]
    tokens: Sequence[str] = ()
    subscriptions: int = 1  # active ones per connection
    tables: Sequence[str] = ()  # a row goes to one of these; none: as the SQL says
    beside: Sequence[str] = ()  # SQL of the silent ones; `{n}` becomes the connection's number
    shape: Shape = "beside"  # what the user's --subscriptions and --active may do to it
    unique_ids: bool = False
    contiguous: bool = False  # row numbers must rise by exactly one, per subscription
    deflate: bool = False
    options: str = "null"
    ramp: int = 256  # connections on the way at a time
    ping_us: int = 0  # microseconds between pings on the first connection
    receive_buffer: int = 0  # SO_RCVBUF in bytes
    path: str = "/v1/ws"
    peer: str = ""  # whose protocol: ours, or as client/peer.h names it

    @property
    def total(self) -> int:
        """Subscriptions that a row for everybody reaches."""
        return self.connections * self.subscriptions

    @property
    def receivers(self) -> int:
        """Subscriptions of one connection that get rows."""
        return self.subscriptions * max(1, len(self.tables))

    def lines(self) -> Iterator[str]:
        """SQL in the order in which connections take it, until it begins anew."""
        period = math.lcm(len(self.sql), self.subscriptions or 1) // (self.subscriptions or 1)
        if any("{n}" in sql for sql in self.beside):
            period = self.connections
        for n in range(period):
            for place in range(self.subscriptions):
                sql = self.sql[(n * self.subscriptions + place) % len(self.sql)]
                yield from self._on_each_table(sql)
            yield from (sql.replace("{n}", str(n)) for sql in self.beside)

    def _on_each_table(self, sql: str) -> Iterator[str]:
        yield sql
        yield from (sql.replace(self.tables[0], table) for table in self.tables[1:])

    def arguments(self, directory: Path, address: tuple[str, int]) -> list[str]:
        """The client program's arguments; SQL and tokens go through files in `directory`."""
        sql, tokens = directory / "sql", directory / "tokens"
        with sql.open("w") as file:
            file.writelines(json.dumps(text)[1:-1] + "\n" for text in self.lines())
        tokens.write_text("".join(token + "\n" for token in self.tokens))
        flags = {
            "--unique-ids": self.unique_ids,
            # Across tables there is no order to keep.
            "--contiguous": self.contiguous and len(self.tables) < 2,
            "--deflate": self.deflate,
        }
        return [
            *("--host", address[0], "--port", str(address[1])),
            *("--connections", str(self.connections), "--receivers", str(self.receivers)),
            *("--subscriptions", str(self.receivers + len(self.beside))),
            *("--sql-file", str(sql), "--token-file", str(tokens), "--options", self.options),
            *("--ramp", str(self.ramp), "--ping-us", str(self.ping_us)),
            *("--rcvbuf", str(self.receive_buffer), "--path", self.path),
            *(("--peer", self.peer) if self.peer else ()),
            *(flag for flag, wanted in flags.items() if wanted),
        ]


@dataclass(frozen=True)
class Delays:
    """A histogram of nanoseconds: ascending (lower edge, count), 3 % wide."""

    count: int = 0
    max: int = 0
    buckets: list[tuple[int, int]] = field(default_factory=list)

    @classmethod
    def merge(cls, parts: Sequence["Delays"]) -> "Delays":
        total: dict[int, int] = {}
        for part in parts:
            for edge, count in part.buckets:
                total[edge] = total.get(edge, 0) + count
        top = max((part.max for part in parts), default=0)
        return cls(sum(total.values()), top, sorted(total.items()))

    def percentile(self, percent: float) -> float:
        """Milliseconds that `percent` of all arrivals took at most; 0 when there were none."""
        wanted = self.count * percent / 100
        seen = 0
        for edge, count in self.buckets:
            seen += count
            if seen >= wanted:
                return min(edge * (1 + 1 / 32), self.max) / 1e6
        return self.max / 1e6


@dataclass(frozen=True)
class Report:
    """What arrived since the last reset."""

    rows: int
    sum: int
    messages: int
    bytes: int
    snapshot_rows: int
    least: tuple[int, int]  # rows and sum of numbers of the poorest connection
    most: tuple[int, int]
    placed: int  # sum of (place of the subscription + 1) * its sum: right rows, right place
    not_resumed: int
    delay: Delays
    ping: Delays

    @classmethod
    def of(cls, event: Event) -> Self:
        """Raises DeliveryFault when the client met anything that should not have been."""
        if event["faults"]:
            raise DeliveryFault(f"{event['faults']} faults, such as {event['fault_texts']}")
        plain = ("rows", "sum", "messages", "bytes", "snapshot_rows", "placed", "not_resumed")
        return cls(
            **{name: event[name] for name in plain},
            least=(event["least_rows"], event["least_sum"]),
            most=(event["most_rows"], event["most_sum"]),
            delay=_delays(event["delay"]),
            ping=_delays(event["ping"]),
        )

    def require_each(self, rows: int, total: int) -> None:
        """Every connection got `rows` rows, and their numbers add up to `total`."""
        if not self.least == self.most == (rows, total):
            raise DeliveryFault(
                f"{rows} rows adding up to {total} were posted; connections got between "
                f"{self.least} and {self.most} (rows, sum)"
            )

    def require_all(self, rows: int, total: int) -> None:
        """All subscriptions together got `rows` rows whose numbers add up to `total`."""
        if (self.rows, self.sum) != (rows, total % 2**64):
            raise DeliveryFault(f"{rows} rows were due, {self.rows} arrived (or other ones)")

    def require_placed(self, due: int) -> None:
        """Every row reached the subscription it was meant for; `due` is counted as `placed` is."""
        if self.placed != due % 2**64:
            raise DeliveryFault("rows arrived at subscriptions whose filter they do not match")


def _delays(told: Event) -> Delays:
    return Delays(told["count"], told["max"], [(edge, count) for edge, count in told["buckets"]])


class Client:
    """A running client program."""

    def __init__(self, process: LineProcess, plan: ClientPlan) -> None:
        self.plan = plan
        self.process = process

    @classmethod
    async def start(
        cls,
        plan: ClientPlan,
        address: tuple[str, int],
        directory: Path,
        cores: frozenset[int],
        on_event: Callable[[Event], None],
        *,
        python: bool = False,
    ) -> Self:
        """Start connecting; `ready` waits for the end of it."""
        program = None if python else native.build("client", zlib=True)
        command = [str(program)] if program else [sys.executable, "-m", "loadtest.client.fallback"]
        arguments = plan.arguments(directory, address)
        return cls(await LineProcess.start([*command, *arguments], cores, on_event), plan)

    async def ready(self, seconds: float = 300) -> Event:
        """Until every subscription is live."""
        return await self.process.wait("ready", seconds)

    def expect(self, rows: int) -> None:
        """Before the rows are posted: `arrived` is to wait for so many since the last reset."""
        self.process.send(f"target {rows}")

    async def arrived(self, seconds: float = 60) -> Event:
        """Until the expected rows have arrived, on all connections together."""
        return await self.process.wait("target", seconds)

    async def report(self) -> Report:
        return Report.of(await self.process.ask("report", "report"))

    async def command(self, name: str) -> None:
        """reset, stall, read, drop or return; done when this comes back."""
        await self.process.ask(name, "done")
