"""The command line: one module per verb, one boundary for errors.

Exit codes: 0 clean, 1 a fault at run time, 2 usage or configuration.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from kalam_notify.cli import (
    admin_verbs,
    check_config,
    client_verbs,
    completion,
    config_init,
    console,
    doctor,
    rebuild,
    serve,
    sign_token,
    version_verb,
)
from kalam_notify.errors import DamagedFile, KalamNotifyError, OperatorFault
from kalam_notify.logs import guard_tracebacks, hide
from kalam_notify.version import __version__

CLEAN, RUNTIME_FAULT, USAGE = 0, 1, 2

_EXAMPLES = """\
examples:
  kalam-notify serve --dev                      try it out: prints a token, needs no file
  kalam-notify serve --config config.yaml       run it
  echo '{"table":"app.orders","change_type":"insert","row_data":{"id":1}}' | kalam-notify publish
  kalam-notify tail "SELECT * FROM app.orders" --snapshot
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and answer the exit code. Faults are told on stderr, one line each."""
    console.prepare()
    guard_tracebacks()
    parser = build_parser()
    if not (sys.argv[1:] if argv is None else argv):
        parser.print_help(sys.stderr)
        return USAGE
    args = parser.parse_args(argv)
    hide(*(str(getattr(args, name, None) or "").strip() for name in ("token", "api_key")))
    try:
        code = args.run(args)
        sys.stdout.flush()
        return int(code)
    except OperatorFault as fault:
        _complain(str(fault))
        return RUNTIME_FAULT if isinstance(fault, DamagedFile) else USAGE
    except KalamNotifyError as fault:
        _complain(str(fault))
        return RUNTIME_FAULT
    except KeyboardInterrupt:
        return RUNTIME_FAULT
    except BrokenPipeError:
        # Whoever read our output has gone; Python must not complain about that at exit once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return RUNTIME_FAULT
    except OSError as error:
        _complain(f"kalam-notify: {error}")
        return RUNTIME_FAULT


def build_parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = console.Parser(
        prog="kalam-notify",
        description="Exact live queries over WebSocket, from row changes posted over HTTP.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"kalam-notify {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    serve.add_parser(verbs)
    check_config.add_parser(verbs)
    sign_token.add_parser(verbs)
    doctor.add_parser(verbs)
    rebuild.add_parser(verbs)
    client_verbs.add_parsers(verbs)
    admin_verbs.add_parsers(verbs)
    config_init.add_parser(verbs)
    completion.add_parser(verbs, parser)
    version_verb.add_parser(verbs)
    return parser


def _complain(lines: str) -> None:
    for line in lines.splitlines():
        print(line, file=sys.stderr)
