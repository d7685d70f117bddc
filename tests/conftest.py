"""For all tests: what a run starts ends with it, even one that is cut off by SIGKILL."""

import pytest

from loadtest.harness.leash import hold

_GUARDIAN = pytest.StashKey["subprocess.Popen[bytes]"]()


def pytest_configure(config: pytest.Config) -> None:
    """In the controller and in every worker of pytest-xdist: each starts processes of its own."""
    config.stash[_GUARDIAN] = hold()


def pytest_unconfigure(config: pytest.Config) -> None:
    guardian = config.stash.get(_GUARDIAN, None)
    if guardian is not None:
        guardian.communicate()
