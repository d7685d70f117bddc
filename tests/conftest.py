"""For all tests: what a run starts ends with it, even one that is cut off by SIGKILL."""

import os
import signal
import sys

import pytest

from loadtest.harness.leash import hold

_GUARDIAN = pytest.StashKey["subprocess.Popen[bytes]"]()


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: tests wait for processes, disks and deadlines a good while."""
    return (os.cpu_count() or 1) + 1


def pytest_configure(config: pytest.Config) -> None:
    """In the controller and in every worker of pytest-xdist: each starts processes of its own."""
    config.addinivalue_line("markers", "long: takes 15 s and more on two cores: it begins first")
    config.stash[_GUARDIAN] = hold()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Started in the background of a shell: what is started here would ignore it, too, and
        # tests interrupt servers and tools.
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deal out what is marked `long`, and let each worker of pytest-xdist begin with its part.

    `worksteal` gives each worker one piece of the list, and takes back what has not begun; a long
    test that comes last is waited for by all the others.
    """
    workers: int = getattr(config, "workerinput", {}).get("workercount", 1)
    first = [item for item in items if item.get_closest_marker("long")]
    rest = [item for item in items if not item.get_closest_marker("long")]
    hands = [first[number::workers] for number in range(workers)]
    left = len(items)
    items.clear()
    for number, hand in enumerate(hands):
        size = left // (workers - number)
        left -= size
        taken = max(0, size - len(hand))
        items += [*hand, *rest[:taken]]
        del rest[:taken]
    items += rest


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Where no bytecode is to lie beside the sources, keep it in a directory of the run's.

    Else each of the many servers and commands that tests start would compile all of the package,
    which is half of its start. Before the workers start, for they pass the environment on.
    """
    if sys.dont_write_bytecode and not hasattr(session.config, "workerinput"):
        factory: pytest.TempPathFactory = session.config._tmp_path_factory
        os.environ["PYTHONPYCACHEPREFIX"] = str(factory.mktemp("bytecode"))
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_unconfigure(config: pytest.Config) -> None:
    guardian = config.stash.get(_GUARDIAN, None)
    if guardian is not None:
        guardian.communicate()
