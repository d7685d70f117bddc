"""Fuzz targets, each in a process of its own: `python tests/fuzz/run.py [TARGET ...]`.

    --seconds N   how long each is fuzzed (FUZZ_SECONDS, else 30)
    --runs N      ... or how many inputs each is given
    --jobs N      how many at a time (FUZZ_JOBS, else the cores)
    --keep DIR    what covers something new is kept there, in a directory for each target

Each begins with its seeds (tests/fuzz/seeds) and its words (tests/fuzz/words). What makes one fail
is written to tests/fuzz/found, told as a command that does it again, and ends the run with 1. Put
it among the seeds with the fix: the suite gives every seed to its target.
"""

import argparse
import ctypes
import os
import re
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FOUND = HERE / "found"
# Short where the parser is slow: a configuration is read by PyYAML, character by character.
MAX_LEN = {
    "messages": 2048,
    "sql": 1024,
    "changes": 4096,
    "foreign": 4096,
    "configuration": 512,
    "http": 4096,
    "wal": 2048,
}
# A single input that takes longer is a defect: it would stall everybody.
INPUT_SECONDS = 10
_DEATH_SIGNAL = 1  # prctl's PR_SET_PDEATHSIG


def fuzz(name: str, arguments: list[str]) -> None:
    """In the process of one target: never returns, and ends with the process that started it."""
    import atheris

    ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)

    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    with atheris.instrument_imports(include=["kalam_notify"]):
        from fuzz import targets

    atheris.Setup([sys.argv[0], *arguments], targets.target(name))
    atheris.Fuzz()


def libfuzzer(name: str, options: argparse.Namespace, corpus: Path) -> list[str]:
    """The arguments of libFuzzer."""
    FOUND.mkdir(exist_ok=True)
    bound = f"-runs={options.runs}" if options.runs else f"-max_total_time={options.seconds}"
    return [
        bound,
        f"-seed={options.seed}",
        f"-timeout={INPUT_SECONDS}",
        f"-max_len={MAX_LEN[name]}",
        f"-dict={HERE / 'words' / f'{name}.dict'}",
        f"-artifact_prefix={FOUND}/{name}-",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
        "-verbosity=1",
        str(corpus),
        str(HERE / "seeds" / name),
    ]


def run(name: str, options: argparse.Namespace) -> bool:
    """Fuzz one target; whether nothing was found."""
    with tempfile.TemporaryDirectory(prefix=f"kalam-fuzz-{name}-") as scratch:
        corpus = options.keep / name if options.keep else Path(scratch)
        corpus.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, __file__, "--child", name, *libfuzzer(name, options, corpus)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    units = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    seed = re.search(r"INFO: Seed: (\d+)", done.stderr)
    parsed = f"{units[1] if units else '?'} inputs, seed {seed[1] if seed else '?'}"
    print(f"{name}: {'nothing found' if not done.returncode else 'FAILED'} in {parsed}", flush=True)
    if done.returncode:
        print(done.stdout[-4000:], done.stderr[-6000:], sep="\n")
        for file in sorted(FOUND.glob(f"{name}-*")):
            print(f"again: python tests/fuzz/run.py --child {name} {file.relative_to(ROOT)}")
    return done.returncode == 0


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        fuzz(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__)
    # No default here: argparse would hold the whole list against the choices.
    parser.add_argument("targets", nargs="*", choices=[*MAX_LEN, []])
    parser.add_argument("--seconds", type=int, default=int(os.environ.get("FUZZ_SECONDS", "30")))
    parser.add_argument("--runs", type=int, default=0)
    # 0: another one each time.
    parser.add_argument("--seed", type=int, default=int(os.environ.get("FUZZ_SEED", "0")))
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--jobs", type=int, default=int(os.environ.get("FUZZ_JOBS", cores)))
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    with ThreadPoolExecutor(options.jobs) as pool:
        outcomes = list(pool.map(lambda name: run(name, options), options.targets or MAX_LEN))
    return 0 if all(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
