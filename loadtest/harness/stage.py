"""What a question measures with: servers, clients and floors, all ended when the case is over."""

import contextlib
import os
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from loadtest.client import Client, ClientPlan
from loadtest.floor import Floor
from loadtest.harness import native
from loadtest.harness.cpu import Cores, CpuMeter
from loadtest.harness.faults import LoadTestFault
from loadtest.harness.jetstream import JetStream
from loadtest.harness.lines import Event, LineProcess
from loadtest.harness.options import Options
from loadtest.harness.producer import Producer
from loadtest.harness.progress import Progress
from loadtest.harness.rows import RowMaker, change_payload
from loadtest.harness.server import ACTIVE, RAISED, SILENT, TABLE, Server, scratch_directory

T = TypeVar("T")
BUSY = 0.9  # of one core: above it the measuring side held the measured one up


class Target(Protocol):
    """What clients connect to."""

    @property
    def address(self) -> tuple[str, int]: ...


class Stage:
    """The processes of one case; made by `Bench.stage`."""

    def __init__(self, bench: "Bench", stack: contextlib.AsyncExitStack) -> None:
        self._bench = bench
        self._stack = stack
        self._cores = bench.cores
        self._client_pids: list[int] = []
        self._tables: Sequence[str] = (TABLE,)

    async def server(
        self,
        *,
        workers: int = 1,
        pinned: bool = True,
        tables: Mapping[str, Any] | None = None,
        sources: Mapping[str, Any] | None = None,
        log: Mapping[str, Any] | None = None,
        directory: Path | None = None,
        **websocket: Any,
    ) -> Server:
        """The server pointed at, or a fresh one with these websocket settings.

        Its data are below `directory`, or in a place that is gone after the case.
        """
        options = self._bench.options
        if options.url is not None:
            server = Server.running(options)
        else:
            directory = directory or self.scratch()
            cores = self._cores.server if pinned else self._cores.all
            server = await Server.start(
                directory, cores, workers, tables=tables, sources=sources, log=log, **websocket
            )
        self._stack.push_async_callback(self._end, server)
        return server

    async def _end(self, server: Server) -> None:
        code = await server.close()
        if code:
            self._bench.note(f"FAULT: the server ended with exit code {code} when told to stop")

    async def client(self, target: Target, plan: ClientPlan, *, pinned: bool = True) -> Client:
        """Subscribers on the way to the server (with tokens) or to another (without)."""
        if isinstance(target, Server):
            plan = self._shaped(plan)
            if not plan.tokens:
                plan = replace(plan, tokens=(target.token_for("subscriber"),))
        directory = self.directory()
        cores = self._cores.client if pinned else self._cores.all
        client = await Client.start(
            plan, target.address, directory, cores, self._tell, python=self._bench.uses_python
        )
        self._stack.push_async_callback(client.process.close)
        self._client_pids.append(client.process.pid)
        return client

    def _shaped(self, plan: ClientPlan) -> ClientPlan:
        """With as many subscriptions on each connection as the user wants."""
        options = self._bench.options
        if plan.shape == "fixed" or not plan.subscriptions:
            return plan
        if options.active and plan.shape == "spread":
            self._tables = ACTIVE[: options.subscriptions]
            return replace(plan, tables=self._tables)
        if options.active:
            self._bench.note("--active does not apply to all clients here: theirs are silent")
        return replace(plan, beside=[f"SELECT * FROM {t}" for t in SILENT[: options.silent]])

    async def subscribers(self, target: Target, plan: ClientPlan, *, pinned: bool = True) -> Client:
        """The same, waited for until all are live."""
        name = type(target).__name__.lower()
        self._bench.progress.step(f"{plan.connections} connections to the {name}")
        client = await self.client(target, plan, pinned=pinned)
        await client.ready()
        return client

    async def floor(self, rows: list[str], *, pinned: bool = True) -> Floor | None:
        """The bare send loop for a message with these rows; None (and a note): no compiler."""
        directory = self.directory()
        cores = self._cores.server if pinned else self._cores.all
        floor = await Floor.start(change_payload(rows), directory, cores)
        if floor is None:
            self._bench.note("no C compiler: there is no floor to compare with")
            return None
        self._stack.push_async_callback(floor.process.close)
        return floor

    async def producer(
        self, server: Server, rows: RowMaker, *, table: str = TABLE, connections: int = 1
    ) -> Producer:
        tables = self._tables if table == TABLE else (table,)
        producer = Producer(server.base, server.producer_token, tables, rows, connections)
        self.closes(producer)
        return producer

    def directory(self) -> Path:
        """A temporary directory that is gone after the case."""
        return Path(self._stack.enter_context(tempfile.TemporaryDirectory()))

    def scratch(self) -> Path:
        """A directory on the disk of the servers' data, gone after the case."""
        return self._stack.enter_context(scratch_directory(self._bench.options))

    async def streams(self, servers: int) -> JetStream:
        """NATS servers for logs that live in a stream; on all cores."""
        running = await JetStream.start(self.scratch(), servers, self._cores.all)
        self._stack.push_async_callback(running.close)
        return running

    async def process(self, command: Sequence[str], *, pinned: bool = True) -> LineProcess:
        """Another process on the client's side."""
        cores = self._cores.client if pinned else self._cores.all
        process = await LineProcess.start(command, cores)
        self._stack.push_async_callback(process.close)
        return process

    async def enter(self, context: contextlib.AbstractAsyncContextManager[T]) -> T:
        """Enter what is left when the case is over."""
        return await self._stack.enter_async_context(context)

    def closes(self, producer: Producer) -> None:
        """End this producer, too, with the case."""
        self._stack.callback(producer.close)

    @contextlib.contextmanager
    def watching_client(self, what: str) -> Iterator[None]:
        """As the bench's, for all clients of this stage."""
        with self._bench.watching_client(what, *self._client_pids):
            yield

    def _tell(self, event: Event) -> None:
        if event["event"] == "progress":
            self._bench.progress.detail(f"{event['ready']} live, {event['rows']} rows arrived")


class Bench:
    """One run of a question: the options, the machine, and what is to be said in the report."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.cores = Cores()
        self.progress = Progress(options.question, quiet=options.quiet)
        self.notes: list[str] = []
        self._busy: dict[str, float] = {}
        self.uses_python = options.python_client or native.build("client", zlib=True) is None
        os.sched_setaffinity(0, self.cores.client)
        load = os.getloadavg()[0]
        if load > len(self.cores.all) / 2:
            self.note(f"the machine was busy before the run began (load {load:.1f})")
        if not self.cores.are_apart:
            self.note("one core only: server and client shared it, and disturbed one another")
        if options.url is not None:
            self.note("the server was already running: it is not pinned, its settings are its own")
        else:
            self.note(RAISED)
        if self.uses_python:
            self.note("the client in Python was used: it is the bottleneck above small numbers")

    def note(self, text: str) -> None:
        """A sentence for the report; said once."""
        if text not in self.notes:
            self.notes.append(text)

    @contextlib.contextmanager
    def watching_client(self, what: str, *pids: int) -> Iterator[None]:
        """Remember for `all_notes` when clients and producer had nothing of their core to spare."""
        # The servers are children of this process as well: it counts without them.
        meter = CpuMeter(*pids, alone=os.getpid())
        begun = time.monotonic_ns()
        yield
        busy = meter.lap() / (time.monotonic_ns() - begun)
        if busy > BUSY:
            self._busy[what] = max(busy, self._busy.get(what, 0.0))

    def all_notes(self) -> list[str]:
        """What was noted, and where the client side was the bottleneck."""
        if not self._busy or self.options.small:
            return self.notes
        where = ", ".join(f"{what} ({busy:.0%} of its core)" for what, busy in self._busy.items())
        return [
            *self.notes,
            f"the client side was the bottleneck in: {where}; what is taken from the clock there "
            "(delays, changes per second) is the client's own, the server's CPU time stands",
        ]

    def require_own_server(self) -> None:
        if self.options.url is not None:
            raise LoadTestFault("this question starts servers of its own: leave --url away")

    @contextlib.asynccontextmanager
    async def stage(self) -> AsyncIterator[Stage]:
        async with contextlib.AsyncExitStack() as stack:
            yield Stage(self, stack)
