"""`kalam-notify version`: which release this is."""

import argparse
import json
import platform
import sqlite3
from importlib.metadata import version
from typing import TYPE_CHECKING

from kalam_notify.cli.verbs import add_verb
from kalam_notify.version import __version__

if TYPE_CHECKING:
    from kalam_notify.cli.verbs import Verbs

_EXAMPLES = """\
  kalam-notify version
  kalam-notify version --json      and what it runs on, for a report
"""


def add_parser(verbs: "Verbs") -> None:
    parser = add_verb(verbs, "version", "tell which release this is", _EXAMPLES)
    parser.add_argument("--json", action="store_true", help="and what it runs on, as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    print(json.dumps(versions()) if args.json else f"kalam-notify {__version__}")
    return 0


def versions() -> dict[str, str]:
    """The release, and those of what it stands on."""
    return {
        "kalam_notify": __version__,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "websockets": version("websockets"),
        "platform": platform.platform(),
    }
