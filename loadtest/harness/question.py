"""What a question is."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest.harness import plot
from loadtest.harness.report import Measurement, Result
from loadtest.harness.stage import Bench


@dataclass(frozen=True)
class Question:
    """One thing to find out. `run` is one whole run; several are told as medians."""

    name: str
    title: str
    run: Callable[[Bench], Awaitable[Sequence[Measurement]]]
    draw: Callable[[Result, Path], None] = plot.bars
