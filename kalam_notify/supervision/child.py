"""The worker's side: a process that serves until its supervisor tells it to stop, or dies.

Run as `python -m kalam_notify.supervision.child NUMBER DESCRIPTOR` by the supervisor alone. NUMBER
is there for people who look at `ps`; all else comes over the socket pair behind DESCRIPTOR.
"""

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Coroutine, Sequence
from itertools import count
from typing import Any

from kalam_notify.administration.questions import Answer, Question
from kalam_notify.config import Config
from kalam_notify.endpoints import Sockets
from kalam_notify.errors import DamagedFile, OperatorFault
from kalam_notify.logs import configure_logging, guard_tracebacks
from kalam_notify.loops import run as run_loop
from kalam_notify.scrape import Scrape, scrape
from kalam_notify.supervision.channel import Channel, worker_end
from kalam_notify.supervision.lifeline import end_without
from kalam_notify.supervision.messages import (
    Answered,
    Ask,
    Asked,
    Crew,
    FromWorker,
    Gather,
    Gathered,
    Launch,
    Listening,
    Measure,
    Measured,
    Ping,
    Pong,
    Ready,
    Refused,
    Reload,
    Reloaded,
    Replied,
    ToWorker,
)
from kalam_notify.worker import CrewView, Worker

_log = logging.getLogger("kalam_notify.worker")

_GATHER_SECONDS = 3.0
_ANSWER_SECONDS = 20.0

_ORPHAN_SECONDS = 10.0
"""Beyond drain_seconds, how long a worker may take to end when its supervisor has died."""


def main(arguments: Sequence[str]) -> int:
    """Serve; the exit code."""
    _, descriptor = arguments
    guard_tracebacks()
    # The supervisor gives the word, whoever else sends these to the whole group.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return run_loop(_serve(socket.socket(fileno=int(descriptor))))


async def _serve(pair: socket.socket) -> int:
    channel = await worker_end(pair)
    launch = await channel.receive()
    if not isinstance(launch, Launch):
        return 1  # the supervisor died before it could say anything
    end_without(pair.fileno(), launch.config().server.drain_seconds + _ORPHAN_SECONDS)
    try:
        await _work(channel, launch)
    except* OperatorFault as faults:
        leaves = _leaves(faults)
        is_damage = any(isinstance(fault, DamagedFile) for fault in leaves)
        channel.send(Refused("\n".join(map(str, leaves)), is_damage))
        code = 2
    else:
        code = 0
    await channel.close()
    return code


def _leaves(group: BaseExceptionGroup[OperatorFault]) -> list[OperatorFault]:
    found: list[OperatorFault] = []
    for fault in group.exceptions:
        found += _leaves(fault) if isinstance(fault, BaseExceptionGroup) else [fault]
    return found


async def _work(channel: Channel[ToWorker, FromWorker], launch: Launch) -> None:
    config = launch.config()
    configure_logging(config.logging, worker=launch.number + 1)
    link = Link(channel, launch, config)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, link.worker.stop)
    async with asyncio.TaskGroup() as tasks:
        listening = tasks.create_task(link.listen(), name="supervisor")
        await link.worker.serve(link.own_sockets, lambda: channel.send(Ready()))
        listening.cancel()
        link.stop_answering()


class Link:
    """A worker and its supervisor: what the one says, the other does."""

    def __init__(
        self, channel: Channel[ToWorker, FromWorker], launch: Launch, config: Config
    ) -> None:
        self._channel = channel
        self._number = launch.number
        self._sockets = [_sockets(one) for one in launch.listening]
        self._config = config
        self._vacant: list[int] = []
        self._numbers = count()
        self._gathering: dict[int, asyncio.Future[Scrape]] = {}
        self._asking: dict[int, asyncio.Future[Answer | None]] = {}
        # What others have asked, and is being answered.
        self._answering: set[asyncio.Task[None]] = set()
        self.worker = Worker(config, lambda: self._config, self, dev=launch.dev)

    @property
    def own_sockets(self) -> Sockets:
        """The sockets of this worker's slot, for it to close."""
        return _duplicate(self._sockets[self._number])

    # What the worker asks (worker.CrewView)

    def view(self) -> CrewView:
        size = len(self._sockets)
        return CrewView(self._number + 1, size, size - len(self._vacant))

    async def scrape(self) -> Scrape:
        number = next(self._numbers)
        answer: asyncio.Future[Scrape] = asyncio.get_running_loop().create_future()
        self._gathering[number] = answer
        try:
            async with asyncio.timeout(_GATHER_SECONDS):
                self._channel.send(Gather(number))
                return await answer
        finally:
            del self._gathering[number]

    async def ask(self, worker: int, question: Question) -> Answer | None:
        if worker == self._number + 1:
            return await self.worker.answer(question)
        number = next(self._numbers)
        answer: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self._asking[number] = answer
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                self._channel.send(Ask(number, worker - 1, question))
                return await answer
        finally:
            del self._asking[number]

    # What the supervisor says

    async def listen(self) -> None:
        """Do what the supervisor says; when it has died, stop."""
        while (message := await self._channel.receive()) is not None:
            match message:
                case Crew(vacant):
                    self._vacant = vacant
                    others = [n for n in vacant if n != self._number]
                    await self.worker.cover({n: self._sockets[n] for n in others})
                case Reload():
                    self._config = message.config()
                    self._channel.send(Reloaded(self.worker.reload()))
                case Measure(request):
                    self._undertake(self._measure(request))
                case Ping():
                    self._channel.send(Pong())
                case Gathered(request, families):
                    if request in self._gathering:
                        self._gathering[request].set_result(families)
                case Asked():
                    self._undertake(self._answer(message))
                case Answered(request, answer):
                    # Whoever has asked may just have given up.
                    if request in self._asking and not self._asking[request].done():
                        self._asking[request].set_result(answer)
        self._orphaned()

    def _undertake(self, answering: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(answering, name="answer")
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _measure(self, request: int) -> None:
        await self.worker.count_waiting()
        self._channel.send(Measured(request, scrape(self.worker.metrics.registry)))

    async def _answer(self, asked: Asked) -> None:
        answer = None
        try:
            answer = await self.worker.answer(asked.question)
        except Exception:
            # Another's question must not end this worker.
            _log.exception("a question of another worker could not be answered")
        self._channel.send(Replied(asked.request, answer))

    def stop_answering(self) -> None:
        """The worker's budget is at an end: what waits for it would wait for ever."""
        for task in self._answering:
            task.cancel()

    def _orphaned(self) -> None:
        _log.error("the supervisor has died: stopping")
        # The address is free at once for whoever takes the supervisor's slot.
        self.worker.refuse_connections()
        for pair in self._sockets:
            for listener in pair:
                if listener is not None:
                    listener.close()
        self.worker.stop()


def _sockets(one: Listening) -> Sockets:
    internal = None if one.internal is None else _inherited(one.internal)
    return Sockets(_inherited(one.public), internal)


def _inherited(descriptor: int) -> socket.socket:
    listener = socket.socket(fileno=descriptor)
    # Whether it blocks is one flag for all processes that share the socket. Python takes an
    # inherited one for blocking, and `dup` would make it so: another worker that accepts from it
    # in that moment would hang there.
    listener.setblocking(False)
    return listener


def _duplicate(sockets: Sockets) -> Sockets:
    public, internal = sockets
    return Sockets(public.dup(), None if internal is None else internal.dup())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
