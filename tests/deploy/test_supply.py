"""What is installed is what is locked, and the image takes nothing else."""

import fnmatch
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
CI = (ROOT / ".ci/run").read_text()


def locked(name: str) -> dict[str, list[str]]:
    """Package -> versions (more than one where Python versions differ) of a lock file."""
    text = (ROOT / "requirements" / name).read_text()
    found: dict[str, list[str]] = {}
    for package, version in re.findall(r"^([\w.-]+)(?:\[[^]]*\])?==(\S+)", text, re.MULTILINE):
        found.setdefault(canonicalize_name(package), []).append(version)
    return found


def missing(requirements: list[str], lock: str) -> Iterator[str]:
    versions = locked(lock)
    for requirement in map(Requirement, requirements):
        found = versions.get(canonicalize_name(requirement.name), [])
        if not found or not all(map(requirement.specifier.contains, found)):
            yield f"{requirement}: {lock} has {found}: run `make lock`"


def test_the_locks_have_what_the_project_asks_for() -> None:
    needed = PROJECT["dependencies"]
    assert list(missing([*needed, *EXTRAS["postgres"]], "server.lock")) == []
    assert list(missing([*needed, *EXTRAS["dev"]], "dev.lock")) == []
    building = (ROOT / "requirements/build.in").read_text().splitlines()
    assert list(missing([line for line in building if line[0] != "#"], "build.lock")) == []


def test_the_image_runs_what_ci_has_tested() -> None:
    tested = locked("dev.lock")
    for lock in ("server.lock", "build.lock"):
        for package, versions in locked(lock).items():
            assert tested[package] == versions


@pytest.mark.parametrize("lock", ["server.lock", "build.lock", "dev.lock"])
def test_every_line_of_a_lock_has_hashes(lock: str) -> None:
    text = (ROOT / "requirements" / lock).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    assert lines
    assert [line for line in lines if "--hash=sha256:" not in line] == []


@pytest.mark.parametrize("package", ["uvicorn", "websockets"])
def test_what_is_used_inside_out_is_bound_to_the_minor_that_was_tested(package: str) -> None:
    (needed,) = (one for one in map(Requirement, PROJECT["dependencies"]) if one.name == package)
    (version,) = locked("server.lock")[package]
    major, minor, *_ = version.split(".")
    assert not needed.specifier.contains(f"{major}.{int(minor) + 1}.0")


def test_the_client_asks_for_nothing_that_the_server_would_not_have() -> None:
    server = {one.name: one for one in map(Requirement, PROJECT["dependencies"])}
    for needed in map(Requirement, EXTRAS["client"]):
        bounds = {(one.operator, one.version) for one in needed.specifier}
        assert bounds <= {(one.operator, one.version) for one in server[needed.name].specifier}


def test_the_image_runs_as_a_number_that_is_not_root() -> None:
    (user,) = re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


def test_whatever_the_image_installs_is_known_by_its_hash_or_is_this_checkout() -> None:
    for command in re.findall(r"pip (?:install|wheel) [^&\n]*", DOCKERFILE.replace("\\\n", " ")):
        assert "--require-hashes" in command or "--no-deps" in command, command
        if "--no-deps" in command:
            assert "--no-index" in command or "--no-build-isolation" in command


def test_the_build_gets_what_it_copies_and_no_more() -> None:
    copied = [
        source
        for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
        for source in sources.split()
    ]
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    allowed = [line[1:] for line in lines if line.startswith("!")]
    assert sorted(source.removeprefix("./") for source in copied) == sorted(allowed)
    assert all((ROOT / source).exists() for source in copied)


def test_no_secret_can_get_into_a_layer() -> None:
    assert not re.search(r"^ARG\b", DOCKERFILE, re.MULTILINE)
    secret = ("*SECRET*", "*TOKEN*", "*PASSWORD*", "*KEY*")
    set_by_it = re.findall(r"^(?:ENV|\s{4})\s*(\w+)=", DOCKERFILE, re.MULTILINE)
    assert set_by_it
    assert not [name for name in set_by_it if any(fnmatch.fnmatch(name, one) for one in secret)]


def test_ci_runs_the_makefile_and_nothing_beside() -> None:
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    called = set(re.findall(r"\bmake ([a-z-]+)", CI))
    assert "ci" in called
    assert called <= targets
    for tool in ("ruff", "mypy", "pytest"):
        assert not re.search(rf"^\s*(?:python -m )?{tool}\b", CI, re.MULTILINE), tool


def test_every_target_of_the_makefile_is_explained() -> None:
    phony = set(re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)[1].split())  # type: ignore[index]
    assert set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE)) == phony


def test_unit_tests_are_named_by_directories_that_exist() -> None:
    (line,) = re.findall(r"^UNIT = (.+)$", MAKEFILE, re.MULTILINE)
    assert all((ROOT / "tests" / name).is_dir() for name in line.split())


def test_hooks_are_those_of_the_environment() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}
