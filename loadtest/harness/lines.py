"""A child process that takes commands as lines and tells events as JSON lines."""

import asyncio
import contextlib
import json
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from loadtest.harness.cpu import Cores
from loadtest.harness.faults import DeliveryFault, LoadTestFault

Event = dict[str, Any]
LINE_LIMIT = 1 << 24
ROOT = Path(__file__).resolve().parent.parent.parent  # from where `-m loadtest...` is found


class LineProcess:
    """Owns one process from start to end.

    An event that reports faults fails every later `wait`, so that a run stops at the first row
    lost and not at its timeout.
    """

    def __init__(self, name: str, process: Process, on_event: Callable[[Event], None]) -> None:
        self.name = name
        self._process = process
        self._on_event = on_event
        self._queues: dict[str, asyncio.Queue[Event]] = {}
        self._failure: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        cores: frozenset[int],
        on_event: Callable[[Event], None] = lambda event: None,
    ) -> Self:
        """Run `command` on `cores`; its stderr is this process's own."""
        with Cores.inherit(cores):
            process = await asyncio.create_subprocess_exec(
                *command, stdin=PIPE, stdout=PIPE, limit=LINE_LIMIT, cwd=ROOT
            )
        return cls(command[0].rpartition("/")[2], process, on_event)

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, command: str) -> None:
        """Give it one command; the pipe takes it at once."""
        assert self._process.stdin is not None
        self._process.stdin.write(command.encode() + b"\n")

    async def wait(self, event: str, seconds: float) -> Event:
        """The next event of this name; LoadTestFault when it does not come in time."""
        queue = self._queues.setdefault(event, asyncio.Queue())
        getter = asyncio.ensure_future(queue.get())
        try:
            await asyncio.wait(
                (getter, self._failure), timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if getter.done():
                return getter.result()
            if self._failure.done():
                raise self._failure.exception() or LoadTestFault(f"{self.name} ended")
            raise LoadTestFault(f"{self.name}: no {event!r} within {seconds:.0f} s")
        finally:
            getter.cancel()

    async def ask(self, command: str, event: str, seconds: float = 60) -> Event:
        """Send a command and wait for its answer."""
        self.send(command)
        return await self.wait(event, seconds)

    async def close(self) -> None:
        """End the process: kindly at first."""
        with contextlib.suppress(ConnectionError, ProcessLookupError):
            self.send("quit")
            try:
                await asyncio.wait_for(self._process.wait(), 10)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        await self._reader
        if self._failure.done():
            self._failure.exception()  # seen, whether or not anybody waited

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            event: Event = json.loads(line)
            self._on_event(event)
            if event["event"] == "report" or not event.get("faults"):
                self._queues.setdefault(event["event"], asyncio.Queue()).put_nowait(event)
            else:
                self._fail(DeliveryFault(f"{event['faults']} faults, first: {event['fault_text']}"))
        self._fail(LoadTestFault(f"{self.name} ended"))

    def _fail(self, fault: LoadTestFault) -> None:
        if not self._failure.done():
            self._failure.set_exception(fault)
