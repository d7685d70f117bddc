"""`python -m loadtest QUESTION`: measure, print a table, write JSON and a plot."""

import argparse
import asyncio
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from loadtest.fairness.scenarios import SCENARIOS
from loadtest.filter_kinds import NAMES
from loadtest.harness import plot, report
from loadtest.harness.faults import DeliveryFault, LoadTestFault
from loadtest.harness.leash import hold
from loadtest.harness.options import RESULTS, Options
from loadtest.harness.question import Question
from loadtest.harness.server import MOST_TABLES
from loadtest.harness.stage import Bench
from loadtest.peers.beside import PEERS
from loadtest.questions import QUESTIONS


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m loadtest", description="Measures a kalam-notify server. Loopback only."
    )
    p.add_argument("question", choices=[*QUESTIONS, "all"])
    p.add_argument("--small", action="store_true", help="a few seconds: correctness only")
    p.add_argument("--subscribers", type=_positive, metavar="N")
    p.add_argument(
        "--subscriptions", type=_subscriptions, default=5, metavar="K",
        help="on each connection: one that gets rows, the others on silent tables (default 5)",
    )  # fmt: skip
    p.add_argument("--active", action="store_true", help="all K get rows, each of its own table")
    p.add_argument("--seconds", type=float, metavar="S", help="of measuring, per case")
    p.add_argument("--repeat", type=_positive, default=1, metavar="R", help="runs; medians")
    p.add_argument("--url", help="a server already running, http://HOST:PORT")
    p.add_argument("--token", help="of role service, for that server's producer and subscribers")
    p.add_argument("--pid", type=int, help="of that server, for its CPU and memory")
    p.add_argument("--counts", type=_numbers, help="filters or workers, such as 10,1000")
    p.add_argument("--kinds", type=_names, help=f"of filters, out of {','.join(NAMES)}")
    p.add_argument("--scenarios", type=_scenarios, help=f"out of {','.join(SCENARIOS)}")
    p.add_argument("--scratch", type=Path, help="directory (and so disk) for the server's data")
    p.add_argument("--results", type=Path, default=RESULTS, help="where JSON and plots go")
    p.add_argument("--python-client", action="store_true", help="although there is a compiler")
    p.add_argument("--beside", type=_peers, help=f"servers measured too: {','.join(PEERS)}")
    p.add_argument("--minutes", type=float, default=5, help="of `soak`")
    p.add_argument("--seed", type=int, help="of `soak`, as a run has printed it")
    p.add_argument(
        "--source", type=Path, help="a checkout that `paths` counts, `store` compares with"
    )
    p.add_argument("--verbose", action="store_true", help="`paths` names files and functions")
    p.add_argument("--quiet", action="store_true", help="no progress display")
    return p


def _positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def _subscriptions(text: str) -> int:
    if not 1 <= int(text) <= MOST_TABLES:
        raise argparse.ArgumentTypeError(f"1 to {MOST_TABLES}")
    return int(text)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(_positive(part) for part in text.split(","))


def _names(text: str) -> tuple[str, ...]:
    return _out_of(NAMES, text)


def _scenarios(text: str) -> tuple[str, ...]:
    return _out_of(SCENARIOS, text)


def _peers(text: str) -> tuple[str, ...]:
    return _out_of(PEERS, text)


def _out_of(known: Collection[str], text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - set(known):
        raise argparse.ArgumentTypeError(f"no such: {', '.join(unknown)}")
    return names


async def measure(question: Question, options: Options) -> report.Result:
    """All runs of one question, as medians."""
    bench = Bench(options)
    runs: list[Sequence[report.Measurement]] = []
    for run in range(options.repeat):
        bench.progress.step(f"run {run + 1} of {options.repeat}")
        runs.append(await question.run(bench))
    bench.progress.done()
    return report.result(options, question.title, report.medians(runs), bench.all_notes())


def answer(question: Question, options: Options) -> None:
    result = asyncio.run(measure(question, options))
    print(result.table())
    path = result.write(options.results)
    print(f"written: {path}")
    print(plot.draw(question.draw, result, path.with_suffix(".png")))


def main(arguments: Sequence[str] | None = None) -> int:
    """0: measured and everything arrived; 1: something did not; 2: the run could not be made."""
    options = Options(**vars(parser().parse_args(arguments)))
    names = list(QUESTIONS) if options.question == "all" else [options.question]
    worst = 0
    for name in names:
        try:
            answer(QUESTIONS[name], replace(options, question=name))
        except* DeliveryFault as group:
            worst = max(worst, _complain(name, "NOT DELIVERED", group, 1))
        except* (LoadTestFault, subprocess.CalledProcessError, OSError) as group:
            worst = max(worst, _complain(name, "not measured", group, 2))
    return worst


def _complain(name: str, verdict: str, group: BaseExceptionGroup[BaseException], code: int) -> int:
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    print(f"\n{name}: {verdict}: {first}", file=sys.stderr)
    return code


if __name__ == "__main__":
    # Servers and clients end with it, even when it is killed.
    hold()
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
