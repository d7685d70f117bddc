"""The tail: every message of the stream from a sequence on, in order, for whoever applies them.

Messages are got directly, some hundred at a time, from whichever replica answers. There is no
consumer on the server: it would be one more thing that dies with a server, and that has to be asked
whether it lives. What is stored rings a bell (the stream republishes it): it says that there is
more, and brings it, for whoever stands right before it. Bells may be lost, and are not counted on.
What is decided from them stands in `reading`.

A tail ends with the connection that it began on: on the next one it must first be found out whether
the stream is still the one that was read.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

from kalam_notify.log.nats.faults import NoAnswer
from kalam_notify.log.nats.line import new_inbox
from kalam_notify.log.nats.link import Link, Received, StreamMessage
from kalam_notify.log.nats.reading import BATCH_BYTES, BATCH_MESSAGES, Ask, Look, Reading, Wait
from kalam_notify.log.nats.stream import SEQUENCE, STATUS, direct_message

_PENDING = "Nats-Num-Pending"
_ONLY_SIZE = "Nats-Msg-Size"
_NOBODY = "503"
_LOOK_SECONDS = 2.0


class Tail:
    """Gives `take` what follows on `upto`, as soon as the stream has it, while there is `has_room`.

    `take` is called on the loop, with some messages, in order; what it raises ends the tail.
    Whoever makes room calls `wake`, else it is seen half a second later.
    """

    def __init__(
        self,
        link: Link,
        upto: int,
        take: Callable[[Sequence[StreamMessage]], None],
        has_room: Callable[[], bool] = lambda: True,
    ) -> None:
        self._link = link
        self._take = take
        self._has_room = has_room
        self._reading = Reading(upto)
        self._woken = asyncio.Event()
        self._inbox = new_inbox()

    @property
    def upto(self) -> int:
        """The sequence that was taken last."""
        return self._reading.upto

    @property
    def want(self) -> int:
        """The highest sequence that is known to be in the stream."""
        return self._reading.want

    def hear(self, seq: int) -> None:
        """The stream is known to have a message of this sequence."""
        if seq > self._reading.want:
            self._reading.hear(seq)
            self.wake()

    def wake(self) -> None:
        """See whether there is something to do, and room for it."""
        self._woken.set()

    async def run(self) -> None:
        """Until cancelled.

        Raises NoAnswer when the connection is lost, Trimmed, Astray, NoStream, and what `take`
        raises.
        """
        link = self._link
        lost = asyncio.create_task(link.wait_lost(link.generation))
        lost.add_done_callback(lambda _: self.wake())
        bell = await link.subscribe(f"BELL.{link.stream}.>", self._ring)
        answers = await link.subscribe(f"{self._inbox}.*", self._answer)
        try:
            while True:
                if run := self._reading.taken():
                    self._take(run)
                if lost.done():
                    raise NoAnswer("the connection to NATS was lost")
                self._woken.clear()
                await self._do(self._reading.step(_now(), has_room=self._has_room()))
        finally:
            lost.cancel()
            await bell.stop()
            await answers.stop()

    async def _do(self, action: Ask | Look | Wait) -> None:
        match action:
            case Ask(number, seq):
                body = b'{"seq":%d,"batch":%d,"max_bytes":%d}' % (seq, BATCH_MESSAGES, BATCH_BYTES)
                subject = f"$JS.API.DIRECT.GET.{self._link.stream}"
                await self._link.send(subject, body, f"{self._inbox}.{number}")
            case Look():
                await self._look()
            case Wait(until):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if until is None else until - _now()):
                        await self._woken.wait()

    async def _look(self) -> None:
        try:
            info = await self._link.info(_LOOK_SECONDS)
        except NoAnswer:
            self._reading.looked_in_vain(_now())
        else:
            self._reading.looked(info.first_seq, info.last_seq)

    def _ring(self, message: Received) -> None:
        headers = message.headers or {}
        if SEQUENCE not in headers:
            return
        if _ONLY_SIZE in headers:
            # A stream that republishes headers alone.
            self.hear(int(headers[SEQUENCE]))
            return
        found = direct_message(headers, message.data)
        self._reading.ring(found, _now(), has_room=self._has_room())
        self.wake()

    def _answer(self, message: Received) -> None:
        number, headers = int(message.subject.rpartition(".")[2]), message.headers or {}
        if SEQUENCE in headers:
            self._reading.receive(number, direct_message(headers, message.data), _now())
        else:
            pending = int(headers.get(_PENDING, 0))
            nobody = headers.get(STATUS) == _NOBODY
            self._reading.end(number, _now(), pending=pending, nobody=nobody)
        # Not for every message: only where the answer has ended, as it ought to or not.
        if not self._reading.is_asked:
            self.wake()


_now = time.monotonic
