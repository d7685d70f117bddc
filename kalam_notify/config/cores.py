"""How many cores this process may keep busy: what it may run on, and what it is granted of them.

A container's CPU limit does not hide any cores; it stops every thread of the group once the time of
a period is used up. A worker more than there is time for would only be stopped more often. Formats:
cgroups(7), Documentation/admin-guide/cgroup-v2.rst, and for version 1 scheduler/sched-bwc.rst.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

_ROOT = Path("/")


def cores(root: Path = _ROOT) -> int:
    """Whole cores to use, at least one. `root` is where /proc and /sys are found."""
    granted = min(quotas(root), default=float("inf"))
    return max(1, int(min(_allowed(), granted)))


def _allowed() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def quotas(root: Path) -> Iterator[float]:
    """The cores that each control group of this process, and each one around it, is granted."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            yield from _along(root / "sys/fs/cgroup", path, _quota)
        elif "cpu" in controllers.split(","):
            yield from _along(root / "sys/fs/cgroup/cpu", path, _quota_v1)


def _along(mount: Path, path: str, quota: Callable[[Path], float | None]) -> Iterator[float]:
    """Ask the group at `path` and those above it; inside a container it may show as the root."""
    group = mount / path.lstrip("/")
    while True:
        granted = quota(group)
        if granted is not None:
            yield granted
        if group == mount or mount not in group.parents:
            return
        group = group.parent


def _quota(group: Path) -> float | None:
    """`MAX PERIOD`, in microseconds; `max` for no limit."""
    return _ratio(*_read(group / "cpu.max").split()[:2])


def _quota_v1(group: Path) -> float | None:
    return _ratio(_read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us"))


def _ratio(time: str = "", period: str = "") -> float | None:
    try:
        granted = int(time) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return granted if granted > 0 else None


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, ValueError):
        return ""
