"""The supervisor: one task for each worker's slot, which starts, hears, buries and replaces.

    start --Ready--> in service --ends--> vacant --at once, or after a while--> start
                         `--does not answer--> killed
      `--ends--> vacant, or, before the server was announced: the whole start has failed

Everything that the others must know (who is vacant) is sent as it is, not as what has changed, so
that no order of deaths and births can leave anybody with a wrong picture.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Coroutine, Sequence
from itertools import count
from typing import Any

from kalam_notify.config import Config, reloaded
from kalam_notify.errors import DamagedFile, OperatorFault
from kalam_notify.log import wake_followers
from kalam_notify.logs import set_level
from kalam_notify.scrape import Family, Sample, Scrape, added, lasting
from kalam_notify.supervision.channel import Channel
from kalam_notify.supervision.messages import (
    Answered,
    Ask,
    Crew,
    FromWorker,
    Gather,
    Gathered,
    Launch,
    Listening,
    Measured,
    Pong,
    Ready,
    Refused,
    Reload,
    Reloaded,
    Replied,
    ToWorker,
)
from kalam_notify.supervision.slots import Slot, WorkerRefused

_log = logging.getLogger("kalam_notify.supervisor")

STOP_SECONDS = 4.5
"""Beyond drain_seconds a worker has this long to end before it is killed."""

PING_SECONDS = 1.0
"""How often workers are asked whether their loop turns."""

MOST_UNANSWERED = 15
"""A worker that has not answered this many pings in a row is killed, to be replaced."""

MEASURE_SECONDS = 1.0
"""How long a scrape waits for each worker; of one that is slower the last answer stands."""

QUESTION_SECONDS = 30.0
"""After which nobody waits any more for what one worker asks another."""


class Supervisor:
    """Keeps one worker in each of the slots that `listening` gives listening sockets for.

    `load_config` reads the configuration for a reload; `announce` is called once, when every
    worker accepts connections.
    """

    def __init__(
        self,
        config: Config,
        load_config: Callable[[], Config],
        listening: Sequence[Listening],
        announce: Callable[[], None],
        *,
        dev: bool = False,
    ) -> None:
        self._is_dev = dev
        # What new workers are to run with, and what the present ones were offered last: the same
        # once they have taken it.
        self._config = config
        self._offered = config
        self._load_config = load_config
        self._listening = list(listening)
        self._announce = announce
        self._slots = [Slot(number) for number in range(len(listening))]
        self._is_announced = False
        self._stopping = asyncio.Event()
        self._failure: OperatorFault | None = None
        self._exit_code = 0
        self._requests = count()
        # What workers that are no more had counted when they last told.
        self._departed: Scrape = []
        self._replaced = 0
        # Whether the configuration could be read when it was last asked for.
        self._last_read_successful = True

    def stop(self) -> None:
        """Let every worker drain and end."""
        self._stopping.set()

    def reload(self) -> None:
        """Read the configuration again and offer it to every worker; a bad one goes nowhere."""
        if self._stopping.is_set():
            return
        try:
            new = self._load_config()
        except OperatorFault as fault:
            _log.error("the configuration was not reloaded: %s", fault)
            self._last_read_successful = False
            return
        self._last_read_successful = True
        self._offered = new
        for slot in self._slots:
            if slot.is_ready:
                slot.send(Reload.of(new))

    async def run(self) -> int:
        """Serve until stopped; the exit code. Raises what kept the workers from starting."""
        self._loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                for slot in self._slots:
                    tasks.create_task(self._keep(slot), name=f"worker {slot.number + 1}")
                await self._watch()
                self._signal_all(signal.SIGTERM)
                patience = self._config.server.drain_seconds + STOP_SECONDS
                out_of_patience = self._loop.call_later(patience, self._kill_all)
        finally:
            self._signal_all(signal.SIGKILL)
        out_of_patience.cancel()
        if self._failure is not None:
            raise self._failure
        return self._exit_code

    def _signal_all(self, number: int) -> None:
        for slot in self._slots:
            slot.signal(number)

    def _kill_all(self) -> None:
        _log.error("workers that have not ended by now are killed")
        self._exit_code = 1
        self._signal_all(signal.SIGKILL)

    async def _watch(self) -> None:
        """Until stopped: a worker that is frozen keeps its connections, and serves none of them.

        Pings are counted, not seconds, for while everything is frozen, the supervisor included,
        time passes as well.
        """
        while not self._stopping.is_set():
            await self._stopped_within(PING_SECONDS)
            for slot in self._slots:
                if not slot.is_ready:
                    continue
                if slot.unanswered >= MOST_UNANSWERED:
                    name = slot.number + 1
                    _log.error("worker %d (pid %s) is frozen: it is killed", name, slot.pid)
                    slot.signal(signal.SIGKILL)
                slot.ping()

    # One slot

    async def _keep(self, slot: Slot) -> None:
        while not self._stopping.is_set():
            born = self._loop.time()
            await self._live(slot)
            if self._stopping.is_set():
                return
            delay = slot.pacing.delay(self._loop.time() - born)
            _log.info("worker %d is started again in %.2f s", slot.number + 1, delay)
            self._replaced += 1
            await self._stopped_within(delay)

    async def _stopped_within(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _live(self, slot: Slot) -> None:
        """One life of a worker, from its start to its burial."""
        slot.config = self._config
        channel = await slot.start(
            Launch.of(slot.config, slot.number, self._listening, self._is_dev)
        )
        pid = slot.pid
        if self._stopping.is_set():
            slot.signal(signal.SIGTERM)
        await self._hear(slot, channel)
        self._departed = added([self._departed, lasting(slot.known)])
        code = await slot.gone()
        self._bury(slot, pid, code)

    def _bury(self, slot: Slot, pid: int | None, code: int) -> None:
        is_expected = self._stopping.is_set() and code in (0, -signal.SIGTERM)
        if not is_expected:
            _log.error("worker %d (pid %s) ended with code %d", slot.number + 1, pid, code)
            # It may have committed, and died before it rang.
            server = self._config.server
            self._spawn(asyncio.to_thread(wake_followers, self._config.log.url, server.data_dir))
        if self._stopping.is_set() or not self._is_announced:
            self._exit_code = self._exit_code if is_expected else 1
            self._stopping.set()
        self._tell_vacancies()

    def _spawn(self, work: Coroutine[Any, Any, object]) -> None:
        self._tasks.create_task(work)

    async def _hear(self, slot: Slot, channel: Channel[FromWorker, ToWorker]) -> None:
        while (message := await channel.receive()) is not None:
            match message:
                case Ready():
                    self._in_service(slot)
                case Refused(why, is_damage):
                    self._refused(slot, DamagedFile(why) if is_damage else WorkerRefused(why))
                case Reloaded(taken):
                    self._answered(taken)
                case Gather(request):
                    self._spawn(self._gather(slot, request))
                case Measured():
                    slot.measured(message)
                case Ask():
                    self._spawn(self._pass_on(slot, message))
                case Replied():
                    slot.answered(message)
                case Pong():
                    slot.unanswered = 0

    def _in_service(self, slot: Slot) -> None:
        slot.is_ready = True
        _log.info("worker %d (pid %s) accepts connections", slot.number + 1, slot.pid)
        self._tell_vacancies()
        if slot.config != self._offered:
            # It was being started when the others were told.
            slot.send(Reload.of(self._offered))
        if not self._is_announced and all(slot.is_ready for slot in self._slots):
            self._is_announced = True
            self._announce()

    def _answered(self, taken: bool) -> None:
        if not taken:
            self._offered = self._config
        elif self._offered is not self._config:
            self._config = self._offered = reloaded(self._config, self._offered)
            set_level(self._config.logging.level)

    def _refused(self, slot: Slot, why: OperatorFault) -> None:
        if self._is_announced:
            _log.error("worker %d cannot start: %s", slot.number + 1, why)
        elif self._failure is None:
            self._failure = why
            self._stopping.set()

    def _tell_vacancies(self) -> None:
        """Have the living accept for the dead. Before the announcement nobody is missing yet."""
        if not self._is_announced and not self._stopping.is_set():
            vacant = []
        else:
            vacant = [slot.number for slot in self._slots if not slot.is_ready]
        for slot in self._slots:
            if slot.is_ready:
                slot.send(Crew(vacant))

    # Metrics

    async def _gather(self, asker: Slot, request: int) -> None:
        number = next(self._requests)
        asked = [slot.measure(number) for slot in self._slots if slot.is_ready]
        if asked:
            await asyncio.wait(asked, timeout=MEASURE_SECONDS)
        answers = [slot.known for slot in self._slots]
        asker.send(Gathered(request, added([*answers, self._departed, self._own()])))

    # Questions of workers to each other

    async def _pass_on(self, asker: Slot, asked: Ask) -> None:
        """Have a worker answer another; how long that may take is the asker's business."""
        slot = self._slots[asked.number] if asked.number < len(self._slots) else None
        answer = None
        if slot is not None and slot.is_ready:
            waiting = slot.ask(next(self._requests), asked.question)
            await asyncio.wait([waiting], timeout=QUESTION_SECONDS)
            if waiting.done() and not waiting.cancelled():
                answer = waiting.result()
            waiting.cancel()
        asker.send(Answered(asked.request, answer))

    def _own(self) -> Scrape:
        """What the supervisor knows by itself; a reload that it refuses never reaches a worker."""
        return [
            _family("worker_restarts", "counter", "Worker processes replaced", self._replaced),
            _family(
                "config_last_reload_successful",
                "gauge",
                "Whether the configuration that was last read was taken",
                self._last_read_successful,
            ),
        ]


def _family(name: str, kind: str, text: str, value: float) -> Family:
    name = f"kalam_notify_{name}"
    sample = f"{name}_total" if kind == "counter" else name
    return Family(name, kind, text, [Sample(sample, (), float(value))])
