"""Garbage collection without pauses that tens of thousands of connections would feel.

CPython's full collection walks every container object. With many connections that is a pause of
tens of milliseconds, and nearly all of it is spent on objects that live as long as their
connection. So survivors are frozen: every few seconds what is new is collected, and what has
survived is moved out of the collector's delta (`gc.freeze`). Frozen objects are still freed by
their reference counts; only cycles among them would stay, and the one cycle that every connection
has is taken apart when it closes (WebSocketConnection.connection_lost). For what nobody foresaw,
everything is looked at once in a long while.

When thousands come back at once there is much that is new: half a million objects, which a walk
takes 150 ms for. So each is looked at once, a small lot at a time as they come (YOUNG_OBJECTS), and
what has come in many lots is frozen without another look.

The same walk through the day gives memory back that lies idle (memory.py).
"""

import asyncio
import gc

from kalam_notify.memory import open_keeper

YOUNG_SECONDS = 5.0
FULL_SECONDS = 6 * 3600.0

YOUNG_OBJECTS = 10_000
"""As many more than there were before are collected at once: some 10 ms at most."""

_FEW_LOTS = 2
_NEVER = 1_000_000


async def collect_in_small_steps() -> None:
    """Collect what is new every few seconds, and give back what lies idle; runs until cancelled."""
    gc.collect()
    gc.freeze()
    # The others are how many collections of one generation make one of the next: ours to begin.
    gc.set_threshold(YOUNG_OBJECTS, _NEVER, _NEVER)
    keeper = open_keeper()
    rounds_to_full = int(FULL_SECONDS / YOUNG_SECONDS)
    left = rounds_to_full
    while True:
        await asyncio.sleep(YOUNG_SECONDS)
        left -= 1
        if left == 0:
            gc.unfreeze()
            gc.collect()
            left = rounds_to_full
        _, lots, _ = gc.get_count()
        gc.collect(0 if lots > _FEW_LOTS else 2)
        gc.freeze()
        if keeper is not None and keeper.is_due():
            await asyncio.to_thread(keeper.give_back)
