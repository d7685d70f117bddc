r"""Feed the rows of PostgreSQL tables into kalam-notify: a copy first, then every change.

    python feeder.py --dsn postgresql://... --url http://127.0.0.1:2900 --api-key KEY \
        --slot kalam --table public.orders --table public.customers

It runs until it is told to end (SIGTERM, SIGINT: exit 0) and may be killed at any moment; the same
command line takes up where it was. `pgfeed/__init__.py` tells how and why nothing is missed or
doubled. Exit codes: 0 asked to end, 1 cannot go on, 2 options or tables that do not fit.
"""

import argparse
import logging
import os
import signal
import sys
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path

import psycopg
from pgfeed import catalog, copying
from pgfeed.faults import FeederFault, SetupFault, Stopping
from pgfeed.outbox import Outbox
from pgfeed.poster import Poster
from pgfeed.session import Session
from pgfeed.state import State, StateDirectory
from pgfeed.streaming import Stream
from pgfeed.truncation import KeyReader

_log = logging.getLogger("feeder")
_LONGEST_RECONNECT_PAUSE = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        if options.print_config:
            print_config(options)
        else:
            feed_through_reconnects(options, stop)
    except Stopping:
        return 0
    except FeederFault as fault:
        print(fault, file=sys.stderr)
        return fault.exit_code
    except psycopg.Error as error:
        print(f"PostgreSQL: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dsn", default="", help="libpq connection string or URL")
    parser.add_argument("--url", default="http://127.0.0.1:2900", help="the daemon")
    parser.add_argument(
        "--api-key", default=os.environ.get("KALAM_NOTIFY_API_KEY", "").strip() or None
    )
    parser.add_argument(
        "--token",
        type=str.strip,
        default=os.environ.get("KALAM_NOTIFY_TOKEN"),
        help="JWT of role service; needed for TRUNCATE, which asks for the keys of the rows",
    )
    parser.add_argument("--slot", default="kalam", help="logical replication slot, made on start")
    parser.add_argument("--table", action="append", required=True, help="schema.table, repeatable")
    parser.add_argument("--state-dir", type=Path, help="default: ./feeder-SLOT")
    parser.add_argument("--numeric", choices=("text", "number"), default="text")
    parser.add_argument("--poll", type=float, default=0.05, help="seconds between looks, when idle")
    parser.add_argument("--print-config", action="store_true", help="tables: for the daemon; exit")
    parser.add_argument(
        "--access", choices=("public", "restricted", "private", "dba"), default="private"
    )
    return parser


def print_config(options: argparse.Namespace) -> None:
    session = Session(options.dsn, options.slot)
    tables = catalog.describe(session.connection, options.table, options.numeric)
    print(catalog.daemon_config(tables, options.access, options.numeric), end="")


def feed_through_reconnects(options: argparse.Namespace, stop: threading.Event) -> None:
    """Feed until asked to end; a lost database is waited for, a wrong address is not."""
    pause, connected_once = 0.1, False
    while not stop.is_set():
        try:
            session = Session(options.dsn, options.slot)
            connected_once, pause = True, 0.1
            try:
                feed(session, options, stop)
            finally:
                session.close()
        except psycopg.OperationalError as error:
            if not connected_once:
                raise
            _log.warning("PostgreSQL is away, trying again: %s", error)
            stop.wait(pause)
            pause = min(pause * 2, _LONGEST_RECONNECT_PAUSE)


def feed(session: Session, options: argparse.Namespace, stop: threading.Event) -> None:
    """Bring the feed from whatever state it is in to streaming, and stream until asked to end."""
    session.lock(stop)
    tables = catalog.describe(session.connection, options.table, options.numeric)
    for warning in catalog.warnings(tables):
        _log.warning("%s", warning)
    directory = StateDirectory(options.state_dir or Path(f"feeder-{options.slot}"))
    poster = Poster(options.url, _credentials(options), stop)
    try:
        state = _resume(session, directory, _fresh_state(session, options, tables))
        if state.phase == "starting":
            copying.start_over(session, directory, state)
            state = copying.spool_tables(session, directory, state, tables, stop)
        if state.phase == "copying":
            state = copying.post_spool(poster, directory, state)
        by_name = {table.name: table for table in tables}
        keys = KeyReader(options.url, options.token)
        stream = Stream(session, directory, state, by_name, Outbox(poster), keys)
        _log.info("streaming")
        while not stop.is_set():
            if not stream.run_once():
                stop.wait(options.poll)
    finally:
        poster.close()


def _credentials(options: argparse.Namespace) -> dict[str, str]:
    if options.api_key:
        return {"X-API-Key": options.api_key}
    if options.token:
        return {"Authorization": f"Bearer {options.token}"}
    raise SetupFault("give --api-key or --token: the daemon takes changes from known producers")


def _fresh_state(
    session: Session, options: argparse.Namespace, tables: Sequence[catalog.Table]
) -> State:
    return State(
        slot=options.slot,
        system=str(session.value("SELECT system_identifier FROM pg_control_system()")),
        database=str(session.value("SELECT current_database()")),
        tables=tuple(table.name for table in tables),
        numeric=options.numeric,
        generation=uuid.uuid4().hex[:12],
    )


def _resume(session: Session, directory: StateDirectory, fresh: State) -> State:
    """The state on disk where there is one that fits, else a new start put on disk."""
    slot, state = session.slot(), directory.load()
    if slot is not None and slot.plugin != "wal2json":
        raise SetupFault(f"slot {fresh.slot} belongs to {slot.plugin}: choose another --slot")
    if state is None:
        if slot is not None:
            raise SetupFault(
                f"slot {fresh.slot} exists, but {directory.path} knows nothing of its copy: "
                "give the --state-dir it was started with, or drop the slot to start over"
            )
        return directory.save(fresh)
    state.require_same(fresh)
    if state.phase != "starting" and slot is None:
        raise SetupFault(
            f"slot {fresh.slot} is gone, and with it changes that were not fed: remove "
            f"{directory.path} and the daemon's rows of these tables to start over"
        )
    return state


if __name__ == "__main__":
    sys.exit(main())
