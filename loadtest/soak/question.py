"""`python -m loadtest soak --minutes N`: does it stay right, and does it stay flat?

The crowd lives on a server with three workers, while workers are killed and connections cut. Every
ten seconds everything is checked (loadtest/soak/crowd.py); meanwhile memory, descriptors, threads,
lagging subscriptions and the delay from post to arrival are sampled. The figures compare the last
quarter of the time to the second one (the first warms up); the plot shows all of it.
"""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from loadtest.harness.cpu import process_tree
from loadtest.harness.faults import DeliveryFault, LoadTestFault
from loadtest.harness.question import Question
from loadtest.harness.report import Bar, Measurement, Result, median
from loadtest.harness.server import Server
from loadtest.harness.stage import Bench
from loadtest.soak.crowd import Crowd, first_of
from loadtest.soak.faults import Proxy, trouble
from loadtest.soak.history import declared
from loadtest.soak.life import Wrong

WORKERS = 3
CHECK_EVERY = 10.0  # seconds
SLOW_READER_TIMEOUT = 5.0


@dataclass(frozen=True)
class Sample:
    """The server at one moment, and the delays since the one before."""

    seconds: float
    resident_mib: float
    descriptors: int
    threads: int
    lagging: float
    changes: int
    p50_ms: float
    p99_ms: float


CURVES: dict[str, tuple[str, Callable[[Sample], float]]] = {
    "resident memory": ("MiB", lambda s: s.resident_mib),
    "descriptors": ("open", lambda s: s.descriptors),
    "threads": ("of all processes", lambda s: s.threads),
    "lagging subscriptions": ("at the sample", lambda s: s.lagging),
    "delay p50": ("ms", lambda s: s.p50_ms),
    "delay p99": ("ms", lambda s: s.p99_ms),
}


async def sample(server: Server, crowd: Crowd, begun: float) -> Sample:
    assert server.pid is not None
    pids = process_tree(server.pid)
    delays, crowd.delays = sorted(crowd.delays), []
    lagging = 0.0
    with contextlib.suppress(LoadTestFault, OSError):  # the worker that was asked has been killed
        lagging = await server.metric("lagging_subscriptions")
    return Sample(
        time.monotonic() - begun,
        server.resident_bytes() / 2**20,
        sum(_count(Path(f"/proc/{pid}/fd")) for pid in pids),
        sum(_count(Path(f"/proc/{pid}/task")) for pid in pids),
        lagging,
        crowd.counts["changes"],
        delays[len(delays) // 2] / 1e6 if delays else 0.0,
        delays[len(delays) * 99 // 100] / 1e6 if delays else 0.0,
    )


def _count(directory: Path) -> int:
    with contextlib.suppress(OSError):
        return sum(1 for _ in directory.iterdir())
    return 0


async def live(bench: Bench, seed: int) -> tuple[list[Sample], Counter[str]]:
    seconds = 8.0 if bench.options.small else bench.options.minutes * 60
    every = 4.0 if bench.options.small else CHECK_EVERY
    async with bench.stage() as stage:
        server = await stage.server(
            workers=WORKERS,
            pinned=False,
            tables=declared(),
            messages_per_second=50,
            message_burst=200,
            send_buffer_bytes="64KiB",
            slow_reader_timeout=f"{SLOW_READER_TIMEOUT}s",
            batch_grace="200ms",
        )
        proxy = await Proxy(server.base).start()
        crowd = Crowd(
            [server.base, proxy.base],
            server.token_for,
            seed,
            actors=bench.options.many(60, 12),
            slow_reader_timeout=SLOW_READER_TIMEOUT,
        )
        samples: list[Sample] = []
        begun = time.monotonic()
        try:
            async with crowd.living():
                chaos = asyncio.create_task(trouble(crowd, server, proxy, crowd.counts))
                try:
                    while time.monotonic() - begun < seconds:
                        await crowd.pass_time(every)
                        samples.append(await sample(server, crowd, begun))
                        await crowd.checkpoint()
                        bench.progress.detail(f"{crowd.counts['changes']} changes, all exact")
                finally:
                    chaos.cancel()
        except* Wrong as group:
            # What happened is worth more than a table.
            first = crowd.wrong or first_of(group)
            raise DeliveryFault(f"seed {seed}: {first}; {dict(crowd.counts)}") from group
        finally:
            await proxy.stop()
    return samples, crowd.counts


async def run(bench: Bench) -> Sequence[Measurement]:
    bench.require_own_server()
    seed = bench.options.seed
    seed = random.randrange(10**6) if seed is None else seed
    bench.note(f"--seed {seed}")
    bench.progress.step(f"a soak of {bench.options.minutes:g} minutes")
    samples, counts = await live(bench, seed)
    bench.note(", ".join(f"{number} {what}" for what, number in sorted(counts.items())))
    return figures(samples, counts)


def figures(samples: list[Sample], counts: Counter[str]) -> list[Measurement]:
    quarter = max(1, len(samples) // 4)
    early, late = samples[quarter : 2 * quarter] or samples, samples[-quarter:]
    told = []
    for name, (unit, value) in CURVES.items():
        last, floor = median(map(value, late)), median(map(value, early))
        bar = Bar("at most", 1.1, "ratio") if name in ("resident memory", "descriptors") else None
        case = f"{name}, last quarter (floor: second quarter)"
        told.append(Measurement(case, last, unit, floor, last / floor if floor else None, bar))
    details = {"samples": [asdict(s) for s in samples], "counts": dict(counts)}
    checked = counts["subscriptions checked"]
    told.append(Measurement("subscriptions found exact", checked, "checks", details=details))
    return told


def draw(result: Result, path: Path) -> None:
    """A panel for every curve."""
    from matplotlib.figure import Figure

    samples = [Sample(**s) for s in result.measurements[-1].details["samples"]]
    figure = Figure(figsize=(9, 2 * len(CURVES)), layout="constrained")
    figure.suptitle(result.title)
    panels = figure.subplots(len(CURVES), 1, sharex=True)
    for axes, (name, (unit, value)) in zip(panels, CURVES.items(), strict=True):
        axes.plot([s.seconds / 60 for s in samples], list(map(value, samples)))
        axes.set_ylabel(f"{name}\n{unit}", fontsize="small")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    panels[-1].set_xlabel("minutes")
    figure.savefig(path, dpi=110)


QUESTION = Question("soak", "A soak: exact all along, and flat", run, draw)
