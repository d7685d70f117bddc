"""Figures, how they stand to their bars, and how they are told: a table and JSON."""

import json
import os
import platform
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from loadtest.harness.options import Options

Of = Literal["value", "ratio"]


@dataclass(frozen=True)
class Bar:
    """What a figure is held to: the measured value itself, or its ratio to the floor."""

    sense: Literal["at most", "at least"]
    limit: float
    of: Of = "value"

    def met(self, value: float, ratio: float | None) -> bool | None:
        """None where there is nothing to judge: a ratio without a floor."""
        judged = value if self.of == "value" else ratio
        if judged is None:
            return None
        return judged <= self.limit if self.sense == "at most" else judged >= self.limit

    def __str__(self) -> str:
        return f"{self.sense} {number(self.limit)}{' x' if self.of == 'ratio' else ''}"


@dataclass(frozen=True)
class Measurement:
    """One figure of one case. `details` go into the JSON and the plot."""

    case: str
    value: float
    unit: str
    floor: float | None = None
    ratio: float | None = None
    bar: Bar | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    spread: tuple[float, float] | None = None

    @property
    def verdict(self) -> str:
        met = self.bar.met(self.value, self.ratio) if self.bar else None
        return "" if met is None else "met" if met else "missed"


@dataclass(frozen=True)
class Result:
    """A finished question."""

    question: str
    title: str
    machine: Mapping[str, Any]
    options: Mapping[str, Any]
    measurements: Sequence[Measurement]
    notes: Sequence[str]

    def table(self) -> str:
        """Text for a terminal, one line per case."""
        head = ("case", "measured", "unit", "floor", "ratio", "bar", "verdict", "runs from..to")
        rows = [head, *(_cells(m) for m in self.measurements)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
        lines.insert(1, "  ".join("-" * width for width in widths))
        notes = [f"note: {note}" for note in self.notes]
        machine = ", ".join(f"{key} {value}" for key, value in self.machine.items())
        return "\n".join([self.title, machine, "", *map(str.rstrip, lines), "", *notes])

    def write(self, directory: Path) -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{self.question}.json"
        told = asdict(self)
        for plain, measurement in zip(told["measurements"], self.measurements, strict=True):
            plain["verdict"] = measurement.verdict
        path.write_text(json.dumps(told, indent=1, default=str) + "\n")
        return path


def number(value: float | None) -> str:
    """Three significant digits, thousands set apart."""
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _cells(m: Measurement) -> tuple[str, ...]:
    spread = f"{number(m.spread[0])}..{number(m.spread[1])}" if m.spread else ""
    ratio = f"{m.ratio:.2f} x" if m.ratio is not None else "-"
    bar = str(m.bar) if m.bar else ""
    return m.case, number(m.value), m.unit, number(m.floor), ratio, bar, m.verdict, spread


def median(values: Iterable[float]) -> float:
    return statistics.median(list(values))


def medians(runs: Sequence[Sequence[Measurement]]) -> list[Measurement]:
    """The cases of several runs, each as the median of its values, floors and ratios."""
    if len(runs) == 1:
        return list(runs[0])
    return [_median_of([run[place] for run in runs]) for place in range(len(runs[0]))]


def _median_of(same: Sequence[Measurement]) -> Measurement:
    first = same[0]
    values = [m.value for m in same]
    floors = [m.floor for m in same if m.floor is not None]
    ratios = [m.ratio for m in same if m.ratio is not None]
    return Measurement(
        first.case,
        median(values),
        first.unit,
        median(floors) if floors else None,
        median(ratios) if ratios else None,
        first.bar,
        {**first.details, "runs": values},
        (min(values), max(values)),
    )


def machine() -> dict[str, Any]:
    """What the figures were taken on; `load`: of the last minute, this run's own included."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "load": round(os.getloadavg()[0], 1),
    }


def result(
    options: Options, title: str, measurements: Sequence[Measurement], notes: Sequence[str]
) -> Result:
    if options.small:  # too short to be judged
        measurements = [replace(m, bar=None) for m in measurements]
        notes = [*notes, "small size: only delivery was checked, no figure is held to its bar"]
    # What was measured, not where on this machine and not with whose token.
    private = ("token", "results", "scratch", "url", "pid", "source")
    told = asdict(options).items()
    asked = {name: value for name, value in told if value and name not in private}
    return Result(options.question, title, machine(), asked, measurements, notes)
