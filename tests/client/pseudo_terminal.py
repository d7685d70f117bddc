"""A real pseudo-terminal with a process on it."""

import errno
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence

SECONDS = 60.0
_SEQUENCES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_HOME = "\x1b[H"


class Terminal:
    """Runs `command` on a terminal of its own, and keeps what it writes there."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        lines: int = 24,
        columns: int = 80,
        environ: Mapping[str, str] | None = None,
        encoding: str = "utf-8",
    ) -> None:
        self._encoding = encoding
        self._main, there = pty.openpty()
        self.resize(lines, columns)
        kept = {name: v for name, v in os.environ.items() if name not in ("NO_COLOR", "TERM")}
        self.process = subprocess.Popen(
            command,
            stdin=there,
            stdout=there,
            stderr=there,
            start_new_session=True,
            env={**kept, "TERM": "xterm", **(environ or {})},
        )
        os.close(there)
        self._raw = b""

    @property
    def written(self) -> str:
        return self._raw.decode(self._encoding, "replace")

    @property
    def text(self) -> str:
        """What was written, without colours and movements of the cursor."""
        return _SEQUENCES.sub("", self.written).replace("\r\n", "\n")

    @property
    def picture(self) -> list[str]:
        """The lines of the last whole picture, of a program that draws from the corner on."""
        pictures = self.written.split(_HOME)
        whole = [it for it in pictures[1:] if it.endswith("\x1b[J")]
        if not whole:
            return []
        return [line.rstrip() for line in _SEQUENCES.sub("", whole[-1]).split("\r\n")]

    def resize(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self._main, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        if hasattr(self, "process"):
            os.killpg(self.process.pid, signal.SIGWINCH)

    def until(self, holds: Callable[[], object]) -> None:
        """Read on until `holds()`; fails when the process has ended or time is up."""
        deadline = time.monotonic() + SECONDS
        while not holds():
            assert self._read(deadline - time.monotonic()), self.written

    def end(self) -> int:
        """Read to the end; the exit code."""
        deadline = time.monotonic() + SECONDS
        while self._read(deadline - time.monotonic()):
            pass
        return self.process.wait(SECONDS)

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.end()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._main)

    def _read(self, seconds: float) -> bool:
        if not select.select([self._main], [], [], max(0.0, seconds))[0]:
            return False
        try:
            data = os.read(self._main, 65536)
        except OSError as fault:
            if fault.errno != errno.EIO:  # nobody has the other end open any more
                raise
            return False
        self._raw += data
        return bool(data)
