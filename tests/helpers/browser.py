"""A real browser without a window, a site of pages for it, and what the pages tell the test.

A page includes `/tell.js` and calls `tell(name, value)`; the test waits for it with
`Site.told(name)`. Pages tell one thing after the other, so what a page tells arrives in order.
"""

import contextlib
import http.server
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from queue import Empty, Queue
from typing import Any

SECONDS = 60.0
"""How long a test waits for what a page must tell."""

_PROGRAMS = ("chromium", "google-chrome")
_FLAGS = (
    "--headless=new",
    # Its sandbox needs more rights than a container gives; it sees the tests' own pages only.
    "--no-sandbox",
    "--disable-gpu",
    # A container's /dev/shm is small.
    "--disable-dev-shm-usage",
    # Nothing but what a page asks for: loopback.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--no-default-browser-check",
    "--no-first-run",
    "--no-proxy-server",
)
_TELL = """
"use strict";
let told = Promise.resolve();
function tell(name, value) {
  const body = JSON.stringify([name, value]);
  told = told.then(() => fetch("/tell", { method: "POST", body })).catch(() => {});
}
function watch(page) {
  page.addEventListener("error", (event) => tell("fault", event.message));
  page.addEventListener("unhandledrejection", (event) => tell("fault", String(event.reason)));
}
watch(window);
"""


def program() -> str | None:
    """Where a browser is installed."""
    return next(filter(None, map(shutil.which, _PROGRAMS)), None)


class Browser:
    """One browser process with a profile of its own, and everything it starts."""

    def __init__(self, program: str, directory: Path, url: str) -> None:
        """Open `url`; profile, home and stderr.txt go into `directory`."""
        directory.mkdir()
        # For its sockets, whose paths must be short.
        self._temporary = tempfile.mkdtemp(prefix="kalam-browser-")
        environment = {name: v for name, v in os.environ.items() if not name.startswith("XDG_")}
        environment |= {"HOME": str(directory), "TMPDIR": self._temporary}
        with (directory / "stderr.txt").open("w") as stderr:
            self._process = subprocess.Popen(
                [program, *_FLAGS, f"--user-data-dir={directory / 'profile'}", url],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                env=environment,
                start_new_session=True,
            )

    def close(self) -> None:
        """End it and its children: they are in the process group that it leads."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self._temporary, ignore_errors=True)


class Site:
    """Serves pages on loopback and collects what they tell."""

    def __init__(self, pages: Mapping[str, str]) -> None:
        """`pages`: HTML by path."""
        self.pages = {"/tell.js": _TELL, **pages}
        self._arriving: Queue[tuple[str, Any]] = Queue()
        self._unread: list[tuple[str, Any]] = []
        handler = type("Handler", (_Handler,), {"site": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def take(self, name: str, value: Any) -> None:
        """What a page tells; called by the threads that serve it."""
        self._arriving.put((name, value))

    def told(self, name: str) -> Any:
        """The next value told under `name`; fails on a fault in a page, or when none comes."""
        deadline = time.monotonic() + SECONDS
        while not self.has_told(name):
            try:
                self._read(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                known = f"only {self._names()}; the browser's stderr.txt may say why"
                raise AssertionError(f"no page told {name!r}, {known}") from None
        return self._unread.pop(self._names().index(name))[1]

    def has_told(self, name: str) -> bool:
        """Whether `told` has an answer already; fails on a fault in a page."""
        with contextlib.suppress(Empty):
            while True:
                self._read(timeout=0.0)
        return name in self._names()

    def _read(self, timeout: float) -> None:
        name, value = self._arriving.get(timeout=timeout)
        assert name != "fault", value
        self._unread.append((name, value))

    def _names(self) -> list[str]:
        return [name for name, _ in self._unread]


class _Handler(http.server.BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        page = self.site.pages.get(self.path)
        if page is None:
            self.send_error(404)
            return
        kind = "text/javascript" if self.path.endswith(".js") else "text/html"
        self._answer(200, f"{kind}; charset=utf-8", page.encode())

    def do_POST(self) -> None:
        name, value = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.site.take(name, value)
        self._answer(200, "text/plain", b"")

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass
