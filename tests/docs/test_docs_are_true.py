"""What the docs list is what the code has: codes, states, keys, metrics, links."""

import re
from enum import Enum
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from helpers.server import running_server

import kalam_notify
from kalam_notify.config import Config
from kalam_notify.config.decode import key_paths
from kalam_notify.protocol import close, session
from kalam_notify.subscriptions import plans

ROOT = Path(__file__).parents[2]
PROTOCOL = (ROOT / "docs/protocol.md").read_text()
OPERATIONS = (ROOT / "docs/operations.md").read_text()
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "loadtest/*.md", "examples/*/*.md", "clients/*/README.md")
    for path in ROOT.glob(pattern)
)

# Where the server names the code of an `error` message.
_ERROR_CODE = re.compile(
    r'(?:SubscriptionRefused\(|_close\(handle,|messages\.error\([^"]*?,|super\(\)\.__init__\()\s*"([A-Z_]+)"'
)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def section(text: str, heading: str) -> str:
    """What stands under a heading, up to the next one."""
    _, found, rest = text.partition(f"\n{heading}\n")
    assert found, heading
    return re.split(r"^#+ ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def first_cells(text: str) -> list[str]:
    """The first column of the tables in a text, headers and rules left out."""
    cells = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    return [cell.strip("`") for cell in cells if cell and not set(cell) <= set("-:")]


def test_every_error_code_that_is_sent_is_described_and_no_other() -> None:
    sent = set()
    for path in (ROOT / "kalam_notify").rglob("*.py"):
        if path.parent.name != "client":
            sent.update(_ERROR_CODE.findall(path.read_text()))
    described = [cell for cell in first_cells(section(PROTOCOL, "### error")) if cell != "code"]
    assert sorted(sent) == sorted(described)


def test_every_close_code_is_described_and_no_other() -> None:
    described = [cell for cell in first_cells(section(PROTOCOL, "### Closing")) if cell != "code"]
    assert [int(code) for code in described] == sorted(close.RECONNECT)


@pytest.mark.parametrize(
    ("heading", "transitions"),
    [("## The connection", session.TRANSITIONS), ("## The subscription", plans.TRANSITIONS)],
)
def test_the_state_diagrams_are_the_state_tables(
    heading: str, transitions: dict[Enum, dict[Enum, Enum]]
) -> None:
    drawn = re.findall(r"^ +(\w+) --> (\w+): ([\w ]+)$", section(PROTOCOL, heading), re.MULTILINE)
    table = [
        (state.value, target.value, event.value)
        for state, row in transitions.items()
        for event, target in row.items()
    ]
    assert sorted(drawn) == sorted(table)


@pytest.mark.parametrize(
    ("heading", "transitions"),
    [("## The connection", session.TRANSITIONS), ("## The subscription", plans.TRANSITIONS)],
)
def test_every_event_of_the_state_tables_is_explained(
    heading: str, transitions: dict[Enum, dict[Enum, Enum]]
) -> None:
    explained = first_cells(section(PROTOCOL, heading))
    assert {event.value for row in transitions.values() for event in row} <= set(explained)


def _leaves(node: object, path: str = "") -> set[str]:
    if not isinstance(node, dict) or not node:
        return {path}
    return set().union(*(_leaves(node[key], f"{path}.{key}".lstrip(".")) for key in node))


def test_every_key_of_the_configuration_is_in_the_example_file() -> None:
    example = yaml.safe_load((ROOT / "config.example.yaml").read_text())
    assert set(key_paths(Config)) == _leaves(example)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_key_that_a_page_names_exists(page: Path) -> None:
    known = set(key_paths(Config))
    sections = {path.split(".")[0] for path in known} - {"log", "ingest"}
    named = re.findall(rf"`((?:{'|'.join(sections)})\.[a-z_.]+)`", page.read_text())
    named += re.findall(r"`(log\.(?:url|durability|retention)[a-z_.]*)`", page.read_text())
    named += re.findall(r"`(ingest\.(?:tables|hooks)[a-z_.]*)`", page.read_text())
    assert [
        name for name in named if not any(f"{key}.".startswith(f"{name}.") for key in known)
    ] == []


def test_every_metric_is_described_and_no_other(tmp_path: Path) -> None:
    settings = {"server": {"workers": 2}, "metrics": {"open": True}}
    with running_server(tmp_path, settings) as server:
        text = server.request("GET", "/metrics").body.decode()
        assert server.stop() == 0
    served = set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE))
    served = {name for name in served if not name.endswith("_created")}
    described = {cell for cell in first_cells(section(OPERATIONS, "## Metrics")) if "_" in cell}
    assert served == described


def slug(heading: str) -> str:
    """The anchor that a heading gets on the usual hosts."""
    plain = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return plain.replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_between_pages_leads_somewhere(page: Path) -> None:
    lost = []
    for link in _LINK.findall(_FENCED.sub("", page.read_text())):
        target, _, anchor = unquote(link).partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        path = page.parent / target if target else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            lost.append(link)
    assert lost == []


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", _FENCED.sub("", path.read_text()), re.MULTILINE)
    return {slug(heading) for heading in headings}


def test_every_page_of_the_docs_is_linked_from_the_readme() -> None:
    links = _LINK.findall((ROOT / "README.md").read_text())
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert pages <= set(links)


def test_the_map_of_the_package_names_every_room() -> None:
    package = ROOT / "kalam_notify"
    rooms = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    rooms |= {path.name for path in package.glob("[!_]*.py")}
    listed = re.findall(r"^    ([a-z_]+(?:/|\.py)) ", kalam_notify.__doc__ or "", re.MULTILINE)
    assert sorted(listed) == sorted(rooms)


def test_the_readme_gives_the_commands_that_ci_runs() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "pip install -e '.[dev]' && .venv/bin/pytest" in readme
    assert "make install && make ci" in readme
    assert "make ci" in (ROOT / ".ci/run").read_text()
