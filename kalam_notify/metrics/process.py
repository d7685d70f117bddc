"""What the kernel tells of this process, under the names that Prometheus' own clients use.

Those names have no prefix of ours, so that dashboards made for any process show this one too.
"""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

_PROC = Path("/proc/self")


class ProcessCollector(Collector):
    """CPU, memory, open files and start time of this process, read when asked for."""

    def __init__(self) -> None:
        self._started_at = started_at()

    def collect(self) -> Iterator[Metric]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        cpu = usage.ru_utime + usage.ru_stime
        yield CounterMetricFamily("process_cpu_seconds", "CPU time, user and system", value=cpu)
        virtual, resident = memory()
        yield GaugeMetricFamily("process_resident_memory_bytes", "Resident memory", value=resident)
        yield GaugeMetricFamily("process_virtual_memory_bytes", "Address space", value=virtual)
        yield GaugeMetricFamily("process_open_fds", "Open files, sockets included", open_files())
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        yield GaugeMetricFamily("process_max_fds", "The limit of open files", value=most)
        yield GaugeMetricFamily(
            "process_start_time_seconds", "Start of the process, Unix time", self._started_at
        )


def memory() -> tuple[int, int]:
    """Bytes of address space, and those of them that are resident."""
    virtual, resident, *_ = (_PROC / "statm").read_text().split()
    page = resource.getpagesize()
    return int(virtual) * page, int(resident) * page


def open_files() -> int:
    """How many descriptors are open.

    Linux 6.2 and later tells the number as the size of the directory; before, it has to be listed,
    which takes a few milliseconds with tens of thousands of connections.
    """
    return (_PROC / "fd").stat().st_size or listed_files()


def listed_files() -> int:
    """The same by listing them, which takes a descriptor itself."""
    return sum(1 for _ in (_PROC / "fd").iterdir()) - 1


def started_at() -> float:
    """When this process began, Unix time in seconds."""
    # Behind the last bracket, for a program's name may hold any character.
    fields = (_PROC / "stat").read_text().rpartition(")")[2].split()
    boot = next(
        line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime ")
    )
    return float(boot.split()[1]) + int(fields[19]) / os.sysconf("SC_CLK_TCK")
