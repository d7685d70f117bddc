"""Completion, near matches, a first configuration, and a call without a verb."""

import json
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from cli.conftest import run_in

from kalam_notify.cli import build_parser
from kalam_notify.cli.completion import verbs_of
from kalam_notify.config import load_config, warnings
from kalam_notify.version import __version__

VERBS = [verb.name for verb in verbs_of(build_parser())]
SECONDS = 60


def test_a_call_without_a_verb_shows_help(run) -> None:
    done = run()
    assert (done.returncode, done.stdout) == (2, "")
    assert "examples:" in done.stderr
    for verb in VERBS:
        assert f"\n    {verb}" in done.stderr


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["srve"], "did you mean serve?"),
        (["chek-config"], "did you mean check-config?"),
        (["tail", "x", "--tabel"], "did you mean --table?"),
        (["tail", "x", "--snapshto", "--json"], "did you mean --snapshot?"),
        (["serve", "--worker-count", "1"], "did you mean --workers?"),
        (["publish", "--fromat=csv"], "did you mean --format?"),
        (["token", "--user", "a", "--role", "servcie"], "did you mean service?"),
        (["config", "inti"], "did you mean init?"),
        (["completion", "bsh"], "did you mean bash?"),
    ],
)
def test_what_is_mistyped_is_answered_with_what_is_near(run, args, told) -> None:
    done = run(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.strip().endswith(told)


def test_what_is_like_nothing_gets_no_advice(run) -> None:
    for args in (["zzz"], ["tail", "x", "--zzz"], ["tail", "x", "y"]):
        done = run(*args)
        assert done.returncode == 2
        assert "did you mean" not in done.stderr


def test_a_mistyped_option_does_not_show_its_secret(run) -> None:
    done = run("tail", "x", "--tokn=hunter2")
    assert "did you mean --token?" in done.stderr
    assert "hunter2" not in done.stderr


def test_the_version_verb_tells_what_the_flag_tells_and_more_as_json(run) -> None:
    assert run("version").stdout == run("--version").stdout
    told = json.loads(run("version", "--json").stdout)
    assert told["kalam_notify"] == __version__
    assert set(told) == {"kalam_notify", "python", "sqlite", "websockets", "platform"}


class TestConfigInit:
    def test_it_writes_a_file_that_the_server_takes_with_a_secret_of_its_own(
        self, run, tmp_path: Path
    ) -> None:
        for name in ("config.yaml", "other.yaml"):
            done = run("config", "init", *([] if name == "config.yaml" else [name]))
            assert (done.returncode, done.stderr) == (0, "")
            assert f"kalam-notify serve --config {name}" in done.stdout
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
            checked = run("check-config", name)
            assert (checked.returncode, checked.stderr) == (0, "")
        one, other = (load_config(tmp_path / name) for name in ("config.yaml", "other.yaml"))
        assert one.auth.jwt.secrets != other.auth.jwt.secrets
        assert re.fullmatch("[0-9a-f]{64}", one.auth.jwt.secrets[0])
        assert warnings(one) == []
        signed = run("token", "--config", "config.yaml", "--user", "alice")
        assert (signed.returncode, signed.stderr) == (0, "")

    def test_it_writes_over_nothing(self, run, tmp_path: Path) -> None:
        file = tmp_path / "config.yaml"
        file.write_text("mine")
        (tmp_path / "link.yaml").symlink_to(tmp_path / "absent")
        for name in ("config.yaml", "link.yaml"):
            done = run("config", "init", name)
            assert (done.returncode, done.stdout) == (2, "")
            assert "is there already: nothing was written" in done.stderr
        assert file.read_text() == "mine"
        assert not (tmp_path / "absent").exists()

    def test_a_place_that_cannot_be_written_to_is_told(self, run) -> None:
        done = run("config", "init", "nowhere/config.yaml")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (
            "nowhere/config.yaml: No such file or directory: nothing was written\n"
        )


def shell(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} here")
    return found


@pytest.fixture(scope="module")
def scripted(script: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the three scripts and one file, which tests only read."""
    directory = tmp_path_factory.mktemp("scripted")
    for name in ("bash", "fish", "zsh"):
        done = run_in(directory, [str(script), "completion", name])
        assert (done.returncode, done.stderr) == (0, "")
        (directory / name).write_text(done.stdout)
    (directory / "config.yaml").touch()
    return directory


@pytest.mark.parametrize("name", ["bash", "fish", "zsh"])
def test_a_shell_reads_its_script(scripted: Path, name: str) -> None:
    checked = subprocess.run(
        [shell(name), "-n", name], cwd=scripted, capture_output=True, text=True, timeout=SECONDS
    )
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize("name", ["bash", "fish", "zsh"])
def test_every_verb_and_option_is_in_every_script(scripted: Path, name: str) -> None:
    text = (scripted / name).read_text()
    for verb in verbs_of(build_parser()):
        assert verb.name in text
        for option in verb.options:
            for spelling in option.names:
                assert (spelling if name != "fish" else spelling.lstrip("-")) in text


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["ta"], {"tables", "tail"}),
        (["con"], {"config", "connections"}),
        (["--ver"], {"--version"}),
        (["tail", "--ta"], {"--table"}),
        (["tail", "x", "--columns", "a", "--js"], {"--json"}),
        (["token", "--role", "s"], {"service", "system"}),
        (["config", "in"], {"init"}),
        (["completion", ""], {"bash", "fish", "zsh", "-h", "--help"}),
        (["check-config", "conf"], {"config.yaml"}),
        (["serve", "--config", "conf"], {"config.yaml"}),
        (["tail", "--token", ""], set()),
    ],
)
def test_bash_completes(scripted: Path, line: list[str], expected: set[str]) -> None:
    words = " ".join(f"'{word}'" for word in ["kalam-notify", *line])
    asked = (
        f"source ./bash; COMP_WORDS=({words}); COMP_CWORD={len(line)}; _kalam_notify; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        [shell("bash"), "--norc", "-c", asked],
        cwd=scripted,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.stderr == ""
    assert set(done.stdout.split()) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ta", {"tail"}),
        ("tail --ta", {"--table"}),
        ("token --role s", {"service", "system"}),
        ("config in", {"init"}),
        ("check-config conf", {"config.yaml"}),
    ],
)
def test_fish_completes(scripted: Path, tmp_path: Path, line: str, expected: set[str]) -> None:
    asked = f"source ./fish; complete -C 'kalam-notify {line}'"
    done = subprocess.run(
        [shell("fish"), "--no-config", "-c", asked],
        cwd=scripted,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert {word.split("\t")[0] for word in done.stdout.splitlines()} == expected, done.stderr
