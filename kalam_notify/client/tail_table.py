"""`tail --table`: the rows of a query as a table that stays on the screen.

Each picture is written over the last one, from the top left corner on, and as large as the window
is at that moment. The terminal's other screen is used, so that what stood there is back afterwards.
"""

import asyncio
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, TextIO

from kalam_notify.client.connection import Row, connect
from kalam_notify.client.live import Live
from kalam_notify.client.tail_lines import json_of
from kalam_notify.client.terminal import (
    Palette,
    fit,
    safe,
    shown_on,
    takes_colours,
    width,
    window_of,
)

PICTURE_SECONDS: Final = 0.1
WIDEST_COLUMN: Final = 40

_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _LINE_END, _REST = "\x1b[H", "\x1b[K", "\x1b[J"


async def show(args: Namespace, out: TextIO) -> None:
    """Show the table until the task is cancelled; raises what ends the query."""
    is_shown = False

    def tell(why: str, delay: float) -> None:
        # The last line of the table tells, once there is one.
        if not is_shown:
            print(f"{why}; trying again in {delay:.1f} s", file=sys.stderr, flush=True)

    async with connect(args.url, token=args.token, connect_timeout=None, on_trouble=tell) as db:
        live = db.live(args.sql, args.param or (), last_rows=args.last, from_position=args.from_seq)
        await live.ready()
        is_shown = True
        with _other_screen(out):
            await _draw_for_ever(live, Picture(args.columns or (), out), out)


async def _draw_for_ever(live: Live[Row], picture: "Picture", out: TextIO) -> None:
    changed = asyncio.Event()
    live.subscribe(lambda _: changed.set())
    asyncio.get_running_loop().add_signal_handler(signal.SIGWINCH, changed.set)
    while live.error is None:
        changed.clear()
        lines = picture.lines(live, window_of(out))
        out.write(_HOME + f"{_LINE_END}\r\n".join(lines) + _LINE_END + _REST)
        out.flush()
        # No more pictures than an eye can follow, however fast rows change.
        await asyncio.sleep(PICTURE_SECONDS)
        await changed.wait()
    raise live.error


@contextmanager
def _other_screen(out: TextIO) -> Iterator[None]:
    out.write(_ENTER)
    try:
        yield
    finally:
        out.write(_LEAVE)
        out.flush()


class Picture:
    """The table as lines that fit into a window; remembers the last one, to mark what is new.

    `columns` are those to be shown; none: all there are.
    """

    def __init__(self, columns: Sequence[str], out: TextIO) -> None:
        self._columns = tuple(columns)
        self._palette = Palette(takes_colours(out))
        self._out = out
        self._last: dict[Any, Row] | None = None

    def lines(self, live: Live[Row], size: os.terminal_size) -> list[str]:
        """At most `size.lines` lines, each in at most `size.columns` cells."""
        room = max(0, size.lines - 2)
        rows = live.rows
        shown = rows[: room if len(rows) <= room else max(0, room - 1)]
        names = self._names(live.columns, shown)
        cells = [[self._cell(row[name]) if name in row else "" for name in names] for row in shown]
        widths = self._widths(names, cells, size.columns)
        head = self._palette.paint("bold", _line(map(safe, names), widths))
        lines = [head, *self._body(live.primary_key, names, shown, cells, widths)]
        if len(shown) < len(rows):
            lines.append(f"... and {len(rows) - len(shown):,} more rows"[: size.columns])
        foot = f"{live.status}, {len(rows):,} rows: {safe(live.sql)}"
        lines.append(self._palette.paint("dim", self._fitted(foot, size.columns)))
        return lines[-size.lines :]

    def _names(self, columns: Sequence[str], rows: Sequence[Row]) -> list[str]:
        if self._columns:
            return list(self._columns)
        named = dict.fromkeys(columns) | {name: None for row in rows for name in row}
        return [name for name in named if name != "_seq"]

    def _body(
        self,
        key: Sequence[str],
        names: Sequence[str],
        rows: Sequence[Row],
        cells: Sequence[Sequence[str]],
        widths: Sequence[int],
    ) -> list[str]:
        last, self._last = self._last, {_key(key, row): row for row in rows}
        return [
            self._row(
                row, None if last is None else last.get(_key(key, row), {}), names, texts, widths
            )
            for row, texts in zip(rows, cells, strict=True)
        ]

    def _row(
        self,
        row: Row,
        before: Mapping[str, Any] | None,
        names: Sequence[str],
        texts: Sequence[str],
        widths: Sequence[int],
    ) -> str:
        """A line; cells that are new or others than in the last picture stand out."""
        fitted = [fit(text, cells) for text, cells in zip(texts, widths, strict=False)]
        if before is None or row is before:
            return "  ".join(fitted)
        colour = "yellow" if before else "green"
        return "  ".join(
            text
            if name in before and before[name] == row.get(name)
            else self._palette.paint(colour, text)
            for name, text in zip(names, fitted, strict=False)
        )

    def _cell(self, value: Any) -> str:
        if value is None:
            return ""
        return shown_on(self._out, safe(value if isinstance(value, str) else json_of(value)))

    def _fitted(self, text: str, cells: int) -> str:
        return fit(shown_on(self._out, text), cells).rstrip()

    def _widths(self, names: Sequence[str], cells: Sequence[Sequence[str]], room: int) -> list[int]:
        """How wide each column is; columns that the window has no room for are left out."""
        widths: list[int] = []
        for place, name in enumerate(names):
            widest = max(map(width, [safe(name), *(texts[place] for texts in cells)]))
            wanted = min(WIDEST_COLUMN, widest, room)
            room -= wanted + 2
            if wanted <= 0:
                break
            widths.append(wanted)
        return widths


def _line(texts: Any, widths: Sequence[int]) -> str:
    return "  ".join(fit(text, cells) for text, cells in zip(texts, widths, strict=False))


def _key(key: Sequence[str], row: Row) -> Any:
    return tuple((type(row[name]), row[name]) for name in key) if key else id(row)
