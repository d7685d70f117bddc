"""`publish`, `tail` and `explain`: the verbs that talk to a running server."""

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING

from kalam_notify.cli.verbs import add_verb

if TYPE_CHECKING:
    from kalam_notify.cli.verbs import Verbs

DEFAULT_URL = "http://127.0.0.1:2900"

_PUBLISH_EXAMPLES = """\
  kalam-notify publish changes.ndjson
  producer | kalam-notify publish --url http://10.0.0.5:2900 --token "$TOKEN" -
  kalam-notify publish --table app.orders rows.ndjson                rows in place of changes
  kalam-notify publish --table app.orders --text zip orders.csv
"""
_TAIL_EXAMPLES = """\
  kalam-notify tail "SELECT * FROM app.orders"                       live changes only
  kalam-notify tail "SELECT * FROM app.orders" --snapshot            the rows there are, then live
  kalam-notify tail "SELECT id FROM app.orders WHERE total > 100" --last 20
  kalam-notify tail "SELECT * FROM app.orders" --from 0 --json       all the log holds, as JSON
  kalam-notify tail "SELECT * FROM app.orders" --table --columns id,status    a table on the screen
"""
_EXPLAIN_EXAMPLES = """\
  kalam-notify explain "SELECT * FROM app.orders WHERE status = 'open'"
  kalam-notify explain --why 1795651234567892 alice      why alice did not get that change
"""


def add_parsers(verbs: "Verbs") -> None:
    _add_publish(verbs)
    _add_tail(verbs)
    _add_explain(verbs)


def _add_publish(verbs: "Verbs") -> None:
    parser = add_verb(verbs, "publish", "post changes to a server", _PUBLISH_EXAMPLES)
    add_connection(parser)
    add_api_key(parser)
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        default="-",
        help="JSON, a JSON array of any size, NDJSON or CSV; - or nothing: stdin",
    )
    rows = parser.add_argument_group("rows without an envelope")
    rows.add_argument("--table", metavar="T", help="the input is rows of this table, not changes")
    rows.add_argument(
        "--format",
        choices=["json", "csv"],
        help="csv: the first line names the columns; default: json, csv for a file named .csv",
    )
    rows.add_argument(
        "--change-type",
        choices=["insert", "update", "delete"],
        default="insert",
        help="what becomes of each row; default: insert",
    )
    rows.add_argument("--user", metavar="U", help="whose rows they are, for a USER table")
    rows.add_argument(
        "--key",
        metavar="A,B",
        type=_columns,
        help="make the changes' ids of these columns: what is posted again is stored once, "
        "whatever else is in it",
    )
    rows.add_argument(
        "--text",
        metavar="A,B",
        type=_columns,
        help="CSV: these columns are texts, even where they look like numbers; *: all",
    )
    parser.set_defaults(run=_publish)


def _add_tail(verbs: "Verbs") -> None:
    parser = add_verb(verbs, "tail", "subscribe from a terminal", _TAIL_EXAMPLES)
    add_connection(parser)
    parser.add_argument(
        "sql", metavar="SQL", type=_sql, help="SELECT columns FROM namespace.table [WHERE]"
    )
    parser.add_argument(
        "--from", dest="from_seq", metavar="SEQ", type=_seq, help="every change after this seq"
    )
    parser.add_argument("--last", metavar="N", type=_seq, help="the newest N rows, then live")
    parser.add_argument("--snapshot", action="store_true", help="all rows there are, then live")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="one server message per line")
    how.add_argument("--table", action="store_true", help="keep the rows on the screen, as a table")
    parser.add_argument(
        "--columns", metavar="A,B", type=_columns, help="show these columns alone, in this order"
    )
    _add_params(parser)
    parser.set_defaults(run=_tail)


def _add_explain(verbs: "Verbs") -> None:
    parser = add_verb(verbs, "explain", "tell how a server would run a query", _EXPLAIN_EXAMPLES)
    add_connection(parser)
    add_api_key(parser)
    parser.add_argument(
        "sql", metavar="SQL", type=_sql, nargs="?", help="the SELECT of a subscription"
    )
    parser.add_argument(
        "--why",
        metavar=("SEQ", "USER"),
        nargs=2,
        action=_SeqAndUser,
        help="in place of SQL: what became of a change at a user's subscriptions, and why",
    )
    parser.add_argument("--json", action="store_true", help="with --why: the answer as JSON")
    _add_params(parser)
    parser.set_defaults(run=_explain, complain=parser.error)


def _add_params(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--param",
        metavar="V",
        action="append",
        type=_param,
        help="the value of $1; again for $2, ... JSON where it is JSON, else text",
    )


def _param(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def add_connection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--url",
        metavar="BASE",
        default=os.environ.get("KALAM_NOTIFY_URL") or DEFAULT_URL,
        help=f"http(s)://, ws(s):// or nothing, and host:port; default: the environment's "
        f"KALAM_NOTIFY_URL, or {DEFAULT_URL}",
    )
    parser.add_argument(
        "--token",
        metavar="T",
        default=os.environ.get("KALAM_NOTIFY_TOKEN") or None,
        help="a JWT; default: the environment's KALAM_NOTIFY_TOKEN",
    )


def add_api_key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--api-key",
        metavar="K",
        default=os.environ.get("KALAM_NOTIFY_API_KEY") or None,
        help="a producer's key; default: the environment's KALAM_NOTIFY_API_KEY",
    )


def _columns(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r}: give the names of columns, as in id,status")
    return names


def _sql(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("this is not text in the terminal's encoding") from None
    return text.strip("\ufeff")


def _seq(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and int(text) < 2**53):
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number, 0 or more")
    return int(text)


class _SeqAndUser(argparse.Action):
    """Two values, the first of them a seq."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        assert isinstance(values, list)
        try:
            setattr(namespace, self.dest, (_seq(values[0]), values[1]))
        except argparse.ArgumentTypeError as fault:
            raise argparse.ArgumentError(self, str(fault)) from None


# The client is imported when it is asked for: the server's start has no need of it.


def _publish(args: argparse.Namespace) -> int:
    if args.format is None:
        args.format = "csv" if args.file.lower().endswith(".csv") else "json"
    if fault := _wrong_rows(args):
        print(f"kalam-notify: {fault}", file=sys.stderr)
        return 2
    from kalam_notify.client.commands import publish

    return publish(args)


def _wrong_rows(args: argparse.Namespace) -> str | None:
    """What the flags for rows lack."""
    if args.table is None:
        if args.format == "csv":
            return "CSV has rows, not changes: name their table with --table"
        for flag in ("key", "user", "text"):
            if getattr(args, flag):
                return f"--{flag} is for rows: name their table with --table"
        if args.change_type != "insert":
            return "--change-type is for rows: name their table with --table"
    elif args.text and args.format != "csv":
        return "--text is for CSV: JSON tells texts from numbers"
    return None


def _tail(args: argparse.Namespace) -> int:
    if args.table and not sys.stdout.isatty():
        print(
            "kalam-notify: --table wants a terminal: leave it out, or use --json", file=sys.stderr
        )
        return 2
    from kalam_notify.client.commands import tail

    return tail(args)


def _explain(args: argparse.Namespace) -> int:
    if (args.sql is None) == (args.why is None):
        args.complain("give a query, or --why SEQ USER")
    if args.why is not None:
        from kalam_notify.client.administration import why

        return why(args)
    from kalam_notify.client.commands import explain

    return explain(args)
