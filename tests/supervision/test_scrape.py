"""Adding up what several workers have counted."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from kalam_notify.scrape import Scrape, added, exposition, lasting, scrape


def worker(connections: int, posts: dict[str, int], seconds: list[float], last_seq: int) -> Scrape:
    """What a worker would tell."""
    registry = CollectorRegistry()
    Gauge("kalam_notify_connections", "Open", registry=registry).set(connections)
    Gauge("kalam_notify_log_last_seq", "Newest", registry=registry).set(last_seq)
    Gauge("kalam_notify_build_info", "Release", ["version"], registry=registry).labels("1").set(1)
    counter = Counter("kalam_notify_posts", "Posts", ["status"], registry=registry)
    for status, count in posts.items():
        counter.labels(status).inc(count)
    histogram = Histogram("kalam_notify_s", "Seconds", buckets=(1, 2), registry=registry)
    for value in seconds:
        histogram.observe(value)
    return scrape(registry)


def values(one: Scrape) -> dict[tuple[str, str], float]:
    """(name, label values) -> value, read back from the text."""
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(exposition(one).decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_a_scrape_of_one_is_what_its_registry_writes() -> None:
    registry = CollectorRegistry()
    Counter("kalam_notify_posts", "Posts", ["status"], registry=registry).labels("200").inc()
    Histogram("kalam_notify_s", "Seconds", registry=registry).observe(1)
    assert exposition(scrape(registry)) == generate_latest(registry)


def test_counters_histograms_and_most_gauges_are_summed() -> None:
    told = values(
        added([worker(2, {"200": 3, "400": 1}, [0.5, 1.5], 7), worker(5, {"200": 4}, [1.5, 9], 9)])
    )
    assert told["kalam_notify_connections", ""] == 7
    assert told["kalam_notify_posts_total", "200"] == 7
    assert told["kalam_notify_posts_total", "400"] == 1
    assert [told["kalam_notify_s_bucket", le] for le in ("1.0", "2.0", "+Inf")] == [1, 3, 4]
    assert told["kalam_notify_s_count", ""] == 4
    assert told["kalam_notify_s_sum", ""] == 12.5


def test_what_all_tell_of_the_same_thing_is_told_once() -> None:
    told = values(added([worker(0, {}, [], 7), worker(0, {}, [], 9), worker(0, {}, [], 8)]))
    assert told["kalam_notify_log_last_seq", ""] == 9
    assert told["kalam_notify_build_info", "1"] == 1


def test_of_a_worker_that_is_gone_its_counts_stay_and_its_state_does_not() -> None:
    departed = lasting(worker(5, {"200": 4}, [0.5], 9))
    told = values(added([worker(2, {"200": 3}, [0.5], 7), departed]))
    assert told["kalam_notify_connections", ""] == 2
    assert told["kalam_notify_posts_total", "200"] == 7
    assert told["kalam_notify_s_count", ""] == 2


def test_departed_workers_can_be_added_again_and_again() -> None:
    departed: Scrape = []
    for _ in range(3):
        departed = added([departed, lasting(worker(1, {"200": 2}, [0.5], 1))])
    assert values(departed)["kalam_notify_posts_total", "200"] == 6


def node(connected: int, lag: int, epoch: int, ready: int) -> Scrape:
    """What a worker of a node tells of the stream that it shares with the others."""
    registry = CollectorRegistry()
    told = {"connected": connected, "lag_messages": lag, "epoch": epoch, "ready": ready}
    for name, value in told.items():
        Gauge(f"kalam_notify_log_{name}", name, registry=registry).set(value)
    return scrape(registry)


def test_of_a_stream_the_worst_worker_tells_and_nothing_is_added_up() -> None:
    told = values(added([node(1, 7, 2, 1), node(0, 3, 2, 0)]))
    assert told == {
        ("kalam_notify_log_connected", ""): 0,
        ("kalam_notify_log_lag_messages", ""): 7,
        ("kalam_notify_log_epoch", ""): 2,
        ("kalam_notify_log_ready", ""): 0,
    }
