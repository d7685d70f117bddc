"""What this process posts goes into the stream: grouped, one message in flight, tried until known.

    waiting -> in flight -> acknowledged (stored by a quorum) -> applied here -> answered

All that waits while a message is in flight goes into the next one, so the price of a round trip is
shared by everyone who waited for it, and the order of this process's posts is kept for free. A
message that is not acknowledged is published again under the same id, which the stream and every
node know it by; so it is stored once however often it was sent. When the time is up, what became of
it is not known: `OutcomeUnknown`. What was never sent was not stored: `LogUnavailable`.

The answer (seqs, duplicates) is read off this node's own file when the message has been applied.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

from kalam_notify.errors import ChangeRefused, LogUnavailable, OutcomeUnknown, SourceOvertaken
from kalam_notify.log.nats.applying import OVERTAKEN, Answer
from kalam_notify.log.nats.faults import NoAnswer, Refused, TooLarge, WrongLast
from kalam_notify.log.nats.link import Link
from kalam_notify.log.nats.message import Control, encode_batches, encode_control
from kalam_notify.model import TableDef, TableId
from kalam_notify.model.changes import Appended
from kalam_notify.store.storing import Posting

GROUP_CHANGES = 4096
GROUP_BYTES = 1024 * 1024
HEADROOM = 64 * 1024
"""What a message holds beside its rows: keys, ids, names and headers of a group."""

ATTEMPT_SECONDS = 1.0

Outcome = Appended | Exception


class _Waiting(NamedTuple):
    """A batch: `size` in bytes of row JSON, `on_outcome` is called once with what became of it."""

    posting: Posting
    size: int
    deadline: float
    on_outcome: Callable[[Outcome], None]


class _Control(NamedTuple):
    """A message of another kind, and whether only the first message of the stream may be it."""

    control: Control
    expected_last: int | None
    future: asyncio.Future[Answer]
    deadline: float


class Publisher:
    """Lives on the event loop. `on_stored` is told the stream sequence of what was acknowledged."""

    def __init__(
        self,
        link: Link,
        declared: Mapping[TableId, TableDef],
        on_stored: Callable[[int], None],
        timeout: Callable[[], float],
        on_acknowledged: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._link = link
        self._declared = declared
        self._on_stored = on_stored
        self._timeout = timeout
        # Told of the seconds that it took.
        self._on_acknowledged = on_acknowledged
        # Of this process's life: its messages are numbered.
        self._life = secrets.token_hex(8)
        self._count = 0
        self._batches: deque[_Waiting] = deque()
        self._controls: deque[_Control] = deque()
        self._is_wanted = asyncio.Event()
        # Messages that may be in the stream, by their id: who waits for them to be applied.
        self._sent: dict[str, list[_Waiting] | _Control] = {}

    @property
    def unanswered(self) -> list[str]:
        """The ids of messages that are not known to be applied."""
        return list(self._sent)

    def post(self, posting: Posting, size: int, on_outcome: Callable[[Outcome], None]) -> None:
        """Publish a batch with the next message."""
        self._batches.append(_Waiting(posting, size, self._now() + self._timeout(), on_outcome))
        self._is_wanted.set()

    async def publish(self, control: Control, expected_last: int | None = None) -> Answer:
        """Publish a message of another kind; returns when it has been applied here.

        Raises LogUnavailable or OutcomeUnknown, and WrongLast where `expected_last` is not the
        stream's last sequence.
        """
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        deadline = self._now() + self._timeout()
        self._controls.append(_Control(control, expected_last, future, deadline))
        self._is_wanted.set()
        return await future

    async def publish_only(self, control: Control, expected_last: int | None = None) -> int:
        """Publish once, whether or not it is applied here; where it has come to stand.

        With `expected_last` only where the stream ends there.

        Raises NoAnswer, after which it may have been, and what Link.publish raises else.
        """
        self._count += 1
        mid = f"{self._life}-{self._count}"
        payload = encode_control(control)
        stored = await self._link.publish(payload, mid, expected_last_seq=expected_last)
        self._on_stored(stored.seq)
        return stored.seq

    def answered(self, answer: Answer) -> None:
        """A message has been applied here; nothing where it is not one of ours."""
        sent = self._sent.pop(answer.mid, None)
        if isinstance(sent, _Control):
            if not sent.future.done():
                sent.future.set_result(answer)
        elif sent is not None:
            for waiting, outcome in zip(sent, answer.batches, strict=True):
                waiting.on_outcome(_refused(outcome) if isinstance(outcome, str) else outcome)

    async def run(self) -> None:
        """Publish what is posted, until cancelled."""
        while True:
            await self._is_wanted.wait()
            self._is_wanted.clear()
            while self._controls or self._batches:
                if self._controls:
                    await self._publish_control(self._controls.popleft())
                if self._batches:
                    await self._publish_batches()

    def close(self) -> None:
        """Tell everybody who still waits that this process will not know."""
        fault = LogUnavailable("the log is closed")
        while self._batches:
            self._batches.popleft().on_outcome(fault)
        for control in self._controls:
            if not control.future.done():
                control.future.set_exception(fault)
        for mid in list(self._sent):
            self._give_up(mid, OutcomeUnknown(_UNKNOWN))

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    # One message

    async def _publish_batches(self) -> None:
        group = self._next_group()
        if not group:
            return
        try:
            payload = encode_batches([one.posting for one in group], self._declared)
        except Exception as fault:
            for one in group:
                one.on_outcome(fault)
            return
        if len(payload) + HEADROOM // 2 > self._link.max_payload and len(group) > 1:
            # Their keys are longer than usual: by halves.
            self._batches.extendleft(reversed(group[len(group) // 2 :]))
            group = group[: len(group) // 2]
            payload = encode_batches([one.posting for one in group], self._declared)
        await self._send(payload, group, min(one.deadline for one in group), None)

    async def _publish_control(self, control: _Control) -> None:
        payload = encode_control(control.control)
        await self._send(payload, control, control.deadline, control.expected_last)

    def _next_group(self) -> list[_Waiting]:
        bound = min(GROUP_BYTES, self._link.max_payload) - HEADROOM
        group: list[_Waiting] = []
        changes = size = 0
        while self._batches:
            one = self._batches[0]
            changes += len(one.posting.batch)
            size += one.size + 64 * len(one.posting.batch)
            if group and (changes > GROUP_CHANGES or size > bound):
                break
            group.append(self._batches.popleft())
        return group

    async def _send(
        self,
        payload: bytes,
        waiting: list[_Waiting] | _Control,
        deadline: float,
        expected_last: int | None,
    ) -> None:
        """Publish until it is acknowledged or the time is up."""
        self._count += 1
        mid = f"{self._life}-{self._count}"
        self._sent[mid] = waiting
        began, was_sent = self._now(), False
        while mid in self._sent:
            left = deadline - self._now()
            if left <= 0:
                break
            if not self._link.is_connected:
                await self._link.wait_connected(left)
                continue
            was_sent = True
            try:
                stored = await self._link.publish(
                    payload,
                    mid,
                    expected_last_seq=expected_last,
                    timeout=min(ATTEMPT_SECONDS, left),
                )
            except NoAnswer:
                continue
            except TooLarge as fault:
                self._give_up(mid, _too_large(fault))
                return
            except WrongLast as fault:
                # Of a second attempt, the first may be what stands there.
                self._give_up(mid, fault)
                return
            except Refused as fault:
                self._give_up(mid, LogUnavailable(f"the stream takes no changes: {fault}"))
                return
            self._on_acknowledged(self._now() - began)
            self._on_stored(stored.seq)
            asyncio.get_running_loop().call_at(
                deadline + ATTEMPT_SECONDS, self._give_up, mid, OutcomeUnknown(_NOT_APPLIED)
            )
            return
        self._give_up(mid, OutcomeUnknown(_UNKNOWN) if was_sent else LogUnavailable(_NEVER_SENT))

    def _give_up(self, mid: str, fault: Exception) -> None:
        sent = self._sent.pop(mid, None)
        if isinstance(sent, _Control):
            if not sent.future.done():
                sent.future.set_exception(fault)
        elif sent is not None:
            for waiting in sent:
                waiting.on_outcome(fault)


_UNKNOWN = (
    "the stream did not answer in time, and may or may not have stored the changes: post them again"
    " with the same Idempotency-Key"
)
_NOT_APPLIED = (
    "the stream has stored the changes, but this node has not applied them in time: post them again"
    " with the same Idempotency-Key for the answer"
)
_NEVER_SENT = "no NATS server could be reached, and nothing was stored"


def _refused(reason: str) -> Exception:
    if reason == OVERTAKEN:
        return SourceOvertaken(reason)
    return ChangeRefused(400, "INVALID_CHANGE", reason)


def _too_large(fault: TooLarge) -> Exception:
    return ChangeRefused(413, "TOO_LARGE", f"{fault}: raise max_payload of the NATS servers")
