"""For all tests: what a run starts ends with it, even one that is cut off by SIGKILL."""

import os
import signal

import pytest

from loadtest.harness.leash import hold

_GUARDIAN = pytest.StashKey["subprocess.Popen[bytes]"]()


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: tests wait for processes, disks and deadlines a good while."""
    return (os.cpu_count() or 1) + 1


def pytest_configure(config: pytest.Config) -> None:
    """In the controller and in every worker of pytest-xdist: each starts processes of its own."""
    config.stash[_GUARDIAN] = hold()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Started in the background of a shell: what is started here would ignore it, too, and
        # tests interrupt servers and tools.
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure(config: pytest.Config) -> None:
    guardian = config.stash.get(_GUARDIAN, None)
    if guardian is not None:
        guardian.communicate()
