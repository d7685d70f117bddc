"""The real processes of a rehearsal, started, killed and started again."""

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec

from loadtest.rehearsal.subscribers import Setup, View, load_views

_REPOSITORY = Path(__file__).resolve().parent.parent.parent
# Guards against hanging, not expectations of speed.
_ANSWER_DEADLINE = 180.0
_END_DEADLINE = 60.0


class Ended(Exception):
    """A process ended that should have gone on."""


class Process:
    """A child process; its log is `<name>.log` beside the other logs."""

    def __init__(self, name: str, command: Sequence[str], logs: Path) -> None:
        self.name = name
        self._command = list(command)
        self._log = logs / f"{name}.log"
        self._child: subprocess.Popen[bytes] | None = None
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def start(self, *more: str) -> None:
        environment = os.environ | {"PYTHONPATH": str(_REPOSITORY)}
        self._lines = queue.SimpleQueue()
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(
                [*self._command, *more],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
            )
        threading.Thread(target=self._read, args=(self._child, self._lines), daemon=True).start()

    def tell(self, line: str) -> None:
        assert self._child is not None
        assert self._child.stdin is not None
        self._child.stdin.write(line.encode() + b"\n")
        self._child.stdin.flush()

    def await_line(self, start: str) -> str:
        """The next line of stdout that begins so; raises Ended when there is none."""
        while True:
            line = self._lines.get(timeout=_ANSWER_DEADLINE)
            if line.startswith(start):
                return line
            if not line:
                raise Ended(f"{self.name} ended: {self._log.read_text()[-2000:]}")

    @property
    def log(self) -> str:
        """What it has written to stderr in all its lives."""
        return self._log.read_text() if self._log.exists() else ""

    def require_running(self) -> None:
        if self._child is None or self._child.poll() is not None:
            raise Ended(f"{self.name} ended: {self._log.read_text()[-2000:]}")

    def kill(self) -> None:
        """SIGKILL: no chance to put anything in order."""
        if self._child is not None:
            self._child.kill()
            self._reap()

    def end(self) -> int:
        """SIGTERM, and the exit code."""
        assert self._child is not None
        self._child.terminate()
        return self._reap()

    def await_end(self) -> int:
        """The exit code of a process that ends by itself."""
        return self._reap()

    def _reap(self) -> int:
        assert self._child is not None
        assert self._child.stdin is not None
        code = self._child.wait(_END_DEADLINE)
        self._child.stdin.close()
        self._child = None
        return code

    @staticmethod
    def _read(child: "subprocess.Popen[bytes]", lines: "queue.SimpleQueue[str]") -> None:
        assert child.stdout is not None
        with child.stdout:
            for line in child.stdout:
                lines.put(line.decode())
        lines.put("")


class Daemon(Process):
    """`kalam-notify serve`, on the same port whenever it is started again."""

    def __init__(self, config: Path, logs: Path) -> None:
        command = [sys.executable, "-m", "kalam_notify", "serve", "--config", str(config)]
        super().__init__("daemon", command, logs)
        self._config = config
        self.address = "127.0.0.1:0"

    def launch(self) -> None:
        """Start, and wait for nothing."""
        super().start("--listen", self.address)

    def start(self, *more: str) -> None:
        super().start("--listen", self.address, *more)
        line = self.await_line("listening on http://")
        self.address = line.split("//", 1)[1].strip()

    def token(self, user: str, role: str) -> str:
        command = [sys.executable, "-m", "kalam_notify", "token", "--config", str(self._config)]
        command += ["--user", user, "--role", role, "--ttl", "6h"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=_REPOSITORY)
        return done.stdout.strip()


class SubscriberProcess(Process):
    """`loadtest.rehearsal.subscribers` with its questions."""

    def __init__(self, name: str, setup: Setup, directory: Path) -> None:
        file = directory / f"{name}.json"
        file.write_bytes(msgspec.json.encode(setup))
        command = [sys.executable, "-m", "loadtest.rehearsal.subscribers", str(file)]
        super().__init__(name, command, directory)
        self.setup = setup
        self._report = directory / f"{name}.report"

    def views(self) -> list[View]:
        """All views as they are now."""
        self.tell(f"report {self._report}")
        self.await_line("reported")
        return load_views(self._report)
