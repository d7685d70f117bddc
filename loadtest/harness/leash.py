"""What this process starts ends with it, however it ends: SIGKILL included.

`hold()` puts a mark of its own into this process's environment, which every process started from
here inherits, with all that those start, and runs this file as a guardian: a process in a session
of its own that sleeps on a pipe whose other end only the holder has. When the holder is gone, the
guardian looks through /proc for the mark and kills who bears it, until nobody does.

Why not PR_SET_PDEATHSIG: it reaches children only, not theirs, and is sent when the *thread* that
started the child ends, which is early for a pool's thread.

A holder started by a holder marks its own children anew. When the outer one is gone, the outer
guardian kills the inner holder, and the inner guardian what that had started; so a guardian bears a
mark by which other guardians spare it. Linux only.
"""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

MARK = "KALAM_LEASH"
_SPARED = "guardian"
_PAUSE = 0.02  # seconds between two looks through /proc


def hold() -> "subprocess.Popen[bytes]":
    """Hold from now on; closing the guardian's stdin lets it do its work at once."""
    mark = secrets.token_hex(16)
    # No site packages: it starts in a few milliseconds and needs nothing of them.
    guardian = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, mark],
        stdin=subprocess.PIPE,
        env={**os.environ, MARK: _SPARED},
        start_new_session=True,
        cwd="/",
    )
    os.environ[MARK] = mark
    return guardian


def end_marked(mark: str) -> None:
    """SIGKILL for all who bear the mark and all below them, until two looks find nobody."""
    quiet = 0
    while quiet < 2:
        found = bearers(mark)
        for pid in found:
            _kill(pid)
        quiet = 0 if found else quiet + 1
        time.sleep(_PAUSE)


def bearers(mark: str) -> set[int]:
    """Living processes with this mark in their environment, and all their descendants.

    Descendants by themselves too: some programs write over the environment that /proc shows.
    """
    children: dict[int, list[int]] = {}
    found, waiting = set(), []
    for pid, parent in _processes():
        children.setdefault(parent, []).append(pid)
        if _bears(pid, mark):
            waiting.append(pid)
    while waiting:
        pid = waiting.pop()
        if pid not in found and not _bears(pid, _SPARED):
            found.add(pid)
            waiting += children.get(pid, ())
    return found


def _processes() -> Iterator[tuple[int, int]]:
    """(process, parent) of all that are not zombies."""
    for name in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208 - names only
        try:
            state, parent = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue  # it has ended meanwhile
        if state not in "ZX":
            yield int(name), int(parent)


def _bears(pid: int, mark: str) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False  # another user's, or ended
    return f"{MARK}={mark}".encode() in environment.split(b"\0")


def _kill(pid: int) -> None:
    with contextlib.suppress(OSError):  # it has ended meanwhile
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    end_marked(sys.argv[1])
