"""`kalam-notify doctor DATA_DIR`: what is wrong with a data directory, and what to do."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from kalam_notify.cli.verbs import add_verb
from kalam_notify.log import FILE_NAME
from kalam_notify.store.checkup import findings_in

if TYPE_CHECKING:
    from kalam_notify.cli.verbs import Verbs

_EXAMPLES = "  kalam-notify doctor ./kalam-data\n"


def add_parser(verbs: "Verbs") -> None:
    parser = add_verb(verbs, "doctor", "check a data directory, and tell what to do", _EXAMPLES)
    parser.add_argument("data_dir", metavar="DATA_DIR", type=Path, help="the server's data_dir")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0 where nothing is wrong, else 1. Nothing is changed; a server may be running."""
    is_well = True
    for text, cure in findings_in(args.data_dir, FILE_NAME):
        if cure is None:
            print(text)
        else:
            is_well = False
            print(f"FAULT: {text}\n   do: {cure}")
    return 0 if is_well else 1
