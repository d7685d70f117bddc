"""Both clients against the real daemon, through cuts, kills and restarts: views end up exact.

A proxy cuts the connections after a random number of bytes and all at once; the daemon is killed
and started again, now and then without its data; rows are written meanwhile, and a small log is
trimmed so that some resumes come too late. Now and then everything rests, a marker is written, and
what the client shows when it has seen the marker must be the server's snapshot, to the last `_seq`.

`KALAM_CUTS=1000` makes the run as long as that, `KALAM_SEED=7` plays one again.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, Queue
from typing import Any
from urllib.parse import urlsplit

import pytest
from helpers.browser import Browser, Site, program
from helpers.proxy import CuttingProxy
from helpers.server import Server, delete, insert, update
from websockets.sync.client import connect

from kalam_notify.http.static_files import STATIC

JS = Path(__file__).parents[2] / "clients" / "js"
CUTS = int(os.environ.get("KALAM_CUTS", "30"))
SEED = int(os.environ.get("KALAM_SEED", random.randrange(1_000_000)))
SECONDS = 60.0
TABLE = "app.orders"
QUERIES: list[tuple[str, list[Any]]] = [
    (f"SELECT * FROM {TABLE}", []),
    (f"SELECT id, number FROM {TABLE} WHERE status = $1 OR id = $2", ["open", "marker"]),
    (f"SELECT * FROM {TABLE} WHERE number > $1 OR id = 'marker'", [50]),
]
# A small log: what is written while the client is away is sometimes trimmed before it is back.
SETTINGS = {
    "log": {"durability": "os", "retention": {"max_age": "1h", "max_bytes": "256KiB"}},
    "auth": {"anonymous": True},
    "websocket": {"batch_grace": "100ms"},
}

Report = tuple[int, list[list[dict[str, Any]]]]
Start = Callable[[dict[str, Any]], Callable[[], Report]]


class Process:
    """A client in a process of its own, which reports in lines."""

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._lines: Queue[str] = Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)

    def report(self) -> Report:
        try:
            number, views = json.loads(self._lines.get(timeout=SECONDS))
        except Empty:
            raise AssertionError(f"no report; exit code {self._process.poll()}") from None
        return number, views

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


@pytest.fixture
def opened() -> Iterator[list[Any]]:
    """What is to be closed at the end, last first."""
    things: list[Any] = []
    yield things
    for thing in reversed(things):
        thing.close()


def python_client(opened: list[Any], directory: Path) -> Start:
    def start(settings: dict[str, Any]) -> Callable[[], Report]:
        driver = Path(__file__).parent / "driver.py"
        opened.append(Process(sys.executable, str(driver), json.dumps(settings)))
        return opened[-1].report  # type: ignore[no-any-return]

    return start


def python_views(opened: list[Any], directory: Path) -> Start:
    start = python_client(opened, directory)
    return lambda settings: start({**settings, "views": True})


def node_client(opened: list[Any], directory: Path) -> Start:
    node = shutil.which("node")
    if node is None or not (JS / "node_modules" / "ws").exists():
        missing(f"install Node, and run `npm ci` in {JS}")

    def start(settings: dict[str, Any]) -> Callable[[], Report]:
        settings = {**settings, "module": (STATIC / "client.js").as_uri()}
        opened.append(Process(str(node), str(JS / "tests/driver.mjs"), json.dumps(settings)))
        return opened[-1].report  # type: ignore[no-any-return]

    return start


PAGE = """<!doctype html><script src="/tell.js"></script><script type="module">
import { watch } from "/watch.js";
import { connect } from %s;
watch(connect, %s, (report) => tell("report", report));
</script>"""


def browser_client(opened: list[Any], directory: Path) -> Start:
    found = program()
    if found is None:
        missing("install Chromium (Debian's package `chromium`)")

    def start(settings: dict[str, Any]) -> Callable[[], Report]:
        module = settings.pop("client")
        page = PAGE % (json.dumps(module), json.dumps(settings))
        watcher = (JS / "tests/watch.mjs").read_text()
        site = Site({"/": page, "/watch.js": watcher})
        opened.append(site)
        opened.append(Browser(str(found), directory / "browser", site.url + "/"))
        return lambda: site.told("report")  # type: ignore[no-any-return]

    return start


def missing(cure: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(cure)
    pytest.skip(cure)


class Storm:
    """Writes, cuts and kills, with a seed."""

    def __init__(self, server: Server, proxy: CuttingProxy, dice: random.Random) -> None:
        self.server, self.proxy, self.dice = server, proxy, dice
        self.kills = 0
        self.lives = 1

    @property
    def events(self) -> int:
        return self.proxy.cuts + self.kills

    def write(self) -> None:
        dice = self.dice
        changes = []
        for _ in range(dice.randint(1, 30)):
            row = {"id": dice.randrange(300)}
            if dice.random() < 0.25:
                changes.append(delete(TABLE, row))
                continue
            row |= {"number": dice.randrange(100), "text": "é\u2028" * dice.randrange(60)}
            row |= {"status": dice.choice(["open", "paid", None])}
            changes.append(dice.choice([insert, update])(TABLE, row))
        self.server.post(*changes)

    def step(self) -> None:
        for _ in range(self.dice.randrange(4)):
            self.write()
        luck = self.dice.random()
        if luck < 0.04:
            self.kill(keep_data=luck >= 0.01)
        elif luck < 0.5:
            self.proxy.cut()

    def kill(self, *, keep_data: bool) -> None:
        """Without its data the log begins another life, which no position of a client is of."""
        self.server.kill()
        if not keep_data:
            shutil.rmtree(self.server.directory / "data")
            self.lives += 1
        self.server.start()
        self.kills += 1


def snapshot(server: Server, sql: str, params: list[Any]) -> list[dict[str, Any]]:
    """What the server answers to somebody who asks now."""
    rows: list[dict[str, Any]] = []
    with connect(server.ws_url) as socket:
        asked = {"id": "now", "sql": sql, "params": params, "options": {"batch_size": 10_000}}
        socket.send(json.dumps({"type": "subscribe", "subscription": asked}))
        while True:
            message = json.loads(socket.recv(SECONDS))
            if message["type"] == "initial_data_batch":
                rows += message["rows"]
                if not message["batch_control"]["has_more"]:
                    return rows


def in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: int(row["_seq"]))


@pytest.mark.parametrize("client", [python_client, python_views, node_client, browser_client])
def test_what_a_client_shows_is_the_servers_snapshot(
    client: Callable[[list[Any], Path], Start], tmp_path: Path, opened: list[Any]
) -> None:
    through_cuts(client, tmp_path, opened)


@pytest.mark.long
@pytest.mark.parametrize("client", [node_client, browser_client])
def test_so_it_is_where_no_websocket_gets_through(
    client: Callable[[list[Any], Path], Start], tmp_path: Path, opened: list[Any]
) -> None:
    proxy = through_cuts(client, tmp_path, opened, refuses_upgrades=True)
    assert proxy.refused > 0


def through_cuts(
    client: Callable[[list[Any], Path], Start],
    tmp_path: Path,
    opened: list[Any],
    *,
    refuses_upgrades: bool = False,
) -> CuttingProxy:
    print(f"seed {SEED}")
    dice = random.Random(SEED)
    start = client(opened, tmp_path)
    server = Server(tmp_path, SETTINGS)
    opened.append(server)
    server.start()
    address = urlsplit(server.url)
    # From the handshake alone to some pages and many changes.
    allowances = random.Random(SEED)
    resting = threading.Event()
    proxy = CuttingProxy(
        (str(address.hostname), int(address.port or 0)),
        lambda: None if resting.is_set() else int(10 ** allowances.uniform(1.5, 5.5)),
        refuses_upgrades=refuses_upgrades,
    )
    opened.append(proxy)
    storm = Storm(server, proxy, dice)
    for _ in range(20):
        storm.write()
    settings = {"url": f"http://127.0.0.1:{proxy.port}", "queries": QUERIES}
    if refuses_upgrades:
        settings["fallback"] = True
    if client is browser_client:
        settings["client"] = f"{server.url}/client.js"
    report = start(
        {**settings, "token": None} if client in (python_client, python_views) else settings
    )
    number = 0
    while number == 0 or storm.events < CUTS:
        number += 1
        before = storm.events
        if number == 2:
            storm.kill(keep_data=False)
        while number > 1 and storm.events < before + 10:
            storm.step()
        resting.set()
        # Once more, for those that a cut awaits that was decided before.
        proxy.cut()
        server.post(insert(TABLE, {"id": "marker", "number": number, "status": "open"}))
        told, views = report()
        assert told == number
        for query, view in zip(QUERIES, views, strict=True):
            assert in_order(view) == snapshot(server, *query), query
        resting.clear()
    print(
        f"{storm.events} events, {storm.kills} of them kills, {storm.lives} lives of the data, "
        f"{number} snapshots compared"
    )
    return proxy
