"""The last resort against a worker that outlives its supervisor.

A worker whose supervisor has died drains and stops by itself, if its event loop still turns. A
thread makes sure that it ends even if not: it sleeps in the kernel until the other end of the
socket pair is gone.
"""

import os
import select
import threading
import time


def end_without(descriptor: int, patience: float) -> None:
    """End this process `patience` seconds after the peer of a socket has gone, whatever it does."""

    def watch() -> None:
        poll = select.poll()
        poll.register(descriptor, select.POLLRDHUP)
        poll.poll()
        time.sleep(patience)
        os._exit(1)

    threading.Thread(target=watch, name="kalam-lifeline", daemon=True).start()
