"""What /metrics tells, in Prometheus' terms.

Durations in buckets.

Nothing is counted per delivery: the fan-out adds its sums per chunk to plain integers
(delivery/stats.py), and everything that can be told from the present state is read at the scrape.
"""

import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from kalam_notify.delivery.stats import FanoutStats
from kalam_notify.log import Appended, EventLog
from kalam_notify.log.base import Step
from kalam_notify.metrics.process import ProcessCollector
from kalam_notify.model import TableId
from kalam_notify.sources.keeper import Status as SourceStatus
from kalam_notify.subscriptions.manager import ConnectionsManager
from kalam_notify.version import __version__

# Between 1 and 40 ms, where the server lives, a step is a third at most: a p99 of 11 ms must not be
# told as one of 25. Beyond, orders of magnitude are what matters.
BOUNDS = (
    *(0.0005, 0.00075, 0.001, 0.0013, 0.0016, 0.002, 0.0025, 0.0032, 0.004, 0.005, 0.0065, 0.008),
    *(0.01, 0.013, 0.016, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)


class SecondsHistogram(Collector):
    """Durations in buckets, for one thread: a change is observed three times on its way."""

    def __init__(self, name: str, text: str) -> None:
        self._name, self._text = name, text
        self._counts = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self._sum += seconds

    def collect(self) -> Iterator[Metric]:
        bounds = [*map(floatToGoString, BOUNDS), "+Inf"]
        buckets = list(zip(bounds, accumulate(self._counts), strict=True))
        yield HistogramMetricFamily(self._name, self._text, buckets=buckets, sum_value=self._sum)


PREFIX = "kalam_notify_"

_STEPS: dict[Step, str] = {
    "publish": "From sending a message to the stream until it was acknowledged",
    "apply": "A transaction that applied messages of the stream",
}


class Metrics:
    """The metrics of one worker process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = CollectorRegistry()
        self._clock = clock
        # Last seq and time of arrival of batches that are on their way to the sockets.
        self._arrivals: deque[tuple[int, float]] = deque()
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
        self._steps: dict[Step, SecondsHistogram] = {}
        self.registry.register(ProcessCollector())

    def _histogram(self, name: str, text: str) -> SecondsHistogram:
        histogram = SecondsHistogram(PREFIX + name, text)
        self.registry.register(histogram)
        return histogram

    def appended(self, seconds: float, stored: Appended) -> None:
        """A batch was stored, so long after it was handed to the log."""
        self.log_append_seconds.observe(seconds)
        if stored.last_seq is not None:
            # The batch's own: the log may have gone on by others' meanwhile.
            self._arrivals.append((stored.last_seq, self._clock() - seconds))

    def expect(self, steps: Iterable[Step]) -> None:
        """The log has these steps, and is to tell them to `stepped`."""
        for step in steps:
            self._steps[step] = self._histogram(f"log_{step}_seconds", _STEPS[step])

    def stepped(self, step: Step, seconds: float) -> None:
        """A log on NATS has published a message, or applied some."""
        self._steps[step].observe(seconds)

    def fanned_out(self, seconds: float, position: int) -> None:
        """Everything up to `position` was offered, the last of it in so many seconds."""
        self.fanout_seconds.observe(seconds)
        now, arrivals = self._clock(), self._arrivals
        while arrivals and arrivals[0][0] <= position:
            self.ingest_to_socket_seconds.observe(now - arrivals.popleft()[1])

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
        sources: Callable[[], Sequence[SourceStatus]] = lambda: (),
    ) -> None:
        self._metrics = metrics
        self._log = log
        self._manager = manager
        self._stats = stats
        self._closes = closes
        self._auth_failures = auth_failures
        self._send_buffer_bytes = send_buffer_bytes
        self._slowest_seconds = slowest_seconds
        self._sources = sources

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
        yield from _of_sources(self._sources())
        build = GaugeMetricFamily(PREFIX + "build_info", "The release", labels=["version"])
        build.add_metric([__version__], 1)
        yield build

    def _of_the_log(self) -> Iterator[Metric]:
        statistics = self._log.statistics()
        yield _gauge("log_last_seq", "The newest seq of the log", self._log.last_seq)
        is_ready = self._log.why_not_ready() is None
        yield _gauge("log_ready", "Whether the log takes and tells what it should", float(is_ready))
        yield _gauge("log_bytes", "Bytes of changes in the log", statistics["log_bytes"])
        oldest = statistics["oldest_at"]
        age = max(time.time() - oldest, 0.0) if oldest else 0.0
        yield _gauge("log_oldest_seconds", "Age of the oldest change in the log", age)
        if "lag_messages" in statistics:
            yield from _of_a_node(statistics)


def _of_a_node(statistics: Mapping[str, float]) -> Iterator[Metric]:
    for name, text in (
        ("lag_messages", "Messages of the stream that this node has not applied"),
        ("connected", "Whether there is a connection to a NATS server"),
        ("epoch", "The number of the log's life in its stream"),
    ):
        yield _gauge(f"log_{name}", text, statistics[name])
    mismatches = CounterMetricFamily(
        PREFIX + "log_digest_mismatches", "Times that another node's digest was another"
    )
    mismatches.add_metric([], statistics["digest_mismatches"])
    yield mismatches
    copied = CounterMetricFamily(
        PREFIX + "log_snapshot_bytes", "Bytes of files copied between nodes", labels=["direction"]
    )
    for direction in ("sent", "received"):
        copied.add_metric([direction], statistics[f"snapshot_bytes_{direction}"])
    yield copied


def _of_sources(statuses: Sequence[SourceStatus]) -> Iterator[Metric]:
    families = [
        GaugeMetricFamily(f"{PREFIX}source_{name}", text, labels=["source"])
        for name, text in (
            ("up", "Whether the source is followed at the moment"),
            ("lag_bytes", "Bytes of the source's log that have not been stored here"),
            ("lag_seconds", "How long the oldest change that has not been stored here waits"),
        )
    ]
    standby = GaugeMetricFamily(
        f"{PREFIX}source_standby", "Whether the source is left to another node", labels=["source"]
    )
    for one in statuses:
        standby.add_metric([one.name], float(one.stands_by))
        if one.stands_by:
            continue
        for family, value in zip(
            families, (float(one.is_up), one.lag.bytes, one.lag.seconds), strict=True
        ):
            family.add_metric([one.name], value)
    yield from [*families, standby]


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
