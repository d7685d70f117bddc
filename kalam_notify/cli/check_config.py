"""`kalam-notify check-config FILE`: would the server take this file?"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kalam_notify.cli.verbs import add_verb
from kalam_notify.config import load_config, warnings

if TYPE_CHECKING:
    from kalam_notify.cli.verbs import Verbs

_EXAMPLES = "  kalam-notify check-config config.yaml && systemctl reload kalam-notify\n"


def add_parser(verbs: "Verbs") -> None:
    parser = add_verb(verbs, "check-config", "check a configuration file", _EXAMPLES)
    parser.add_argument("file", metavar="FILE", type=Path, help="the YAML file to check")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0 for a file without faults; its warnings go to stderr. Faults are raised.

    The file alone is looked at: what it means must not depend on who checks it.
    """
    config = load_config(args.file)
    for warning in warnings(config):
        print(f"{args.file}: warning: {warning}", file=sys.stderr)
    print(f"{args.file}: valid")
    return 0
