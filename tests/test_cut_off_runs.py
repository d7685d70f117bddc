"""A run of the tests that is cut off, in whatever way, leaves no process behind.

A small project of its own is run by a pytest of its own, with this suite's conftest: its one test
starts what this suite's tests start (servers with workers, a browser, PostgreSQL) and a daemon that
has left its session and its parent, tells their process ids, and never ends by itself.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.processes import is_alive, until

from loadtest.harness.leash import bearers

ROOT = Path(__file__).parent.parent
ENDLESS = '''
import contextlib, os, subprocess, sys, threading
from pathlib import Path
from helpers.browser import Browser, program
from helpers.server import Server
from loadtest.harness.postgres import Cluster, NoPostgres

DAEMON = """
import os, signal, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True: time.sleep(60)
"""

def test_that_never_ends(tmp_path):
    servers = []
    for number, workers in enumerate((1, 2)):
        directory = tmp_path / str(number)
        directory.mkdir()
        servers.append(Server(directory, {"server": {"workers": workers}}).start())
    # Started by a thread that is gone long before the process should be.
    daemon = threading.Thread(target=subprocess.run, args=([sys.executable, "-c", DAEMON],))
    daemon.start()
    daemon.join()
    if database := os.environ.get("DATABASE"):
        program() and Browser(program(), tmp_path / "browser", servers[0].url)
        with contextlib.suppress(NoPostgres):
            Cluster(Path(database), durable=False).start()
    written = Path(os.environ["TOLD"] + ".new")
    written.write_text(f"{os.getpid()} {os.environ['KALAM_LEASH']}")
    written.rename(os.environ["TOLD"])
    threading.Event().wait()
'''


class Run:
    """A pytest in the middle of its endless test, with workers of pytest-xdist or without (0)."""

    def __init__(self, directory: Path, workers: int, *, is_whole: bool = False) -> None:
        told = directory / "told"
        (directory / "conftest.py").write_text((ROOT / "tests/conftest.py").read_text())
        (directory / "test_endless.py").write_text(ENDLESS)
        (directory / "pytest.ini").write_text("[pytest]\n")
        paths = [ROOT, ROOT / "tests"]
        environment = {"PYTHONPATH": os.pathsep.join(map(str, paths)), "TOLD": str(told)}
        if is_whole:
            environment["DATABASE"] = str(directory / "postgres" / "c")
        with (directory / "output").open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pytest", "-q", "-n", str(workers), "test_endless.py"],
                cwd=directory,
                env={**os.environ, **environment},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        until(lambda: told.exists() or self.process.poll() is not None, "the endless test runs")
        assert self.process.poll() is None, (directory / "output").read_text()
        pid, self.mark = told.read_text().split()
        self.tester = int(pid)
        # Two servers, two workers, a daemon; browser and database where they are installed.
        until(lambda: len(bearers(self.mark)) >= 5, "all that the test starts runs")
        self.started = bearers(self.mark)

    def has_left_nothing(self) -> bool:
        return not any(map(is_alive, self.started)) and not bearers(self.mark)


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where another user's database may live too, and what is cut off leaves files behind."""
    with tempfile.TemporaryDirectory(prefix="kalam-cut-off-", ignore_cleanup_errors=True) as name:
        path = Path(name)
        path.chmod(0o711)
        (path / "postgres").mkdir()
        yield path


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_that_is_cut_off_leaves_no_process(
    directory: Path, workers: int, number: signal.Signals
) -> None:
    # Browser and database take seconds to start: once is enough.
    run = Run(directory, workers, is_whole=workers == 1 and number == signal.SIGKILL)
    run.process.send_signal(number)
    run.process.wait(60)
    until(lambda: not is_alive(run.tester), "the worker of pytest-xdist ends with its controller")
    until(run.has_left_nothing, "what the test had started ends")


def test_a_worker_that_is_killed_leaves_no_process(directory: Path) -> None:
    run = Run(directory, 1)
    os.kill(run.tester, signal.SIGKILL)
    until(run.has_left_nothing, "what the test had started ends")
    assert run.process.wait(60) == 1
    assert "crashed" in (directory / "output").read_text()
