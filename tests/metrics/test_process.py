"""What the kernel tells of this process."""

import os
import time

from prometheus_client import CollectorRegistry

from kalam_notify.metrics import process
from kalam_notify.metrics.process import ProcessCollector


def told() -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(ProcessCollector())
    return {one.name: one.value for family in registry.collect() for one in family.samples}


def test_the_usual_names_are_told() -> None:
    assert set(told()) == {
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_start_time_seconds",
    }


def test_cpu_time_rises_with_work() -> None:
    before = told()["process_cpu_seconds_total"]
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass
    assert told()["process_cpu_seconds_total"] >= before + 0.04


def test_open_files_are_counted() -> None:
    before = told()["process_open_fds"]
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
    try:
        assert told()["process_open_fds"] == before + 20
    finally:
        for descriptor in opened:
            os.close(descriptor)


def test_counting_and_listing_them_agree() -> None:
    assert process.open_files() == process.listed_files()


def test_memory_and_start_are_those_of_a_living_process() -> None:
    now = told()
    assert 0 < now["process_resident_memory_bytes"] < now["process_virtual_memory_bytes"]
    assert time.time() - 86_400 * 365 < now["process_start_time_seconds"] <= time.time() + 1
