"""Counting and checking what arrives, as client/message.c and client/tally.c do it."""

import json
import math
import re
import time
from dataclasses import dataclass, field
from typing import Any

_ROW = re.compile(
    r'"x_load":"(?P<n>\d{10})\.(?P<stamp>\d+)\.(?P<padding>\d*)"|"_seq":"(?P<seq>\d+)"|(?P<bad>"x_load":)'
)
STEPS = 32


def bucket_edge(ns: int) -> int:
    """The lower edge of the bucket that holds `ns`: 32 steps per power of two."""
    if ns < STEPS:
        return ns
    shift = int(math.log2(ns)) - 5
    return ns >> shift << shift


@dataclass
class Histogram:
    """Nanoseconds by bucket."""

    counts: dict[int, int] = field(default_factory=dict)
    max: int = 0

    def add(self, ns: int) -> None:
        edge = bucket_edge(ns)
        self.counts[edge] = self.counts.get(edge, 0) + 1
        self.max = max(self.max, ns)

    def told(self) -> dict[str, Any]:
        buckets = sorted(self.counts.items())
        return {"count": sum(self.counts.values()), "max": self.max, "buckets": buckets}


@dataclass
class Subscription:
    """Where one subscription stands."""

    position: int = 0
    last_seq: int = 0
    last_n: int = 0
    rows: int = 0
    sum: int = 0
    is_silent: bool = False  # no rows are due to it
    live_on: object = None  # the connection on which it was told to be live


@dataclass
class Tally:
    """What arrived since the last reset, on all connections."""

    rows: int = 0
    sum: int = 0
    messages: int = 0
    bytes: int = 0
    snapshot_rows: int = 0
    not_resumed: int = 0
    faults: int = 0
    fault_texts: list[str] = field(default_factory=list)
    delay: Histogram = field(default_factory=Histogram)
    ping: Histogram = field(default_factory=Histogram)

    def fault(self, text: str) -> None:
        self.faults += 1
        if len(self.fault_texts) < 5:
            self.fault_texts.append(text)

    def take_rows(self, text: str, subscription: Subscription, *, contiguous: bool) -> None:
        """The rows of one `change` message."""
        now, seqs, loads = time.monotonic_ns(), 0, 0
        if '"old_values":' in text:
            text = json.dumps(json.loads(text).get("rows", []), separators=(",", ":"))
        for found in _ROW.finditer(text):
            if found["seq"]:
                self._take_seq(int(found["seq"]), subscription)
                seqs += 1
            elif found["n"] and found["padding"] in found["n"] * (len(found["padding"]) // 10 + 1):
                self._take_number(int(found["n"]), subscription, contiguous)
                self.delay.add(max(0, now - int(found["stamp"])))
                loads += 1
            else:
                self.fault(f"a row whose content is not what was posted: {found[0]}")
        if seqs != loads:
            self.fault(f"{loads} rows with {seqs} seqs")

    def _take_seq(self, seq: int, subscription: Subscription) -> None:
        if seq <= subscription.last_seq:
            self.fault(f"_seq {seq} came after {subscription.last_seq}")
        subscription.last_seq = seq
        subscription.position = max(subscription.position, seq)

    def _take_number(self, n: int, subscription: Subscription, contiguous: bool) -> None:
        if contiguous and subscription.last_n and n != subscription.last_n + 1:
            self.fault(f"row {n} came after row {subscription.last_n}")
        subscription.last_n = n
        subscription.rows += 1
        subscription.sum += n
        self.rows += 1
        self.sum += n

    def told(self, subscriptions: list[Subscription], connections: int) -> dict[str, Any]:
        """The `report` event; least and most are of whole connections."""
        receivers = [s for s in subscriptions if not s.is_silent]
        per = len(receivers) // max(1, connections)
        groups = [receivers[n * per : (n + 1) * per] for n in range(connections)]
        rows = [sum(s.rows for s in group) for group in groups] or [0]
        sums = [sum(s.sum for s in group) for group in groups] or [0]
        placed = sum(place * s.sum for place, s in enumerate(receivers, 1))
        plain = ("rows", "messages", "bytes", "snapshot_rows", "not_resumed", "faults")
        return {
            "event": "report",
            **{name: getattr(self, name) for name in plain},
            "sum": self.sum % 2**64,
            "placed": placed % 2**64,
            **{"least_rows": min(rows), "most_rows": max(rows)},
            **{"least_sum": min(sums), "most_sum": max(sums)},
            "fault_texts": self.fault_texts,
            "delay": self.delay.told(),
            "ping": self.ping.told(),
            "cpu_ns": time.process_time_ns(),
        }
