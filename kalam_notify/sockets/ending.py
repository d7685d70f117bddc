"""Ending many connections: all of them at the server's end, those of revoked tokens at once."""

import asyncio
import logging
import time

from kalam_notify.auth.tokens import Revocations
from kalam_notify.protocol import close
from kalam_notify.sockets.context import Shared

_log = logging.getLogger("kalam_notify.sockets")

_LOOK_AT_ONCE = 100
"""Connections that are looked at in one turn of the loop."""


async def drain(shared: Shared, seconds: float) -> None:
    """Close the clients' connections, spread over `seconds`, and wait until they are closed.

    Spread, so that they do not all come down on the other servers in one moment.
    """
    shared.is_draining = True
    started, waiting = shared.clock(), list(shared.manager.connections.values())
    _log.info("draining %d connections", len(waiting))
    # The last fifth of the time is for the closing handshakes.
    step = seconds * 0.8 / max(len(waiting), 1)
    for number, connection in enumerate(waiting):
        ahead = started + number * step - shared.clock()
        if ahead > 0:
            await asyncio.sleep(ahead)
        connection.end(close.SHUTTING_DOWN)
    for connection in list(shared.manager.connections.values()):
        connection.end(close.SHUTTING_DOWN)
    await shared.all_closed(started + seconds + 1 - shared.clock())


async def end_all(shared: Shared, why: close.Close) -> None:
    """Close every connection for one reason, a few at a time."""
    for number, connection in enumerate(list(shared.manager.connections.values()), 1):
        connection.end(why)
        if number % _LOOK_AT_ONCE == 0:
            await asyncio.sleep(0)


async def end_revoked(shared: Shared, revocations: Revocations) -> None:
    """Close the connections whose token no longer holds, a few at a time."""
    now = time.time()
    for number, connection in enumerate(list(shared.open_sockets), 1):
        if revocations.refuse(connection.identity, now, shared.leeway):
            connection.token_revoked()
        if number % _LOOK_AT_ONCE == 0:
            await asyncio.sleep(0)
