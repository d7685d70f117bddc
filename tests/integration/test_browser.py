"""What a real browser reads: messages compressed in two pieces, and the page of examples/browser.

The server deflates a subscriber's head and a plan's body apart from each other and joins them
(kalam_notify/protocol/deflate.py). Here a browser's own inflater has the word on that.
"""

import json
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.browser import SECONDS, Browser, Site, program
from helpers.server import Server, delete, insert, update
from helpers.views import View

StartServer = Callable[..., Server]
OpenPages = Callable[[Mapping[str, str]], Site]
Message = dict[str, Any]

EXAMPLE = Path(__file__).parents[2] / "examples" / "browser" / "index.html"
TABLE = "app.orders"
LAST = "the last row"
# A browser on a busy machine takes its time to say its first word.
PATIENT = {"auth_timeout": f"{SECONDS}s", "handshake_timeout": f"{SECONDS}s"}
TEXTS = (
    "an open order",
    "line\u2028and paragraph\u2029separators, \r\n, \t and \x85",
    "quotes \" ' ` «», \\ and \\u0041, </script> and <!--",
    "\N{WOMAN}\N{EMOJI MODIFIER FITZPATRICK TYPE-5}\u200d\N{ROCKET} \U0001d54f \U0010ffff",
    "äöü, e\u0301, 漢字, עברית, \ufeff, \ufffd and \uffff",
    "\x00\x01\x1f\x7f",
)

# Each socket authenticates, subscribes, and tells when it is live ("ready") and, when the last
# row has come, what it has heard ("heard").
LISTENERS = """<!doctype html>
<script src="/tell.js"></script>
<script>
const { url, token, last, subscriptions } = %s;
const bytes = (text) => new TextEncoder().encode(text).length;
// One after the other: a browser makes those wait that want to be opened at once.
function listen([subscription, ...others]) {
  const socket = new WebSocket(url);
  const heard = { id: subscription.id, messages: [], changeBytes: 0 };
  const say = (message) => socket.send(JSON.stringify(message));
  socket.onopen = () => {
    heard.extensions = socket.extensions;
    say({ type: "authenticate", method: "jwt", token });
    say({ type: "subscribe", subscription });
    if (others.length) listen(others);
  };
  socket.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    heard.messages.push(message);
    if (message.type === "change") heard.changeBytes += bytes(data);
    if (message.type === "initial_data_batch") {
      if (!message.batch_control.has_more) tell("ready", subscription.id);
      else say({ type: "next_batch", subscription_id: subscription.id });
    }
    if ((message.rows || []).some((row) => row.id === last)) tell("heard", heard);
  };
  socket.onclose = ({ code, reason }) => tell("fault", `closed: ${code} ${reason}`);
}
listen(subscriptions);
</script>
"""

# Fills in the form of the example's page, and tells what the page shows whenever that changes.
VISITOR = """<!doctype html>
<script src="/tell.js"></script>
<body>
<script>
const { url, token } = %s;
const frame = document.createElement("iframe");
frame.onload = () => {
  const page = frame.contentDocument;
  const shown = (selector) => [...page.querySelectorAll(selector)].map(
    (line) => [...line.cells].map((cell) => cell.textContent));
  watch(frame.contentWindow);
  new MutationObserver(() => {
    tell("shown", { state: page.getElementById("state").textContent,
                    table: [...shown("thead tr"), ...shown("tbody tr")] });
  }).observe(page.body, { subtree: true, childList: true, characterData: true });
  page.getElementById("server").value = url;
  page.getElementById("token").value = token;
  page.querySelector("form button").click();
};
frame.src = "/example";
document.body.append(frame);
</script>
"""


@pytest.fixture
def open_pages(tmp_path: Path) -> Iterator[OpenPages]:
    """Serve pages, and open the one at `/` in a browser."""
    browser = program()
    if browser is None:
        missing = "no browser to read with: install Chromium (Debian's package `chromium`)"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    opened: list[Browser | Site] = []

    def open_them(pages: Mapping[str, str]) -> Site:
        site = Site(pages)
        opened.append(site)
        opened.append(Browser(browser, tmp_path / f"browser-{len(opened)}", site.url + "/"))
        return site

    yield open_them
    for one in reversed(opened):
        one.close()


class Story:
    """What is posted to the table, and which row each seq tells of."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.rows: dict[Any, Message] = {}
        self.row_of: dict[int, Message] = {}

    def post(self, *changes: Message) -> None:
        """Post one batch, in which every change is one that subscribers see."""
        first = self.server.post(*changes)["first_seq"]
        for seq, change in enumerate(changes, first):
            if change["change_type"] == "delete":
                self.row_of[seq] = self.rows.pop(change["old_data"]["id"])
            else:
                row = change["row_data"]
                self.row_of[seq] = self.rows[row["id"]] = row

    def insert(self, numbers: range) -> None:
        self.post(*(insert(TABLE, row(number)) for number in numbers))

    def post_a_large_mix(self) -> None:
        """Hundreds of inserts, updates and deletes at once, of more bytes than DEFLATE's window."""
        numbers = range(5000, 5300)
        self.post(
            *(insert(TABLE, row(number)) for number in numbers),
            *(update(TABLE, row(number, 1)) for number in numbers[::2]),
            *(delete(TABLE, row(number)) for number in numbers[::5]),
            *(update(TABLE, row(number, 2)) for number in numbers[1::5]),
        )

    def end(self) -> None:
        self.post(insert(TABLE, {"id": LAST, "text": "", "number": 0}))

    def check(self, heard: Message) -> None:
        """A subscription to the whole table was told this story to its end, to the letter."""
        view, live_from, seqs = View(), 0, []
        greeting, *messages = heard["messages"]
        assert greeting["type"] == "auth_success"
        for message in messages:
            assert message["subscription_id"] == heard["id"]
            view.apply(message)
            for told in _rows_of(message):
                seq = int(told["_seq"])
                assert told == {**self.row_of[seq], "_seq": str(seq)}
                if message["type"] == "change":
                    seqs.append(seq)
            if message["type"] == "initial_data_batch":
                live_from = message["batch_control"]["last_seq_id"]
        assert seqs == [seq for seq in self.row_of if seq > live_from]
        held = {key: {**row, "_seq": None} for key, row in view.rows.items()}
        assert held == {key: {**row, "_seq": None} for key, row in self.rows.items()}


def row(number: int, version: int = 0) -> Message:
    """A row with a text of any length from a few letters to some thousands, all of it odd."""
    text = TEXTS[(number + version) % len(TEXTS)]
    return {
        "id": number,
        "number": number + version,
        "text": f"{text} {number}.{version} " * (number % 29 + 1),
        "noise": noise(number + version, 40) if number % 7 == 0 else None,
    }


def noise(seed: int, length: int) -> str:
    """Text that compresses badly, of all planes of Unicode."""
    dice = random.Random(seed)
    return "".join(
        chr(dice.choice((dice.randrange(0xD800), dice.randrange(0xE000, 0x110000))))
        for _ in range(length)
    )


def listeners(server: Server, subscriptions: Sequence[Message]) -> str:
    """The page of listeners; `subscriptions` as the protocol has them, a socket for each."""
    settings = {"url": server.ws_url, "token": server.token(), "last": LAST}
    return LISTENERS % json.dumps({**settings, "subscriptions": subscriptions})


def _rows_of(message: Message) -> Sequence[Message]:
    return message.get("rows") or message.get("old_values") or ()


def test_a_browser_reads_compressed_snapshots_and_changes_unaltered(
    start_server: StartServer, open_pages: OpenPages
) -> None:
    server = start_server(websocket=PATIENT)
    story = Story(server)
    story.insert(range(400))
    wanted = {
        "id": "b\u00e9 \u2028",
        "sql": f"SELECT * FROM {TABLE}",
        "options": {"batch_size": 25},
    }
    site = open_pages({"/": listeners(server, [wanted])})
    for number in range(10_000, 20_000):
        story.insert(range(number, number + 1))
        if site.has_told("ready"):
            break
    for number in range(1000, 1030):
        story.insert(range(number, number + 1))
        story.post(update(TABLE, row(number, 1)))
    story.post(delete(TABLE, row(1000)), delete(TABLE, row(3)))
    story.post_a_large_mix()
    story.post(
        insert(TABLE, {"id": "large", "text": row(1)["text"] * 2000, "noise": noise(0, 50_000)})
    )
    story.end()
    heard = site.told("heard")
    assert "permessage-deflate" in heard["extensions"]
    story.check(heard)
    assert 0 < server.metric("delivery_bytes_total") < heard["changeBytes"] / 2


def test_browsers_that_ask_the_same_at_once_each_read_their_own_unaltered(
    start_server: StartServer, open_pages: OpenPages
) -> None:
    server = start_server(websocket=PATIENT)
    story = Story(server)
    story.insert(range(30))
    alike = {"sql": f"SELECT * FROM {TABLE} WHERE text IS NOT NULL", "options": {}}
    mixed = {"sql": f"SELECT * FROM {TABLE}", "options": {}}
    names = ["table"] * 5 + [f"{'ü' * n}{n}" for n in range(7)]
    subscriptions = [{"id": "table", **alike}] * 9 + [{"id": name, **mixed} for name in names]
    site = open_pages({"/": listeners(server, subscriptions)})
    for _ in subscriptions:
        site.told("ready")
    # Everybody is live: from here on a change goes to all sockets of a query at once.
    for number in range(1000, 1030):
        story.insert(range(number, number + 1))
    story.post(update(TABLE, row(1001, 1)), delete(TABLE, row(1002)))
    story.post_a_large_mix()
    story.end()
    everything = [site.told("heard") for _ in subscriptions]
    assert sorted(heard["id"] for heard in everything) == sorted(["table"] * 9 + names)
    for heard in everything:
        assert "permessage-deflate" in heard["extensions"]
        story.check(heard)
    delivered = server.metric("delivery_bytes_total")
    assert 0 < delivered < sum(heard["changeBytes"] for heard in everything) / 2


def test_the_example_page_shows_a_table_as_it_changes(
    start_server: StartServer, open_pages: OpenPages
) -> None:
    server = start_server(websocket=PATIENT)
    long = TEXTS[3] * 100
    server.post(
        insert(TABLE, {"id": 1, "status": "open"}), insert(TABLE, {"id": 2, "status": TEXTS[2]})
    )
    settings = {"url": server.url, "token": server.token()}
    site = open_pages({"/": VISITOR % json.dumps(settings), "/example": EXAMPLE.read_text()})
    wait_until_shown(site, [["id", "status"], ["1", "open"], ["2", TEXTS[2]]])
    server.post(update(TABLE, {"id": 1, "status": long}), insert(TABLE, {"id": 3, "status": None}))
    wait_until_shown(site, [["id", "status"], ["1", long], ["2", TEXTS[2]], ["3", "null"]])
    server.post(delete(TABLE, {"id": 2}))
    wait_until_shown(site, [["id", "status"], ["1", long], ["3", "null"]])


MANY = """<!doctype html>
<script src="/tell.js"></script>
<table><tbody id="body"></tbody></table>
<script type="module">
const { url, token } = %s;
const { connect } = await import(`${url}/client.js`);
const started = performance.now();
const live = connect(url, { token }).live("SELECT * FROM app.orders", [], { batchSize: 5000 });
const body = document.getElementById("body");
live.subscribe((rows, { status }) => {
  if (status !== "live") return;
  body.innerHTML = rows.map((row) => `<tr><td>${row.id}<td>${row.status}<td>${row.total}`).join("");
  void body.offsetHeight; // laid out, too
  tell("shown", { rows: body.rows.length, last: body.lastElementChild.textContent,
                  milliseconds: performance.now() - started });
});
</script>
"""


def test_twenty_thousand_rows_reach_the_screen(
    start_server: StartServer, open_pages: OpenPages
) -> None:
    server = start_server(websocket=PATIENT)
    for start in range(0, 20_000, 2000):
        server.post(
            *(
                insert(TABLE, {"id": n, "status": "open", "total": n / 4})
                for n in range(start, start + 2000)
            )
        )
    site = open_pages({"/": MANY % json.dumps({"url": server.url, "token": server.token()})})
    shown = site.told("shown")
    print(f"{shown['milliseconds']:.0f} ms from connect() to the laid-out table")
    assert (shown["rows"], shown["last"]) == (20_000, "19999open4999.75")


def wait_until_shown(site: Site, table: list[list[str]]) -> None:
    """Wait until the page shows that it is live, and `table`: its head and its lines."""
    shown = None
    while shown != {"state": "live", "table": table}:
        shown = site.told("shown")
        assert shown["state"] in ("not connected", "loading", "live")
