"""`kalam-notify check-config FILE`: would the server take this file?"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kalam_notify.cli.verbs import add_verb
from kalam_notify.config import load_config, warnings

if TYPE_CHECKING:
    from kalam_notify.cli.verbs import Verbs

_EXAMPLES = "  kalam-notify check-config config.yaml && systemctl reload kalam-notify\n"
_EXAMPLES += "  kalam-notify check-config config.yaml --connect\n"


def add_parser(verbs: "Verbs") -> None:
    parser = add_verb(verbs, "check-config", "check a configuration file", _EXAMPLES)
    parser.add_argument("file", metavar="FILE", type=Path, help="the YAML file to check")
    parser.add_argument(
        "--connect", action="store_true", help="ask the databases of sources what they lack"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0 for a file without faults; its warnings go to stderr. Faults are raised.

    The file alone is looked at: what it means must not depend on who checks it. With --connect
    the sources are asked as well, by the URLs that this environment gives.
    """
    config = load_config(args.file)
    for warning in warnings(config):
        print(f"{args.file}: warning: {warning}", file=sys.stderr)
    if args.connect:
        # Here and not on top: few files have sources.
        from kalam_notify.sources.opening import examine

        examine(load_config(args.file, os.environ), insist=True)
    print(f"{args.file}: valid")
    return 0
