"""What a server counts, read from its /metrics, and what two readings tell of the time between.

The format is Prometheus' text exposition (https://prometheus.io/docs/instrumenting/exposition_formats/).
"""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

Labels = tuple[tuple[str, str], ...]

_LINE = re.compile(r"([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)(?: -?\d+)?")
_LABEL = re.compile(r'([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"')
_ESCAPED = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}


class Reading(NamedTuple):
    """All samples of one moment; `at` in seconds of whoever took it."""

    at: float
    samples: Mapping[tuple[str, Labels], float]

    @classmethod
    def of(cls, text: str, at: float) -> "Reading":
        return cls(at, dict(_samples(text)))

    def value(self, name: str, **labels: str) -> float:
        """One sample; 0 where it is not there."""
        return self.samples.get((name, tuple(labels.items())), 0.0)

    def total(self, name: str) -> float:
        """A metric over all its labels."""
        return sum(value for (one, _), value in self.samples.items() if one == name)

    def by(self, name: str, label: str) -> dict[str, float]:
        """A metric by one of its labels."""
        return {
            dict(labels).get(label, ""): value
            for (one, labels), value in self.samples.items()
            if one == name
        }


def _samples(text: str) -> Iterator[tuple[tuple[str, Labels], float]]:
    for line in text.splitlines():
        match = None if line.startswith("#") else _LINE.fullmatch(line)
        if match is not None:
            name, labels, value = match.groups()
            found = tuple((key, _unescaped(raw)) for key, raw in _LABEL.findall(labels or ""))
            yield (name, found), float(value)


def _unescaped(text: str) -> str:
    return re.sub(r'\\[\\"n]', lambda match: _ESCAPED[match[0]], text)


class Between(NamedTuple):
    """Two readings, the later one second."""

    before: Reading
    after: Reading

    @property
    def seconds(self) -> float:
        return max(self.after.at - self.before.at, 1e-9)

    def rate(self, name: str) -> float:
        """A counter's growth per second; one that began anew counts from 0."""
        now, was = self.after.total(name), self.before.total(name)
        return (now - was if now >= was else now) / self.seconds

    def rates(self, name: str, label: str) -> dict[str, float]:
        """The same by a label."""
        was = self.before.by(name, label)
        return {
            key: max(value - was.get(key, 0.0), 0.0) / self.seconds
            for key, value in self.after.by(name, label).items()
        }

    def quantile(self, share: float, name: str) -> float | None:
        """What this share of a histogram's observations was at most; None: there was none.

        Linear within a bucket, as Prometheus' histogram_quantile does it; beyond the last one its
        lower bound.
        """
        was = self.before.by(f"{name}_bucket", "le")
        counts = sorted(
            (float(bound), count - was.get(bound, 0.0))
            for bound, count in self.after.by(f"{name}_bucket", "le").items()
        )
        if not counts or counts[-1][1] <= 0:
            return None
        wanted = share * counts[-1][1]
        low, below = 0.0, 0.0
        for bound, count in counts:
            if count >= wanted:
                if bound == float("inf"):
                    return low
                return low + (bound - low) * (wanted - below) / max(count - below, 1e-9)
            low, below = bound, count
        return low
