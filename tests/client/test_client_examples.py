"""The examples of docs/clients.md do what they say."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from helpers.server import Server, delete, insert

EXAMPLES = Path(__file__).parents[2] / "examples"


class Reader:
    """A process whose lines of output are waited for."""

    def __init__(self, command: list[str], **environment: str) -> None:
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **environment},
        )

    def until(self, end: bytes, expected: object) -> None:
        assert self.process.stdout is not None
        told = b""
        while byte := self.process.stdout.read(1):
            told += byte
            if byte == end:
                if json_or_text(told) == expected:
                    return
                told = b""
        raise AssertionError(f"it ended without telling {expected!r}")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=60)


def json_or_text(told: bytes) -> object:
    text = re.sub(r"\x1b\[K|\r", "", told.decode()).strip()
    return json.loads(text) if text.startswith("[") else text


def test_the_dashboard_counts_live(server: Server) -> None:
    server.post(insert("app.orders", {"id": 1, "status": "open"}))
    dashboard = Reader(
        [sys.executable, str(EXAMPLES / "python/dashboard.py"), server.url],
        KALAM_NOTIFY_TOKEN=server.token(),
    )
    dashboard.until(b"K", "1 orders  open 1")
    server.post(insert("app.orders", {"id": 2, "status": "paid"}))
    dashboard.until(b"K", "2 orders  open 1  paid 1")
    server.post(delete("app.orders", {"id": 1}))
    dashboard.until(b"K", "1 orders  paid 1")
    dashboard.stop()
