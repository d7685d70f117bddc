"""PNG plots, where matplotlib is installed."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from loadtest.harness.report import Measurement, Result

HINT = "no plot: matplotlib is not installed (pip install 'kalam-notify[loadtest]')"


def canvas(title: str, height: float = 4.5) -> tuple[Any, Any]:
    """A figure and its axes, drawn without a display. Raises ImportError without matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    axes.grid(alpha=0.3)
    return figure, axes


def bars(result: Result, path: Path) -> None:
    """Every case as a bar, its floor as another, its bar as a mark; one panel per unit."""
    from matplotlib.figure import Figure

    units = list(dict.fromkeys(m.unit for m in result.measurements))
    height = 1.2 * len(units) + 0.55 * len(result.measurements)
    figure = Figure(figsize=(9, height + 0.8), layout="constrained")
    figure.suptitle(result.title)
    panels = figure.subplots(len(units), 1, squeeze=False)
    for (axes,), unit in zip(panels, units, strict=True):
        _panel(axes, unit, [m for m in result.measurements if m.unit == unit])
    figure.savefig(path, dpi=110)


def _panel(axes: Any, unit: str, measurements: Sequence[Measurement]) -> None:
    places = range(len(measurements))
    axes.barh([p - 0.18 for p in places], [m.value for m in measurements], 0.34, label="measured")
    floors = [m.floor or 0 for m in measurements]
    if any(floors):
        axes.barh([p + 0.18 for p in places], floors, 0.34, label="floor")
    for place, m in zip(places, measurements, strict=True):
        limit = _limit(m)
        if limit is not None:
            axes.plot([limit, limit], [place - 0.4, place + 0.4], color="black", linewidth=2)
    axes.set_yticks(list(places), [m.case for m in measurements])
    axes.set_xlabel(f"{unit} (black: the bar)")
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize="small")


def _limit(m: Measurement) -> float | None:
    if m.bar is None:
        return None
    if m.bar.of == "value":
        return m.bar.limit
    return m.bar.limit * m.floor if m.floor else None


def delays(result: Result, path: Path) -> None:
    """Share of arrivals later than so many milliseconds, both axes logarithmic.

    Takes the measurements whose details hold a histogram under `curve`: (ms, count) pairs.
    """
    figure, axes = canvas(result.title)
    for m in result.measurements:
        curve = m.details.get("curve")
        if curve:
            left, later = sum(count for _, count in curve), []
            total = left
            for _, count in curve:
                later.append(left / total)
                left -= count
            axes.plot([ms for ms, _ in curve], later, label=m.details.get("name", m.case))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("delay from post to arrival, ms")
    axes.set_ylabel("share of arrivals later than that")
    axes.legend()
    figure.savefig(path, dpi=110)


def draw(drawer: Callable[[Result, Path], None], result: Result, path: Path) -> str:
    """Write the PNG; returns what to tell the user."""
    try:
        drawer(result, path)
    except ImportError:
        return HINT
    return f"plot: {path}"
