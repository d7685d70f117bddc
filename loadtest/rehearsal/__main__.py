"""Rehearse the whole way from PostgreSQL to the subscribers' views, and check every row.

    python -m loadtest.rehearsal               two minutes of pgbench, 540 subscribers
    python -m loadtest.rehearsal --seconds 10 --subscribers 60

Starts a private PostgreSQL, a daemon that follows it, and client processes; pgbench writes. The
daemon is killed with SIGKILL in the middle of its first copy and while it streams, PostgreSQL with
all its processes once, and a third of the client processes; each is started again. When pgbench has
stopped, every subscriber's view must equal the same SELECT in PostgreSQL, row for row. Exit code 0
when it does, else 1.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from loadtest.harness.postgres import NoPostgres
from loadtest.rehearsal.processes import SubscriberProcess
from loadtest.rehearsal.stage import Stage
from loadtest.rehearsal.timeline import Timeline, wait_until
from loadtest.rehearsal.verdict import Judge
from loadtest.rehearsal.views import View

# Guards against hanging once everything has been told: until the last snapshot has been read
# and the views have settled. A wrong view never does.
_SETTLE_DEADLINE = 900.0


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    directory = Path(tempfile.mkdtemp(prefix="kalam-rehearsal-"))
    # The database's own user must get through to its part of it.
    directory.chmod(0o711)
    try:
        with Stage(directory, durable=not options.fast) as stage:
            return Rehearsal(stage, options).run()
    except NoPostgres as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        if options.keep:
            print(f"logs and data: {directory}")
        else:
            shutil.rmtree(directory)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=int, default=120, help="of pgbench after the first copy")
    parser.add_argument("--subscribers", type=int, default=540)
    parser.add_argument("--processes", type=int, default=6, help="client processes")
    parser.add_argument("--pgbench-clients", type=int, default=4)
    parser.add_argument("--fast", action="store_true", help="PostgreSQL without fsync")
    parser.add_argument("--keep", action="store_true", help="keep the directory with the logs")
    return parser


class Rehearsal:
    """The acts, in order. Most subscribers are there before the kills, some come later."""

    def __init__(self, stage: Stage, options: argparse.Namespace) -> None:
        self._stage = stage
        self._options = options
        self._timeline = Timeline()
        # Made once the daemon listens somewhere.
        self._clients: list[SubscriberProcess] = []
        self._summaries: list[str] = []

    def run(self) -> int:
        self._copy_under_load()
        options = self._options
        self._clients = self._stage.add_subscribers(options.processes, options.subscribers)
        early, late = self._clients[:-1], self._clients[-1:]
        _start(early)
        for process in early:
            process.await_line("ready")
        self._timeline.tell(f"{_count(early)} subscribers live")
        self._write_and_kill(late)
        end = self._stage.wal_end()
        lag = self._stage.slot_lag(end)
        self._timeline.tell(f"pgbench has stopped, the daemon is {lag:,} B of WAL behind")
        wait_until(lambda: self._stage.slot_lag(end) <= 0, "the daemon to catch up")
        self._timeline.tell("the daemon has caught up")
        return self._judge("\n".join(self._summaries))

    def _copy_under_load(self) -> None:
        """The first copy while others write, and the daemon killed in the middle of it."""
        load = self._stage.start_pgbench(self._options.pgbench_clients, seconds=3600)
        daemon = self._stage.daemon
        daemon.launch()
        wait_until(lambda: "follows public.pgbench_tellers" in daemon.log, "the copy to begin")
        daemon.kill()
        self._timeline.tell(f"daemon killed during its copy: {_last_line(daemon.log)}")
        daemon.start()
        wait_until(lambda: "public.pgbench_accounts copied" in daemon.log, "the end of the copy")
        load.kill()
        load.communicate()
        self._timeline.tell("copy done, the daemon streams")

    def _write_and_kill(self, late: Sequence[SubscriberProcess]) -> None:
        """Two runs of pgbench: the one in between ends with PostgreSQL."""
        seconds, pause = self._options.seconds, self._options.seconds / 5
        first = self._stage.start_pgbench(self._options.pgbench_clients, seconds)
        self._timeline.tell(f"pgbench writes for {seconds} s")
        _start(late)
        self._timeline.tell(f"{_count(late)} more subscribers come meanwhile")
        self._while_pgbench_writes(pause)
        self._kill_daemon()
        self._while_pgbench_writes(pause)
        self._stage.cluster.kill()
        first.communicate()
        self._stage.cluster.start()
        self._stage.connect()
        self._timeline.tell("PostgreSQL killed, started again")
        second = self._stage.start_pgbench(self._options.pgbench_clients, int(3 * pause) + 1)
        self._while_pgbench_writes(pause)
        self._kill_a_third()
        self._while_pgbench_writes(pause)
        self._kill_daemon()
        if second.poll() is not None:
            self._timeline.tell("note: pgbench had ended before the last kill")
        self._summaries.append(second.communicate()[0])

    def _kill_daemon(self) -> None:
        self._stage.daemon.kill()
        self._stage.daemon.start()
        self._timeline.tell("daemon killed, started again")

    def _while_pgbench_writes(self, seconds: float) -> None:
        time.sleep(seconds)
        self._stage.daemon.require_running()

    def _kill_a_third(self) -> None:
        """Neighbours, so that both kinds are among them: with saved views and without."""
        third = self._clients[: max(2, len(self._clients) // 3)]
        for process in third:
            process.kill()
        _start(third)
        for process in third:
            how = "saved views taken up" if process.setup.keep else "starting over"
            self._timeline.tell(f"{_count([process])} subscribers killed, {how}")

    def _all_are_live(self) -> bool:
        return all(
            view.ready or view.faults for process in self._clients for view in process.views()
        )

    def _judge(self, pgbench_summary: str) -> int:
        wait_until(self._all_are_live, "all subscribers to be live", _SETTLE_DEADLINE)
        self._timeline.tell("all subscribers are live")
        told = self._stage.history_as_told()
        judge = Judge(self._stage.database, told)
        views: list[View] = []

        def settled() -> bool:
            views[:] = [view for process in self._clients for view in process.views()]
            return all(view.faults or judge.difference(view) is None for view in views)

        try:
            wait_until(settled, "the views to settle", _SETTLE_DEADLINE)
        except TimeoutError as error:
            print(error)
        self._timeline.tell("the views have been compared")
        faults = [fault for view in views if (fault := judge.difference(view))]
        faults += [fault] if (fault := judge.difference_of_history()) else []
        if self._stage.daemon.end():
            faults.append("the daemon did not end with exit code 0")
        _print_report(views, len(told), judge, pgbench_summary)
        for fault in faults[:20]:
            print(f"WRONG  {fault}")
        print(f"{len(faults)} FAULTS" if faults else "EXACT: every view equals PostgreSQL's answer")
        return 1 if faults else 0


def _last_line(log: str) -> str:
    return log.rstrip().rpartition("\n")[2][-70:]


def _start(processes: Sequence[SubscriberProcess]) -> None:
    for process in processes:
        process.start()


def _count(processes: Sequence[SubscriberProcess]) -> int:
    return sum(len(process.setup.questions) for process in processes)


def _print_report(views: Sequence[View], history: int, judge: Judge, pgbench_summary: str) -> None:
    print()
    for line in pgbench_summary.splitlines():
        if line.startswith(("number of transactions actually", "tps", "latency average")):
            print(f"pgbench: {line}")
    once = "not each" if judge.difference_of_history() else "each"
    print(f"rows of pgbench_history in the daemon's log: {history:,}, {once} exactly once")
    print()
    print(
        f"{'query':34} {'subs':>5} {'rows in views':>14} {'changes':>11} {'enter':>8} "
        f"{'leave':>8} {'resumes':>8} {'exact':>6}"
    )
    kinds: dict[str, list[View]] = defaultdict(list)
    for view in views:
        kinds[view.question.kind].append(view)
    for kind in sorted(kinds):
        print(_line(kind, kinds[kind], judge))
    print(_line("all", views, judge))
    print()


def _line(kind: str, views: Sequence[View], judge: Judge) -> str:
    rows = sum(len(view.rows) + len(view.events) for view in views)
    exact = sum(judge.difference(view) is None for view in views)
    changes, enters, leaves, resumes = (
        sum(getattr(view, name) for view in views)
        for name in ("changes", "enters", "leaves", "resumes")
    )
    return (
        f"{kind:34} {len(views):5} {rows:14,} {changes:11,} {enters:8,} {leaves:8,} "
        f"{resumes:8,} {exact:6}"
    )


if __name__ == "__main__":
    sys.exit(main())
