"""Metrics as plain values, so that those of several processes can be added up.

A scrape is the list of a registry's families. Counters and histograms of several workers are
summed, so are gauges (connections, bytes waiting), apart from those that all workers tell of the
same thing, or where only the worst one matters: there the greatest stands, or the least.
"""

from collections.abc import Iterable, Iterator, Sequence

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

Labels = tuple[tuple[str, str], ...]

# Gauges in which every worker tells of the same thing, or only the worst one matters.
_GREATEST = frozenset(
    {
        "kalam_notify_build_info",
        "kalam_notify_log_bytes",
        "kalam_notify_log_epoch",
        "kalam_notify_log_lag_messages",
        "kalam_notify_log_last_seq",
        "kalam_notify_log_oldest_seconds",
        "kalam_notify_slowest_subscription_seconds",
        # Of the youngest worker: it moves whenever one is replaced.
        "process_start_time_seconds",
    }
)
# ... and where the worst is the least.
_LEAST = frozenset(
    {
        "kalam_notify_config_last_reload_successful",
        "kalam_notify_log_connected",
        "kalam_notify_log_ready",
    }
)


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One line of the exposition: a full name, labels in order, a value."""

    name: str
    labels: Labels
    value: float


class Family(msgspec.Struct, frozen=True, array_like=True):
    """A metric with all its samples; `kind` is Prometheus' type."""

    name: str
    kind: str
    text: str
    samples: list[Sample]


Scrape = list[Family]


def scrape(registry: CollectorRegistry) -> Scrape:
    """What the registry tells now."""
    return [
        Family(metric.name, metric.type, metric.documentation, list(_samples(metric)))
        for metric in registry.collect()
    ]


def _samples(metric: Metric) -> Iterator[Sample]:
    for sample in metric.samples:
        yield Sample(sample.name, tuple(sample.labels.items()), sample.value)


def added(scrapes: Iterable[Scrape]) -> Scrape:
    """The scrapes of several workers as that of one."""
    families: dict[str, Family] = {}
    values: dict[str, dict[tuple[str, Labels], float]] = {}
    for family in (family for one in scrapes for family in one):
        families.setdefault(family.name, family)
        sums = values.setdefault(family.name, {})
        for sample in family.samples:
            place = (sample.name, sample.labels)
            sums[place] = _joined(family, sample, sums.get(place))
    return [_with_values(family, values[name]) for name, family in families.items()]


def _joined(family: Family, sample: Sample, before: float | None) -> float:
    if before is None:
        return sample.value
    if sample.name.endswith("_created") or family.name in _LEAST:
        return min(before, sample.value)
    if family.name in _GREATEST:
        return max(before, sample.value)
    return before + sample.value


def lasting(one: Scrape) -> Scrape:
    """What stays true when the process that told it has gone: what it has counted."""
    return [family for family in one if family.kind in ("counter", "histogram")]


def exposition(families: Scrape) -> bytes:
    """The text exposition format."""
    registry = CollectorRegistry()
    registry.register(_Told(families))
    return generate_latest(registry)


class _Told(Collector):
    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            metric = Metric(family.name, family.text, family.kind)
            for sample in family.samples:
                metric.add_sample(sample.name, dict(sample.labels), sample.value)
            yield metric


def _with_values(family: Family, values: dict[tuple[str, Labels], float]) -> Family:
    samples = [Sample(name, labels, value) for (name, labels), value in values.items()]
    return Family(family.name, family.kind, family.text, samples)
