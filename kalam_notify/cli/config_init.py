"""`kalam-notify config init`: a first configuration, with a secret of its own."""

import argparse
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from kalam_notify.cli.verbs import add_verb
from kalam_notify.errors import OperatorFault

if TYPE_CHECKING:
    from kalam_notify.cli.verbs import Verbs

_EXAMPLES = """\
  kalam-notify config init                       writes config.yaml
  kalam-notify config init /etc/kalam-notify/config.yaml
"""

# 32 bytes, as many as an HMAC with SHA-256 has a use for (RFC 7518, 3.2).
_SECRET_BYTES = 32

_FILE = """\
# A first configuration of kalam-notify. What is not said here has its default; config.example.yaml
# and docs/operations.md explain every key. `kalam-notify check-config FILE` judges a change.

server:
  # Where clients and producers connect. 0.0.0.0:2900 listens on every address of this machine.
  listen: "127.0.0.1:2900"
  # Where the log and the rows are kept.
  data_dir: ./kalam-data
  # Pages of these origins may connect; none named: those of all.
  # allowed_origins: ["https://app.example.com"]

auth:
  jwt:
    # Whoever knows this secret can sign tokens for every user: keep this file to yourself. Made for
    # you, at random. docs/tokens.md tells how a backend signs tokens with it.
    secret: "{secret}"
  # Whether clients may subscribe to public tables without a token.
  anonymous: false

tables:
  # Whether a table that is posted to for the first time is created: shared, public, key `id`.
  auto_create: false
  declared:
    # A table of your own; copy and change it.
    app.orders:
      type: shared          # or user: every user has own rows
      access: public        # private: for services alone
      primary_key: id
      # columns: {{id: BigInt, status: Text, total: Double}}
      # indexes: [status]
"""


def add_parser(verbs: "Verbs") -> None:
    parser = add_verb(verbs, "config", "write a first configuration", _EXAMPLES)
    own = parser.add_subparsers(metavar="WHAT", required=True)
    init = add_verb(own, "init", "write a configuration to begin with", _EXAMPLES)
    init.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        type=Path,
        default=Path("config.yaml"),
        help="default: config.yaml; one that is there is left as it is",
    )
    init.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the file, readable by its owner alone. Raises OperatorFault where it cannot be."""
    text = _FILE.format(secret=secrets.token_hex(_SECRET_BYTES))
    try:
        # Never over a file that is there: its secret would be gone, and with it every token.
        descriptor = os.open(args.file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise OperatorFault(f"{args.file}: is there already: nothing was written") from None
    except OSError as fault:
        raise OperatorFault(f"{args.file}: {fault.strerror}: nothing was written") from fault
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    print(
        f"{args.file}: written, with a fresh secret; next: kalam-notify serve --config {args.file}"
    )
    return 0
