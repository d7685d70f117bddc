"""Which event loop to run: uvloop where it may, asyncio's own where asking would be the end.

uvloop's library asks the kernel for an io_uring whenever a loop is made, and no setting keeps it
from that. Where the kernel says no it goes on without. But a seccomp filter may kill who asks; so
under any filter a child asks first.
"""

import asyncio
import logging
import subprocess
import sys
from collections.abc import Coroutine
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

T = TypeVar("T")

_log = logging.getLogger("kalam_notify.app")

_PROBE_SECONDS: Final = 10.0
# io_uring_setup and io_uring_enter, the same numbers on every architecture that has them, alpha
# apart; with nothing to work on they are errors, whatever the kernel thinks of rings.
_PROBE = """
from ctypes import CDLL
CDLL(None).syscall(425, 1, None)
CDLL(None).syscall(426, -1, 0, 0, 0, None, None)
"""


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run to the end on the best loop there is."""
    if not may_ask_for_io_uring():
        _log.info("a seccomp filter kills who asks for io_uring: on asyncio's own loop, not uvloop")
        return asyncio.run(main)
    try:
        import uvloop
    except ImportError as fault:
        _log.info("on asyncio's own loop, not uvloop: %s", fault)
        return asyncio.run(main)
    return uvloop.run(main)


@cache
def may_ask_for_io_uring() -> bool:
    """Whether this process lives on when it asks the kernel for an io_uring."""
    return not is_filtered() or child_lives_on()


def is_filtered() -> bool:
    """Whether a seccomp filter is in force; where that cannot be told, there may be one."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        return "\nSeccomp:\t0" not in Path("/proc/self/status").read_text()
    except OSError:
        return True


def child_lives_on() -> bool:
    """Ask in a child."""
    command = [sys.executable, "-I", "-S", "-c", _PROBE]
    try:
        asked = subprocess.run(command, capture_output=True, timeout=_PROBE_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return False
    # Whatever else went wrong in the child (no ctypes, say), it was not killed.
    return asked.returncode >= 0
