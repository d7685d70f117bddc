"""Following a query from a terminal."""

import asyncio
import os
import signal
import sys
from argparse import Namespace
from typing import Any

import orjson

from kalam_notify.client.client import Client
from kalam_notify.client.events import Acknowledged, Event, Message
from kalam_notify.client.tail_lines import Columns, PlainLines, TerminalLines
from kalam_notify.client.tail_table import show
from kalam_notify.client.terminal import Palette, takes_colours


def options_of(args: Namespace) -> dict[str, Any] | None:
    """The subscription options that the flags stand for; None: live changes only."""
    if args.from_seq is not None:
        return {"from": int(args.from_seq)}
    if args.last is not None:
        return {"last_rows": int(args.last)}
    return {} if args.snapshot else None


async def follow(args: Namespace) -> None:
    """Print what a query tells until the task is cancelled; raises what ends the client.

    Ends as well when nobody reads the output any more.
    """
    printer = Printer(args.json, Columns(args.columns or ()))
    async with Client(
        args.url, token=args.token, on_message=printer.message, on_trouble=_print_trouble
    ) as client:
        options = options_of(args)
        events = await client.subscribe(
            args.sql,
            params=args.param or (),
            id="tail",
            options=options,
            live_only=options is None,
            keep_view=False,
        )
        async for event in events:
            printer.event(event)
            if printer.is_broken:
                return


async def follow_until_interrupted(args: Namespace) -> None:
    """`follow`, ended without a fault by SIGINT or SIGTERM."""
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(show(args, sys.stdout) if args.table else follow(args))
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()


class Printer:
    """Writes to stdout, each line at once: messages for programs, or events for people."""

    def __init__(self, as_json: bool, columns: Columns) -> None:
        self.is_broken = False
        self._as_json = as_json
        self._columns = columns
        out = sys.stdout
        self._lines: PlainLines | TerminalLines = (
            TerminalLines(columns, Palette(takes_colours(out)))
            if out.isatty()
            else PlainLines(columns)
        )

    def message(self, message: Message) -> None:
        if self._as_json:
            self._line(orjson.dumps(message).decode())

    def event(self, event: Event) -> None:
        if self._as_json:
            return
        if isinstance(event, Acknowledged):
            _print_state(event)
            for name in self._columns.unknown(event):
                print(f"notice: the query has no column {name}", file=sys.stderr, flush=True)
        for line in self._lines.of(event):
            self._line(line)

    def _line(self, line: str) -> None:
        if self.is_broken:
            return
        try:
            print(line, flush=True)
        except BrokenPipeError:
            self.is_broken = True
            # Python flushes stdout once more at exit; give it something to flush to.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_state(event: Acknowledged) -> None:
    match event.message.get("resumed"):
        case True:
            state = "resumed"
        case False:
            state = "the log does not reach back that far: starting over"
        case _:
            state = "subscribed"
    print(state, file=sys.stderr, flush=True)
    for notice in event.message.get("notices") or ():
        print(f"notice: {notice}", file=sys.stderr, flush=True)


def _print_trouble(why: str, delay: float) -> None:
    print(f"{why}; trying again in {delay:.1f} s", file=sys.stderr, flush=True)
