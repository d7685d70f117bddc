"""Every question once at small size: everything that is posted arrives. No threshold on time."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.harness.native import compiler
from loadtest.questions import QUESTIONS

ROOT = Path(__file__).resolve().parents[2]


def load_test(question: str, results: Path, *extra: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loadtest", question, "--small", "--quiet", *extra]
    return subprocess.run(
        [*command, "--results", str(results)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,  # a guard against hanging
        check=False,
    )


@pytest.mark.long
@pytest.mark.parametrize("question", QUESTIONS)
def test_everything_posted_arrives(question: str, tmp_path: Path) -> None:
    if question == "compression" and compiler() is None:
        pytest.skip("compression is measured with the C client only")
    done = load_test(question, tmp_path)
    if question == "fairness" and "FAULT" in done.stdout:
        # It loads the server on purpose: rows that come later than a phase waits for are told as
        # a fault of the next one. On a machine that is busy otherwise it is asked once more.
        done = load_test(question, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / f"{question}.json").read_text())
    assert told["question"] == question
    assert told["machine"]["cores"] >= 1
    # Memory is the difference of two readings, at this size smaller than their noise: any sign.
    assert told["measurements"]
    assert all(math.isfinite(m["value"]) for m in told["measurements"])
    assert all(m["verdict"] == "" for m in told["measurements"])
    assert QUESTIONS[question].title in done.stdout
    assert "FAULT" not in done.stdout


def test_several_runs_are_told_as_medians(tmp_path: Path) -> None:
    done = load_test("memory", tmp_path, "--repeat", "2", "--subscribers", "20")
    assert done.returncode == 0, done.stdout + done.stderr
    measurements = json.loads((tmp_path / "memory.json").read_text())["measurements"]
    # With one subscription and with several.
    assert len(measurements) == 2
    for measurement in measurements:
        low, high = measurement["spread"]
        assert low <= measurement["value"] <= high
        assert len(measurement["details"]["runs"]) == 2


def test_without_a_compiler_the_client_in_python_serves(tmp_path: Path) -> None:
    done = load_test("fanout", tmp_path, "--python-client", "--subscribers", "5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "client in Python" in done.stdout


@pytest.mark.parametrize("question", ["fanout", "burst"])
@pytest.mark.skipif(compiler() is None, reason="others are measured with the C client only")
def test_others_are_measured_beside_or_told_to_be_absent(question: str, tmp_path: Path) -> None:
    done = load_test(question, tmp_path, "--beside", "nchan,nats,websockets")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / f"{question}.json").read_text())
    measured = {m["case"].partition(",")[0] for m in told["measurements"]}
    absent = {note.partition(" ")[0] for note in told["notes"] if "was left out" in note}
    assert "websockets" in measured
    for name in ("nchan", "nats"):
        assert (name in measured) != (name in absent)


def test_a_question_that_starts_its_own_servers_refuses_a_running_one(tmp_path: Path) -> None:
    done = load_test("filters", tmp_path, "--url", "http://127.0.0.1:1")
    assert done.returncode == 2
    assert "--url" in done.stderr
