"""One line on stderr that tells how far a run is."""

import sys
import time


class Progress:
    """Redraws in place on a terminal; elsewhere a line at most every few seconds."""

    def __init__(self, question: str, *, quiet: bool = False) -> None:
        self._question = question
        self._quiet = quiet
        self._is_terminal = sys.stderr.isatty()
        self._begun = self._told = time.monotonic()
        self._step = ""

    def step(self, text: str) -> None:
        """A new part of the run begins."""
        self._step = text
        self._show(text, always=True)

    def detail(self, text: str) -> None:
        """How far the part at hand is."""
        self._show(f"{self._step}: {text}", always=self._is_terminal)

    def _show(self, text: str, *, always: bool) -> None:
        now = time.monotonic()
        if self._quiet or not (always or now - self._told > 5):
            return
        self._told = now
        line = f"[{now - self._begun:6.1f} s] {self._question}: {text}"
        print(f"\r\033[K{line[:110]}" if self._is_terminal else line, file=sys.stderr, flush=True,
              end="" if self._is_terminal else "\n")  # fmt: skip

    def done(self) -> None:
        """Leave the terminal's line clean."""
        if self._is_terminal and not self._quiet:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
