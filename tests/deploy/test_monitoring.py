"""Alert rules and dashboard ask for what the server tells, and the docs explain them all."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster.nats_kit import NatsServer
from helpers.server import running_server

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/prometheus/kalam-notify.rules.yml"
RULE_TESTS = ROOT / "deploy/prometheus/kalam-notify.test.yml"
DASHBOARD = ROOT / "deploy/grafana/kalam-notify.json"
OPERATIONS = (ROOT / "docs/operations.md").read_text()

_METRIC = re.compile(r"\b(?:kalam_notify|process)_[a-z_]+")


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def queries(node: object) -> Iterator[str]:
    """Every PromQL text of a dashboard, wherever it stands."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("expr", "query", "definition") and isinstance(value, str):
                yield value
            yield from queries(value)
    elif isinstance(node, list):
        for value in node:
            yield from queries(value)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the samples that a server with two workers can tell, alone or as a node."""
    nats_server = NatsServer(tmp_path_factory.mktemp("nats")).start()
    stream = f"{nats_server.url}/KALAM"
    text = ""
    try:
        for url in ("sqlite:", stream):
            settings = {
                "server": {"workers": 2},
                "metrics": {"open": True},
                "log": {"url": url, "nats": {"replicas": 1}},
            }
            with running_server(tmp_path_factory.mktemp("told"), settings) as server:
                text += server.request("GET", "/metrics").body.decode()
    finally:
        nats_server.close()
    names = set()
    for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE):
        endings = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        names |= {name + ending for ending in endings}
    return names


def test_every_metric_of_the_rules_exists(told: set[str]) -> None:
    asked = {name for rule in alerts() for name in _METRIC.findall(rule["expr"])}
    assert asked
    assert asked - told == set()


def test_every_metric_of_the_dashboard_exists(told: set[str]) -> None:
    asked = {
        name
        for query in queries(json.loads(DASHBOARD.read_text()))
        for name in _METRIC.findall(query)
    }
    assert asked
    assert asked - told == set()


def test_the_dashboard_shows_every_metric(told: set[str]) -> None:
    shown = DASHBOARD.read_text()
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in told}
    # What the youngest process' start tells, and what nobody looks at.
    left_out = {"kalam_notify_worker_restarts_total", "process_virtual_memory_bytes"}
    hidden = {name for name in families if name not in shown and not name.endswith("_created")}
    assert hidden == left_out


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24
        assert not taken & cells, panel["title"]
        taken |= cells


def test_every_alert_is_explained_and_no_other() -> None:
    _, _, rest = OPERATIONS.partition("\n### Alerts\n")
    explained = re.findall(r"^\| `(KalamNotify\w+)` \|", rest, re.MULTILINE)
    assert sorted(explained) == sorted(rule["alert"] for rule in alerts())


def test_every_alert_is_tested_where_it_fires_and_where_it_does_not() -> None:
    tested = [
        (one["alertname"], bool(one["exp_alerts"]))
        for case in yaml.safe_load(RULE_TESTS.read_text())["tests"]
        for one in case["alert_rule_test"]
    ]
    names = [rule["alert"] for rule in alerts()]
    assert sorted(tested) == sorted((name, fires) for name in names for fires in (True, False))


@pytest.mark.parametrize(
    "arguments", [["check", "rules", RULES.name], ["test", "rules", RULE_TESTS.name]], ids=" ".join
)
def test_promtool_agrees(arguments: list[str]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    done = subprocess.run(
        [promtool, *arguments],
        cwd=RULES.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
