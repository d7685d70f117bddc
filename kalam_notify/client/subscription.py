"""A live query as its reader holds it: an iteration over events, and the view they add up to."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final, Protocol

from kalam_notify.client.events import Event, Message
from kalam_notify.client.following import Following, Phase
from kalam_notify.client.view import View
from kalam_notify.errors import KalamNotifyError

QUEUED_BYTES: Final = 8 * 1024 * 1024
"""How much may wait for the reader of one subscription, in bytes of the server's messages."""

# What an event takes beside its rows.
_EVENT_BYTES: Final = 512


class Asks(Protocol):
    """What a subscription wants of its client."""

    async def resume(self, subscription: "Subscription") -> None: ...

    async def forget(self, subscription: "Subscription") -> None: ...


class Subscription:
    """A live query. Iterate over it for its events; `view` stands where the iteration stands."""

    def __init__(self, client: Asks, following: Following, view: View) -> None:
        self.id = following.id
        self.view = view
        self.following = following
        self._client = client
        self._events: deque[tuple[Event, int]] = deque()
        self._waiting_bytes = 0
        self._fault: KalamNotifyError | None = None
        self._closed = False
        self._arrival = asyncio.Event()

    @property
    def position(self) -> int | None:
        """The seq up to which everything has arrived here, to resume from; None: not yet known."""
        return self.following.cursor.position

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        """The next event, applied to the view.

        Raises SubscriptionRefused when the server ended this subscription, AuthenticationFailed
        or ConnectionLost when it does not want the client any more.
        """
        while not self._events:
            self._arrival.clear()
            if self._fault is not None:
                raise self._fault
            if self._closed:
                raise StopAsyncIteration
            if self.following.phase is Phase.IDLE:
                await self._client.resume(self)
            await self._arrival.wait()
        event, size = self._events.popleft()
        self._waiting_bytes -= size
        self.view.apply(event)
        return event

    async def until_ready(self) -> View:
        """Read on until the snapshot is complete (at once for a live-only subscription)."""
        while not self.view.ready:
            await anext(self)
        return self.view

    async def close(self) -> None:
        """Unsubscribe, and end the iteration after what has arrived."""
        self.finish()
        await self._client.forget(self)

    def finish(self) -> None:
        """End the iteration after what has arrived."""
        self._closed = True
        self._arrival.set()

    def offer(self, message: Message, size: int) -> dict[str, Any] | None:
        """Take in a message of `size` bytes; returns what to answer to the server."""
        event, answer = self.following.receive(message)
        if event is None:
            return answer
        size += _EVENT_BYTES
        self._events.append((event, size))
        self._waiting_bytes += size
        self._arrival.set()
        if self._waiting_bytes < QUEUED_BYTES:
            return answer
        self.following.pause()
        return {"type": "unsubscribe", "subscription_id": self.id}

    def pause(self) -> None:
        """The connection is lost: take nothing more until it is asked for again."""
        self.following.pause()

    def fail(self, fault: KalamNotifyError) -> None:
        """End the subscription; its reader gets `fault` after the events that came before it."""
        self._fault = fault
        self._arrival.set()
