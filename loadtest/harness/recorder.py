"""Runs `kalam-notify` with a profile hook, and tells which of its functions are entered between
two lines of stdin.

    python loadtest/harness/recorder.py serve --config FILE

`begin` on stdin starts a recording and answers `{"event":"begun"}`; `end` ends it and tells
`{"event":"walk","functions":[...],"hops":[...]}` on stdout. A function is `[file, name]`, the file
relative to the package, in the order of entering; a hop is `[from, to]`, two functions of ours in
different files one of which called the other, whatever stood between them that is not ours.

Standard library only, and a file of its own: it may record the package of any checkout (put it
first on PYTHONPATH) and is itself no part of what it counts. The hook is set before any thread
starts and is silent outside recordings; it slows everything down, so nothing is timed with it.
"""

import importlib.util
import json
import os
import sys
import threading
from types import CodeType, FrameType
from typing import Any

Function = tuple[str, str]


class Recorder:
    """The hook, and what it has seen since `begin`."""

    def __init__(self, package: str) -> None:
        self._prefix = package + os.sep
        self._known: dict[CodeType, Function | None] = {}
        self._is_on = False
        self._functions: dict[Function, None] = {}
        self._hops: dict[tuple[Function, Function], None] = {}

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if not self._is_on or event != "call":
            return
        function = self._ours(frame.f_code)
        if function is None:
            return
        self._functions[function] = None
        caller = self._caller(frame)
        if caller is not None and caller[0] != function[0]:
            self._hops[caller, function] = None

    def _caller(self, frame: FrameType) -> Function | None:
        """The nearest function of ours above this frame."""
        above = frame.f_back
        while above is not None:
            if (function := self._ours(above.f_code)) is not None:
                return function
            above = above.f_back
        return None

    def _ours(self, code: CodeType) -> Function | None:
        if code not in self._known:
            self._known[code] = (
                (code.co_filename.removeprefix(self._prefix), code.co_qualname)
                if code.co_filename.startswith(self._prefix)
                else None
            )
        return self._known[code]

    def begin(self) -> dict[str, Any]:
        self._functions, self._hops = {}, {}
        self._is_on = True
        return {"event": "begun"}

    def end(self) -> dict[str, Any]:
        self._is_on = False
        return {"event": "walk", "functions": list(self._functions), "hops": list(self._hops)}


def converse(recorder: Recorder) -> None:
    """Answer stdin's lines until it ends."""
    for line in sys.stdin:
        told = recorder.begin() if line.strip() == "begin" else recorder.end()
        print(json.dumps(told), flush=True)


def main() -> int:
    spec = importlib.util.find_spec("kalam_notify")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    recorder = Recorder(os.path.realpath(spec.submodule_search_locations[0]))
    threading.setprofile(recorder)
    sys.setprofile(recorder)
    from kalam_notify.cli import main as kalam_notify

    threading.Thread(target=converse, args=(recorder,), daemon=True).start()
    return kalam_notify(sys.argv[1:])


if __name__ == "__main__":
    # Its own directory is none of the package's.
    sys.path.pop(0)
    sys.exit(main())
