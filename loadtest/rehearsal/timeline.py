"""What happened when, printed as it happens."""

import time
from collections.abc import Callable


class Timeline:
    def __init__(self) -> None:
        self._begin = time.monotonic()

    def tell(self, event: str) -> None:
        print(f"{time.monotonic() - self._begin:7.1f} s  {event}", flush=True)


def wait_until(condition: Callable[[], bool], what: str, deadline: float = 300.0) -> None:
    """Return when the condition holds; the deadline guards against hanging only."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {deadline:.0f} s for {what}")
        time.sleep(0.05)
