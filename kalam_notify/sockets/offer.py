"""How a client authenticates along with its handshake, and which subprotocol it is answered.

    Authorization: Bearer <jwt>                 programs
    Sec-WebSocket-Protocol: bearer, <jwt>       browsers, which cannot set the header above

A browser drops a connection whose answer names none of the subprotocols that it offered, and tells
its page nothing but 1006. So one of them is always named, even where it is not spoken.
"""

from typing import NamedTuple, Self

from websockets.datastructures import Headers
from websockets.typing import Subprotocol

from kalam_notify.auth import bearer_token

_BEARER = "bearer"

NOT_SPOKEN = "no such subprotocol is spoken here: offer none, or bearer and a token"
"""Why the connection is closed again where `answer` is not spoken."""


class Offer(NamedTuple):
    """What a handshake's headers offer."""

    # None: no token came along; other schemes of Authorization are none.
    token: str | None
    # The subprotocol to answer with.
    answer: Subprotocol | None
    # Whether that is one of ours.
    is_spoken: bool

    @classmethod
    def of(cls, headers: Headers) -> Self:
        values = headers.get_all("sec-websocket-protocol")
        if not values:
            return cls(_of_header(headers), None, True)
        offered = [name.strip() for value in values for name in value.split(",") if name.strip()]
        place = next((n for n, name in enumerate(offered) if name.lower() == _BEARER), None)
        if place is None:
            first = Subprotocol(offered[0]) if offered else None
            return cls(_of_header(headers), first, not offered)
        behind = offered[place + 1] if place + 1 < len(offered) else None
        return cls(_of_header(headers) or behind, Subprotocol(offered[place]), True)


def _of_header(headers: Headers) -> str | None:
    for value in headers.get_all("authorization"):
        token = bearer_token(value)
        if token is not None:
            return token
    return None
