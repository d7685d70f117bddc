"""What a client wants of whoever takes the messages of a subscription."""

from typing import Any, Protocol

from kalam_notify.client.events import Message
from kalam_notify.client.following import Following
from kalam_notify.errors import KalamNotifyError


class Follower(Protocol):
    """Whoever takes the messages of one subscription: a Subscription, or the Query of a view."""

    @property
    def id(self) -> str: ...

    @property
    def following(self) -> Following: ...

    def offer(self, message: Message, size: int) -> dict[str, Any] | None:
        """Take in a message of `size` bytes; returns what to answer to the server.

        What it raises of KalamNotifyError ends this subscription.
        """

    def pause(self) -> None:
        """The connection is lost."""

    def fail(self, fault: KalamNotifyError) -> None:
        """The subscription is over."""

    def finish(self) -> None:
        """The client was closed."""
