"""What /metrics tells, in Prometheus' terms.

Nothing is counted per delivery: the fan-out adds its sums per chunk to plain integers
(delivery/stats.py), and everything that can be told from the present state is read at the scrape.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from kalam_notify.delivery.stats import FanoutStats
from kalam_notify.log import EventLog
from kalam_notify.metrics.histogram import SecondsHistogram
from kalam_notify.metrics.process import ProcessCollector
from kalam_notify.model import TableId
from kalam_notify.subscriptions.manager import ConnectionsManager
from kalam_notify.version import __version__

PREFIX = "kalam_notify_"


class Metrics:
    """The metrics of one worker process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.changes_ingested: Counter[TableId] = Counter()
        self.ingest_requests: Counter[int] = Counter()
        # Whether what was last read of the configuration, at start or at a reload, was taken.
        self.last_reload_successful = True
        self.log_append_seconds = self._histogram(
            "log_append_seconds", "From handing a batch to the log until it was durable"
        )
        self.fanout_seconds = self._histogram(
            "fanout_seconds", "From taking waiting changes until the last socket was offered them"
        )
        self.ingest_to_socket_seconds = self._histogram(
            "ingest_to_socket_seconds",
            "From handing a batch to the log until its changes were offered to the last socket",
        )
        self.loop_lag_seconds = self._histogram(
            "loop_lag_seconds", "How much later than asked the event loop woke a sleeper"
        )
        self.registry.register(ProcessCollector())

    def _histogram(self, name: str, text: str) -> SecondsHistogram:
        histogram = SecondsHistogram(PREFIX + name, text)
        self.registry.register(histogram)
        return histogram

    def request(self, status: int) -> None:
        """An ingest request was answered."""
        self.ingest_requests[status] += 1

    def ingested(self, table: TableId, changes: int) -> None:
        """Changes of a table were stored."""
        self.changes_ingested[table] += changes

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)


class StateCollector(Collector):
    """Metrics that are read from the server's state when they are asked for."""

    def __init__(
        self,
        metrics: Metrics,
        log: EventLog,
        manager: ConnectionsManager,
        stats: FanoutStats,
        closes: Counter[int],
        auth_failures: Counter[str],
        send_buffer_bytes: Callable[[], int],
        slowest_seconds: Callable[[], float],
    ) -> None:
        self._metrics = metrics
        self._log = log
        self._manager = manager
        self._stats = stats
        self._closes = closes
        self._auth_failures = auth_failures
        self._send_buffer_bytes = send_buffer_bytes
        self._slowest_seconds = slowest_seconds

    def collect(self) -> Iterator[Metric]:
        manager, stats = self._manager, self._stats
        yield _gauge("connections", "Open WebSocket connections", len(manager.connections))
        subscriptions = GaugeMetricFamily(
            PREFIX + "subscriptions", "Subscriptions by kind of table", labels=["scope"]
        )
        subscriptions.add_metric(["shared"], manager.shared_count)
        subscriptions.add_metric(["user"], manager.user_count)
        yield subscriptions
        yield _gauge(
            "lagging_subscriptions",
            "Subscriptions that are fed from the log, not live",
            manager.lagging_count,
        )
        yield _gauge(
            "slowest_subscription_seconds",
            "Age of the oldest change that a subscription still waits for",
            self._slowest_seconds(),
        )
        yield from self._of_the_log()
        yield _gauge(
            "config_last_reload_successful",
            "Whether the configuration that was last read was taken",
            float(self._metrics.last_reload_successful),
        )
        yield _gauge("send_buffer_bytes", "Bytes that wait for sockets", self._send_buffer_bytes())
        yield _counter("deliveries", "Row-changes handed to a socket", stats.deliveries)
        yield _counter("delivery_bytes", "Bytes handed to sockets", stats.delivery_bytes)
        yield _counter("catch_ups", "Times a subscription had to be fed", stats.catch_ups)
        yield _counter(
            "plans_disabled", "Filters whose evaluation raised an error", stats.plans_disabled
        )
        yield _gauge(
            "demoted_plans",
            "Plans whose filter costs too much for the fan-out, fed behind it",
            manager.counts.demoted,
        )
        yield _counter(
            "filter_evaluations", "Filters evaluated on a row", manager.filter_evaluations
        )
        yield _labelled(
            "changes_ingested", "Changes stored", "table", self._metrics.changes_ingested
        )
        yield _labelled(
            "ingest_requests", "Posts answered", "status", self._metrics.ingest_requests
        )
        yield _labelled("closes", "WebSocket connections closed", "code", self._closes)
        yield _labelled(
            "auth_failures", "Tokens and keys that were not taken", "reason", self._auth_failures
        )
        build = GaugeMetricFamily(PREFIX + "build_info", "The release", labels=["version"])
        build.add_metric([__version__], 1)
        yield build

    def _of_the_log(self) -> Iterator[Metric]:
        statistics = self._log.statistics()
        yield _gauge("log_last_seq", "The newest seq of the log", self._log.last_seq)
        yield _gauge("log_bytes", "Bytes of changes in the log", statistics["log_bytes"])
        oldest = statistics["oldest_at"]
        age = max(time.time() - oldest, 0.0) if oldest else 0.0
        yield _gauge("log_oldest_seconds", "Age of the oldest change in the log", age)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, text, value=value)


def _labelled(
    name: str, text: str, label: str, counts: "Counter[TableId] | Counter[int] | Counter[str]"
) -> Metric:
    family = CounterMetricFamily(PREFIX + name, text, labels=[label])
    for value, count in counts.items():
        family.add_metric([str(value)], count)
    return family
