"""Containers of deploy/compose and chart of deploy/helm agree with the server that they start."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from kalam_notify.config import load_config
from kalam_notify.version import __version__

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "deploy/compose"
CHART = ROOT / "deploy/helm/kalam-notify"
NODES = ("kalam-1", "kalam-2")
SERVERS = ("nats-1", "nats-2", "nats-3")
SECONDS = 60.0
# Says what a node would start with.
STARTED = """#!{python}
import os, sys
from pathlib import Path
from kalam_notify.config import load_config
config = load_config(Path(sys.argv[3]), os.environ, serving=True)
print(config.log.url, config.auth.jwt.secret, config.server.listen)
"""


def composed() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
    return loaded


def run(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=SECONDS, check=False, **options
    )


def start(script: str, directory: Path, config: Path, **environ: str) -> str:
    """What a node that a container's script starts would go by."""
    program = directory / "kalam-notify"
    program.write_text(STARTED.format(python=sys.executable))
    program.chmod(0o755)
    script = script.replace("/etc/kalam-notify/config.yaml", str(config))
    path = f"{directory}:{os.environ['PATH']}"
    started = run("/bin/sh", "-euc", script, env={"PATH": path, **environ})
    assert (started.returncode, started.stderr) == (0, "")
    return started.stdout


def test_every_file_that_the_containers_are_given_is_there() -> None:
    for service in composed()["services"].values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source in composed()["volumes"] or (COMPOSE / source).is_file(), source


def test_each_container_that_keeps_something_has_a_volume_of_its_own() -> None:
    services = composed()["services"]
    for names in (SERVERS, NODES):
        kept = [one for name in names for one in services[name]["volumes"] if one[0] not in "./"]
        assert [volume.split(":")[0] for volume in kept] == list(names)


def test_the_servers_differ_by_their_names_alone() -> None:
    services = composed()["services"]
    assert [services[name]["environment"]["NATS_NAME"] for name in SERVERS] == list(SERVERS)
    routes = (ROOT / "deploy/nats/nats-server.conf").read_text()
    assert all(f"nats://{name}:6222" in routes for name in SERVERS)


def test_the_nodes_start_with_the_secrets_that_are_made_for_them(tmp_path: Path) -> None:
    made = shutil.copytree(COMPOSE, tmp_path / "compose", ignore=lambda *_: ["secrets"])
    assert run(str(made / "make-secrets")).returncode == 0
    secrets = made / "secrets"
    before = {file.name: file.read_text() for file in secrets.iterdir()}
    assert run(str(made / "make-secrets")).returncode == 0
    assert {file.name: file.read_text() for file in secrets.iterdir()} == before
    assert {Path(one["file"]).name for one in composed()["secrets"].values()} == set(before)
    password = before["nats_password"]
    assert len(password) == len(before["jwt_secret"]) == 64
    assert f'KALAM_PASSWORD: "{password}"' in before["passwords.conf"].splitlines()

    node = composed()["services"][NODES[0]]
    (script,) = node["command"]
    script = script.replace("$$", "$").replace("/run/secrets", str(secrets))
    servers = ",".join(f"kalam:{password}@{name}:4222" for name in SERVERS)
    assert start(script, tmp_path, COMPOSE / "kalam.yaml").split()[:2] == [
        f"nats://{servers}/KALAM",
        before["jwt_secret"],
    ]


def test_the_nodes_trust_the_network_that_the_proxy_is_in() -> None:
    (network,) = composed()["networks"]["clients"]["ipam"]["config"]
    config = load_config(COMPOSE / "kalam.yaml")
    assert config.server.trusted_proxies == (network["subnet"],)
    grace = composed()["services"][NODES[0]]["stop_grace_period"]
    assert int(grace.removesuffix("s")) > config.server.drain_seconds + 5


def test_the_proxy_knows_the_nodes_and_asks_whether_they_are_ready() -> None:
    text = (COMPOSE / "Caddyfile").read_text()
    assert "reverse_proxy " + " ".join(f"{name}:2900" for name in NODES) in text
    assert "health_uri /readyz" in text
    caddy = shutil.which("caddy")
    if caddy is not None:
        file = str(COMPOSE / "Caddyfile")
        checked = run(caddy, "validate", "--adapter", "caddyfile", "--config", file)
        assert checked.returncode == 0, checked.stderr


def values() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    return loaded


def test_the_chart_is_of_this_release() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == __version__


def test_the_charts_schema_knows_every_value_and_no_other() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    # What Helm itself hands to every chart.
    assert set(schema["properties"]) - {"global"} == set(values())
    for name, section in schema["properties"].items():
        if section.get("additionalProperties") is False and name != "config":
            assert set(section["properties"]) == set(values()[name]), name


def test_the_charts_configuration_is_a_valid_one(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(values()["config"]))
    config = load_config(file)
    known = set(type(config).__struct_fields__)
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(schema["properties"]["config"]["properties"]) == known


@pytest.fixture
def helm() -> str:
    found = shutil.which("helm")
    if found is None:
        pytest.skip("no helm here: the chart is not rendered")
    return found


# A helm that was built without its release's number takes itself for one of an old Kubernetes.
KUBERNETES = ("--kube-version", "1.31.0")
EVERYTHING = {
    "replicas": 3,
    "clustered": True,
    "environmentSecret": "kalam-environment",
    "filesSecret": "kalam-files",
    "internal": {"enabled": True, "allowFrom": [{"podSelector": {}}]},
    "ingress": {"enabled": True, "hosts": ["live.example.com"], "tlsSecret": "live-tls"},
    "serviceMonitor": {"enabled": True},
}


def rendered(helm: str, directory: Path, given: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    file = directory / "values.yaml"
    file.write_text(yaml.safe_dump(given))
    done = run(helm, "template", "live", str(CHART), "-f", str(file), *KUBERNETES)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[dict[str, Any]]] = {}
    for one in yaml.safe_load_all(done.stdout):
        found.setdefault(one["kind"], []).append(one)
    return found


def test_helm_finds_no_fault_in_the_chart(helm: str) -> None:
    linted = run(helm, "lint", str(CHART), "--strict", *KUBERNETES)
    assert linted.returncode == 0, linted.stdout


def test_one_node_is_rendered_without_what_only_several_need(helm: str, tmp_path: Path) -> None:
    assert set(rendered(helm, tmp_path, {})) == {
        *("StatefulSet", "ConfigMap", "Service", "ServiceAccount"),
    }


def test_everything_that_can_be_switched_on_is_rendered(helm: str, tmp_path: Path) -> None:
    found = rendered(helm, tmp_path, EVERYTHING)
    assert set(found) == {
        *("StatefulSet", "ConfigMap", "Service", "ServiceAccount", "NetworkPolicy"),
        *("PodDisruptionBudget", "ServiceMonitor", "Ingress"),
    }
    (stateful,) = found["StatefulSet"]
    pod = stateful["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsUser"] == 2900
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    names = {volume["name"] for volume in pod["volumes"]} | {"data"}
    assert {mount["name"] for mount in container["volumeMounts"]} == names


def test_a_pod_starts_with_what_its_secret_holds(helm: str, tmp_path: Path) -> None:
    secrets = tmp_path / "environment"
    secrets.mkdir()
    (secrets / "KALAM_NOTIFY_LOG__URL").write_text("nats://kalam:word@nats:4222/KALAM\n")
    (secrets / "KALAM_NOTIFY_AUTH__JWT__SECRET").write_text("s" * 32)
    found = rendered(helm, tmp_path, EVERYTHING)
    (container,) = found["StatefulSet"][0]["spec"]["template"]["spec"]["containers"]
    (script,) = container["args"]
    script = script.replace("/etc/kalam-notify/environment", str(secrets))
    file = tmp_path / "config.yaml"
    file.write_text(found["ConfigMap"][0]["data"]["config.yaml"])
    environ = {one["name"]: one["value"] for one in container["env"]}
    assert start(script, tmp_path, file, **environ).split() == [
        "nats://kalam:word@nats:4222/KALAM",
        "s" * 32,
        "0.0.0.0:2900",
    ]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"replicas": 2}, "several nodes need one log"),
        ({"terminationGracePeriodSeconds": 15}, "give 16 or more"),
        ({"config": {"server": {"listen": "0.0.0.0:1"}}}, "/config/server"),
        ({"ingress": {"enabled": True}}, "name at least one host"),
        ({"serviceMonitor": {"enabled": True}}, "set internal.enabled"),
        ({"replica": 3}, "replica"),
    ],
)
def test_values_that_contradict_themselves_are_refused(
    helm: str, tmp_path: Path, given: dict[str, Any], told: str
) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(given))
    done = run(helm, "template", "live", str(CHART), "-f", str(file), *KUBERNETES)
    assert done.returncode != 0
    assert told in done.stderr
