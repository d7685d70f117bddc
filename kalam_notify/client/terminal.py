"""What may be written to a terminal, and how wide it is there.

Rows come from anybody: a control character in one must not move the cursor or recolour the screen,
and a text that turns the direction of writing must not hide what stands beside it.
"""

import os
import re
import unicodedata
from collections.abc import Mapping
from typing import Final, TextIO

# C0 and C1 controls, DEL, and the marks that change the direction of writing (UAX 9).
_UNSAFE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_COLOURS: Final = {"red": 31, "green": 32, "yellow": 33, "cyan": 36, "bold": 1, "dim": 2}


def takes_colours(out: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether colours are wanted there: a terminal, and no NO_COLOR (https://no-color.org)."""
    return out.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def window_of(out: TextIO) -> os.terminal_size:
    """How large the terminal is now; COLUMNS and LINES tell only how large it once was."""
    size = os.get_terminal_size(out.fileno())
    return size if size.columns and size.lines else os.terminal_size((80, 24))


class Palette:
    """Puts text into colours, or leaves it as it is."""

    def __init__(self, is_on: bool) -> None:
        self._is_on = is_on

    def paint(self, colour: str, text: str) -> str:
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if self._is_on and text else text


def safe(text: str) -> str:
    r"""`text` with what would act on a terminal as \uXXXX, which inside of JSON means the same."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def shown_on(out: TextIO, text: str) -> str:
    """`text` as it will come out: with what its encoding lacks already escaped."""
    encoding = out.encoding or "utf-8"
    return text.encode(encoding, out.errors or "backslashreplace").decode(encoding)


def width(text: str) -> int:
    """How many cells `text` takes on a terminal (UAX 11)."""
    if text.isascii():
        return len(text)
    return sum(map(_cells, text))


def fit(text: str, cells: int) -> str:
    """`text` in exactly so many cells: cut off, or filled up."""
    taken = width(text)
    if taken <= cells:
        return text + " " * (cells - taken)
    kept, room = [], cells - 1
    for character in text:
        room -= _cells(character)
        if room < 0:
            break
        kept.append(character)
    cut = "".join(kept)
    return cut + "~" * min(cells, 1) + " " * max(0, cells - 1 - width(cut))


def _cells(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) == "Cf":
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
