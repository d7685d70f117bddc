"""How many cores there are to use, told by files as a kernel would show them."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from kalam_notify.config import cores as module
from kalam_notify.config.cores import cores


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_allowed", lambda: 8)


def machine(root: Path, files: Mapping[str, str]) -> Path:
    for name, content in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return root


@pytest.mark.parametrize(
    ("limit", "count"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("1600000 100000", 8),
        ("nonsense", 8),
        ("", 8),
        ("100000 0", 8),
    ],
)
def test_a_group_is_granted_whole_cores(tmp_path: Path, limit: str, count: int) -> None:
    root = machine(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": f"{limit}\n"})
    assert cores(root) == count


def test_the_groups_around_it_count_too(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        {
            "proc/self/cgroup": "0::/kube/pod/app\n",
            "sys/fs/cgroup/kube/pod/app/cpu.max": "max 100000\n",
            "sys/fs/cgroup/kube/pod/cpu.max": "300000 100000\n",
            "sys/fs/cgroup/kube/cpu.max": "600000 100000\n",
        },
    )
    assert cores(root) == 3


def test_a_group_that_shows_as_another_is_asked_at_the_top(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        {"proc/self/cgroup": "0::/elsewhere/x\n", "sys/fs/cgroup/cpu.max": "100000 100000\n"},
    )
    assert cores(root) == 1


def test_version_one_is_asked_as_well(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/m\n4:cpuacct,cpu:/app\n0::/\n",
            "sys/fs/cgroup/cpu/app/cpu.cfs_quota_us": "400000\n",
            "sys/fs/cgroup/cpu/app/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    assert cores(root) == 4


def test_without_groups_all_cores_are_used(tmp_path: Path) -> None:
    assert cores(tmp_path) == 8


def test_on_this_machine_there_is_at_least_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert 1 <= cores() <= (os.cpu_count() or 1)
