"""The examples of docs/clients.md do what they say."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.server import Server, delete, insert, update

EXAMPLES = Path(__file__).parents[2] / "examples"

# The page's own script, run by node with as much of a document as it needs, told when to print.
HARNESS = """
const elements = new Map();
globalThis.document = { getElementById: (id) => {
  if (!elements.has(id)) elements.set(id, { value: "", replaceChildren() {} });
  return elements.get(id);
} };
// node 20 leaves out the close event of a connection that never opened; browsers fire it.
globalThis.WebSocket = class extends WebSocket {
  constructor(url) {
    super(url);
    let told = false;
    this.addEventListener("open", () => { told = true; });
    this.addEventListener("close", () => { told = true; });
    this.addEventListener("error", () => setTimeout(() => {
      if (!told) this.onclose({ code: 1006, reason: "" });
    }));
  }
};
%s
const [server, token, sql] = process.argv.slice(2);
const live = new LiveQuery(server, token, sql, (rows) => {
  console.log(JSON.stringify([...rows.values()]));
}, (text) => console.error(text));
"""


def node_with_websocket() -> list[str] | None:
    """A command of a node that has WebSocket, by itself (22) or when asked (20)."""
    node = shutil.which("node")
    for flags in ([], ["--experimental-websocket"]) if node is not None else ():
        command = [str(node), *flags]
        told = subprocess.run(
            [*command, "-p", "typeof WebSocket"], capture_output=True, check=False
        )
        if told.stdout.strip() == b"function":
            return command
    return None


NODE = node_with_websocket()


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


@pytest.mark.skipif(NODE is None, reason="needs a node that has WebSocket")
def test_the_browsers_table_is_exact_through_a_kill(server: Server, tmp_path: Path) -> None:
    assert NODE is not None
    page = (EXAMPLES / "browser/index.html").read_text()
    script = re.search(r"<script>(.*)</script>", page, re.DOTALL)
    assert script is not None
    program = tmp_path / "page.js"
    program.write_text(HARNESS % script[1])
    server.post(insert("app.orders", {"id": 1}), insert("app.orders", {"id": 2}))
    table = Reader(
        [*NODE, str(program), server.ws_url.removesuffix("/v1/ws"), server.token(),
         "SELECT * FROM app.orders"]
    )  # fmt: skip
    table.until(b"\n", [{"id": 1, "_seq": "1"}, {"id": 2, "_seq": "2"}])
    server.post(update("app.orders", {"id": 1, "a": None}))
    table.until(b"\n", [{"id": 1, "a": None, "_seq": "3"}, {"id": 2, "_seq": "2"}])
    server.kill()
    server.start()
    server.post(delete("app.orders", {"id": 2}))
    table.until(b"\n", [{"id": 1, "a": None, "_seq": "3"}])
    table.stop()
