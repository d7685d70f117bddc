"""Waiting for what processes do, and looking whether they live."""

import time
from collections.abc import Callable
from pathlib import Path

SECONDS = 60.0
"""How long a test waits for what must come; never how long it waits for nothing."""


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for what must come, and say what it was if it does not."""
    give_up = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < give_up, what
        time.sleep(0.01)
