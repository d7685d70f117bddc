"""What CPU does a change take in the thread that stores it, and a row that is read from the file?

No server and no socket: the store alone, each shape of change and of read in blocks that take
turns with those of another checkout (`--source DIR`), so that a busy machine disturbs both. The
other one is the floor of the table. Without it there are the figures of this one only.

    git worktree add ../before SOME_COMMIT
    python -m loadtest store --source ../before
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from loadtest.harness.lines import ROOT, LineProcess
from loadtest.harness.question import Question
from loadtest.harness.report import Measurement, median
from loadtest.harness.stage import Bench, Stage

SCRIPT = ROOT / "loadtest" / "harness" / "storing.py"
ROWS = 100_000
COUNT = 8000
BLOCKS = 9
WRITES = [
    f"{shape}{id}" for shape in ("inserts", "updates", "events", "owned") for id in ("", "+id")
]
READS = ("snapshot", "snapshot-before", "by-key", "resume", "resume-owner", "trim")
SECONDS = 600.0


async def started(bench: Bench, stage: Stage, source: Path, rows: int) -> LineProcess:
    """The store of a checkout with its file filled."""
    command = (sys.executable, "-P", str(SCRIPT), str(stage.directory()), str(source), str(rows))
    process = await stage.process(command)
    bench.progress.step(f"{rows} rows for {source.name}")
    await process.ask("fill 0", "fill", SECONDS)
    return process


async def measure(stands: Sequence[LineProcess], what: str, count: int, blocks: int) -> Measurement:
    """The medians of some blocks, and of the ratios of those that were neighbours."""

    async def figures(command: str) -> list[float]:
        name = command.split()[0]
        return [(await stand.ask(command, name, SECONDS))["value"] for stand in stands]

    before = await figures("bytes 0")
    found: list[list[float]] = []
    for turn in range(blocks):
        # Who comes first takes turns, too.
        stands = stands[::-1]
        values = await figures(f"{what} {count}")
        found.append(values if turn % 2 else values[::-1])
    if blocks % 2:
        stands = stands[::-1]
    ours = median([values[0] for values in found])
    grown = zip(await figures("bytes 0"), before, strict=True)
    sizes = [round((after - begin) / (count * blocks)) for after, begin in grown] if count else []
    unit = "us per change" if count else "us per row"
    if len(stands) == 1:
        return Measurement(what, ours, unit, details={"bytes_per_change": sizes})
    return Measurement(
        *(what, ours, unit, median([values[1] for values in found])),
        median([values[0] / values[1] for values in found]),
        details={"bytes_per_change": sizes},
    )


async def run(bench: Bench) -> Sequence[Measurement]:
    bench.require_own_server()
    small = bench.options.small
    sources = [ROOT] if bench.options.source is None else [ROOT, bench.options.source.resolve()]
    count, blocks = (400, 2) if small else (COUNT, BLOCKS)
    async with bench.stage() as stage:
        stands = [await started(bench, stage, one, 2000 if small else ROWS) for one in sources]
        measurements = []
        for what in (*WRITES, *READS):
            bench.progress.step(what)
            measurements.append(await measure(stands, what, count if what in WRITES else 0, blocks))
    return measurements


QUESTION = Question("store", "CPU of the thread that stores, and of reads of the file", run)
