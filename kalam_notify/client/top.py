"""`top`: what a server is doing, on a terminal anew every two seconds, else once.

Rates and quantiles are of the time between two readings of /metrics, so that the first picture
takes one interval to come.
"""

import contextlib
import os
import select
import shutil
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from typing import Any, TextIO

from kalam_notify.client.administration import (
    Refused,
    Row,
    aligned,
    duration,
    reports_faults,
    server_of,
    size,
)
from kalam_notify.client.faults import Unreachable
from kalam_notify.client.metrics import Between, Reading
from kalam_notify.client.requests import Server

MOST_TABLES = 15
MOST_LAGGING = 8
_K = "kalam_notify_"
_LATENCY = f"{_K}ingest_to_socket_seconds"


@reports_faults
def top(args: Namespace) -> int:
    """Show what the server does until it is enough: q, or SIGINT."""
    server = server_of(args)
    is_once = args.once or not sys.stdout.isatty()
    reading = _read(server)
    if is_once:
        time.sleep(args.interval)
        print("\n".join(_picture(server, args.url, Between(reading, _read(server)))))
        return 0
    with _screen(sys.stdout), _keys() as keys, contextlib.suppress(KeyboardInterrupt):
        _draw(sys.stdout, ["reading ..."])
        while not keys.is_enough(args.interval):
            try:
                now = _read(server)
                _draw(sys.stdout, _picture(server, args.url, Between(reading, now)))
                reading = now
            except Unreachable as fault:
                # It may be starting again: this screen is where one waits for that.
                _draw(sys.stdout, [str(fault), "asking again ..."])
    return 0


def _read(server: Server) -> Reading:
    answer = server.ask("GET", "/metrics")
    if answer.status != 200:
        raise Refused(f"refused: {answer.fault}")
    return Reading.of(answer.text, time.monotonic())


def _picture(server: Server, url: str, between: Between) -> list[str]:
    health = server.ask("GET", "/health").body or {}
    lagging = _lagging(server) if between.after.value(f"{_K}lagging_subscriptions") else []
    return [*_head(url, health), *_figures(between), "", *_tables(between), *_behind(lagging)]


def _lagging(server: Server) -> list[Row]:
    """None to show where the role suffices for the metrics, but not for this."""
    answer = server.ask("GET", f"/v1/subscriptions?lagging=true&limit={MOST_LAGGING}")
    rows: list[Row] = answer.body["subscriptions"] if answer.status == 200 else []
    return sorted(rows, key=lambda row: -float(row["seconds_behind"]))


def _head(url: str, health: Any) -> Iterator[str]:
    crew = health.get("workers", 1)
    workers = "" if crew == 1 else f"  {health.get('workers_running')} of {crew} workers"
    yield (
        f"kalam-notify {health.get('version', '?')} at {url}  {health.get('status', '?')}  "
        f"up {duration(health.get('uptime_seconds', 0))}{workers}"
    )


def _figures(between: Between) -> Iterator[str]:
    now, rate = between.after, between.rate
    yield "  ".join(
        (
            f"connections {now.value(f'{_K}connections'):,.0f}",
            f"subscriptions {now.total(f'{_K}subscriptions'):,.0f}",
            f"lagging {now.value(f'{_K}lagging_subscriptions'):,.0f}",
            f"slowest {duration(now.value(f'{_K}slowest_subscription_seconds'))}",
            f"waiting {size(now.value(f'{_K}send_buffer_bytes'))}",
        )
    )
    yield "  ".join(
        (
            f"changes {rate(f'{_K}changes_ingested_total'):,.0f}/s",
            f"deliveries {rate(f'{_K}deliveries_total'):,.0f}/s",
            f"{size(rate(f'{_K}delivery_bytes_total'))}/s",
            f"post to socket p50 {_latency(between, 0.5)} p99 {_latency(between, 0.99)}",
        )
    )
    yield "  ".join(
        (
            f"memory {size(now.value('process_resident_memory_bytes'))}",
            f"CPU {rate('process_cpu_seconds_total'):.0%}",
            f"log {size(now.value(f'{_K}log_bytes'))}",
            f"reaching back {duration(now.value(f'{_K}log_oldest_seconds'))}",
            f"last seq {now.value(f'{_K}log_last_seq'):.0f}",
        )
    )


def _latency(between: Between, share: float) -> str:
    seconds = between.quantile(share, _LATENCY)
    return "-" if seconds is None else f"{seconds * 1000:.1f} ms"


def _tables(between: Between) -> Iterator[str]:
    name = f"{_K}changes_ingested_total"
    totals = between.after.by(name, "table")
    rates = sorted(between.rates(name, "table").items(), key=lambda one: (-one[1], one[0]))
    rows = [
        {"table": table, "rate": round(rate, 1), "total": int(totals[table])}
        for table, rate in rates[:MOST_TABLES]
    ]
    yield from aligned(
        rows,
        [
            ("TABLE", lambda row: row["table"]),
            ("CHANGES/S", lambda row: row["rate"]),
            ("CHANGES", lambda row: row["total"]),
        ],
    )
    if len(rates) > MOST_TABLES:
        yield f"and {len(rates) - MOST_TABLES} more"


def _behind(rows: list[Row]) -> Iterator[str]:
    if not rows:
        return
    yield ""
    yield from aligned(
        rows,
        [
            ("LAGGING", lambda row: row["connection"]),
            ("USER", lambda row: row["user"] or "(anonymous)"),
            ("STATE", lambda row: row["state"]),
            ("BEHIND", lambda row: duration(row["seconds_behind"])),
            ("BYTES", lambda row: size(row["bytes_behind"])),
            ("SQL", lambda row: row["sql"]),
        ],
    )


# The terminal


@contextlib.contextmanager
def _screen(out: TextIO) -> Iterator[None]:
    """The terminal's other screen, without a cursor; what was there before comes back."""
    out.write("\x1b[?1049h\x1b[?25l")
    try:
        yield
    finally:
        out.write("\x1b[?25h\x1b[?1049l")
        out.flush()


def _draw(out: TextIO, lines: list[str]) -> None:
    """In one write, over what is there: nothing flickers."""
    width, height = shutil.get_terminal_size()
    fitted = [line[:width] for line in lines[: height - 2]]
    fitted += ["", "q ends it"[:width]]
    out.write("\x1b[H" + "".join(f"{line}\x1b[K\r\n" for line in fitted[:-1]))
    out.write(f"{fitted[-1]}\x1b[K\x1b[J")
    out.flush()


class _Keys:
    """Keys that are pressed while nothing else is done."""

    def __init__(self, source: TextIO | None) -> None:
        self._source = source

    def is_enough(self, seconds: float) -> bool:
        """Whether q was pressed within so many seconds."""
        if self._source is None:
            time.sleep(seconds)
            return False
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if select.select([self._source], [], [], left)[0]:
                # Not by its buffer, which select knows nothing of.
                keys = os.read(self._source.fileno(), 64)
                if not keys or b"q" in keys.lower():
                    return True
        return False


@contextlib.contextmanager
def _keys() -> Iterator[_Keys]:
    """Keys as they are pressed, where there is a keyboard."""
    if not sys.stdin.isatty():
        yield _Keys(None)
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield _Keys(sys.stdin)
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
