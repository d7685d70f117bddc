"""`tables`, `connections`, `subscriptions`, `top` and `kick`: the verbs for administrators."""

import argparse
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from kalam_notify.cli.client_verbs import add_api_key, add_connection
from kalam_notify.cli.verbs import add_verb

if TYPE_CHECKING:
    from kalam_notify.cli.verbs import Verbs

_TABLES = """\
  kalam-notify tables
  kalam-notify tables --json --token "$DBA_TOKEN"
"""
_CONNECTIONS = """\
  kalam-notify connections --user alice
  kalam-notify connections --lagging
"""
_SUBSCRIPTIONS = """\
  kalam-notify subscriptions --table app.orders
  kalam-notify subscriptions --lagging --json
"""
_TOP = """\
  kalam-notify top                     on a terminal anew every two seconds; q ends it
  kalam-notify top --once | mail -s "the server" ops@example.com
"""
_KICK = """\
  kalam-notify kick 1-5f3a9c-17
  kalam-notify kick --user alice --reason "maintenance"
"""


def add_parsers(verbs: "Verbs") -> None:
    _add(verbs, "tables", "list the tables of a server", _TABLES, _json)
    _add(verbs, "connections", "list the connections to a server", _CONNECTIONS, _json, _whose)
    _add(
        verbs,
        "subscriptions",
        "list the subscriptions at a server",
        _SUBSCRIPTIONS,
        _json,
        _whose,
        _of_table,
    )
    _add(verbs, "top", "show what a server is doing", _TOP, _pace, module="top")
    _add(verbs, "kick", "close connections of clients", _KICK, _ids)


Part = Callable[[argparse.ArgumentParser], object]


def _add(
    verbs: "Verbs",
    name: str,
    summary: str,
    examples: str,
    *parts: Part,
    module: str = "administration",
) -> None:
    parser = add_verb(verbs, name, summary, examples)
    for part in (*parts, add_connection, add_api_key):
        part(parser)

    def run(args: argparse.Namespace) -> int:
        # The client is imported when it is asked for: the server's start has no need of it.
        verb: Callable[[argparse.Namespace], int] = getattr(
            importlib.import_module(f"kalam_notify.client.{module}"), name
        )
        if name == "kick" and not args.ids and args.user is None:
            parser.error("name the connections to close, or --user U")
        return verb(args)

    parser.set_defaults(run=run)


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one row per line, as JSON")


def _whose(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--user", metavar="U", help="of this user only")
    parser.add_argument(
        "--lagging", action="store_true", help="only what is fed from the log, not live"
    )


def _of_table(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--table", metavar="T", help="to this table only")


def _pace(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--once", action="store_true", help="one picture; so it is, too, where there is no terminal"
    )
    parser.add_argument(
        "--interval", metavar="S", type=_seconds, default=2.0, help="seconds between pictures; 2"
    )


def _ids(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "ids", metavar="ID", nargs="*", help="a connection, as `connections` and `top` tell it"
    )
    parser.add_argument("--user", metavar="U", help="every connection of this user")
    parser.add_argument("--reason", metavar="TEXT", help="what its client is told")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.05 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r}: give seconds, 0.05 to 3600")
    return seconds
