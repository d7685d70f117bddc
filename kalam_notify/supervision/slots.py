"""One worker's slot, as the supervisor sees it: its sockets stay, its process comes and goes."""

import asyncio
import os
import socket
import sys
from collections.abc import Sequence

from kalam_notify.administration.questions import Answer, Question
from kalam_notify.config import Config
from kalam_notify.errors import OperatorFault
from kalam_notify.scrape import Scrape
from kalam_notify.supervision.channel import Channel, supervisor_end
from kalam_notify.supervision.messages import (
    Asked,
    FromWorker,
    Launch,
    Listening,
    Measure,
    Measured,
    Ping,
    Replied,
    ToWorker,
)
from kalam_notify.supervision.pacing import Pacing

_MODULE = "kalam_notify.supervision.child"


class WorkerRefused(OperatorFault):
    """A worker could not start for an operator's fault, which it has told."""


class Slot:
    """A worker's slot. At most one process at a time, numbered like its sockets."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.pacing = Pacing()
        # What the present worker was started with.
        self.config: Config | None = None
        # The worker accepts connections.
        self.is_ready = False
        # Pings since it last answered one.
        self.unanswered = 0
        # What the worker last told of its counts.
        self.known: Scrape = []
        self._process: asyncio.subprocess.Process | None = None
        self._channel: Channel[FromWorker, ToWorker] | None = None
        self._asked: dict[int, asyncio.Future[None]] = {}
        self._questions: dict[int, asyncio.Future[Answer | None]] = {}

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def start(self, launch: Launch) -> Channel[FromWorker, ToWorker]:
        """A new process, and the way to talk to it."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = await _run(self.number, theirs, launch.listening)
        self._channel = await supervisor_end(ours)
        self.unanswered = 0
        self._channel.send(launch)
        return self._channel

    async def gone(self) -> int:
        """Wait for the process to end; its exit code (negative: the signal that ended it)."""
        assert self._process is not None
        assert self._channel is not None
        self.is_ready, self.known = False, []
        code = await self._process.wait()
        await self._channel.close()
        self._process = self._channel = None
        for asked in self._asked.values():
            asked.cancel()
        self._asked.clear()
        for question in self._questions.values():
            question.cancel()
        self._questions.clear()
        return code

    def send(self, message: ToWorker) -> None:
        if self._channel is not None:
            self._channel.send(message)

    def ping(self) -> None:
        """Have it show that its loop turns."""
        self.unanswered += 1
        self.send(Ping())

    def signal(self, number: int) -> None:
        """Send the process a signal, if there is one."""
        # A process that has ended but was not waited for yet takes it in silence.
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    def measure(self, request: int) -> asyncio.Future[None]:
        """Ask for the counts; done when `known` is fresh, cancelled when the worker has died."""
        asked = self._asked[request] = asyncio.get_running_loop().create_future()
        self.send(Measure(request))
        return asked

    def ask(self, request: int, question: Question) -> "asyncio.Future[Answer | None]":
        """Put a question; cancelled when the worker has died."""
        asked = self._questions[request] = asyncio.get_running_loop().create_future()
        self.send(Asked(request, question))
        return asked

    def answered(self, answer: Replied) -> None:
        asked = self._questions.pop(answer.request, None)
        if asked is not None and not asked.done():
            asked.set_result(answer.answer)

    def measured(self, answer: Measured) -> None:
        self.known = answer.scrape
        asked = self._asked.pop(answer.request, None)
        if asked is not None:
            asked.set_result(None)


async def _run(
    number: int, channel: socket.socket, listening: Sequence[Listening]
) -> asyncio.subprocess.Process:
    """Start a worker process. Signals from the terminal are the supervisor's to pass on."""
    listeners = [fd for one in listening for fd in (one.public, one.internal) if fd is not None]
    # The search path of this process, so that the same code is found, without what `-m` adds.
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", _MODULE, str(number + 1), str(channel.fileno())),
        stdin=asyncio.subprocess.DEVNULL,
        pass_fds=(channel.fileno(), *listeners),
        process_group=0,
        env={**os.environ, "PYTHONPATH": path},
    )
