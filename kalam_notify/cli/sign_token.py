"""`kalam-notify token`: a signed JWT on stdout."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kalam_notify.auth import RESERVED_CLAIMS, is_user_id, sign
from kalam_notify.cli.verbs import add_verb
from kalam_notify.config import load_config, warnings
from kalam_notify.config.units import DURATION_CURE, parse_duration
from kalam_notify.model import Role

if TYPE_CHECKING:
    from kalam_notify.cli.verbs import Verbs

Claim = tuple[str, object]

_EXAMPLES = """\
  kalam-notify token --config config.yaml --user alice
  kalam-notify token --config config.yaml --user feeder --role service --ttl 30d
  KALAM_NOTIFY_AUTH__JWT__SECRET=... kalam-notify token --user bob --claim tenant=acme

A claim's value is JSON where it parses as JSON (5, true, ["a"], "5"), else text.
"""


def add_parser(verbs: "Verbs") -> None:
    parser = add_verb(verbs, "token", "sign a token with the server's secret", _EXAMPLES)
    roles = [role.label for role in Role if role is not Role.ANONYMOUS]
    parser.add_argument("--user", metavar="U", required=True, type=_user, help="who: the sub claim")
    parser.add_argument("--role", choices=roles, default="user", help="default: user")
    parser.add_argument("--ttl", metavar="TIME", type=_ttl, default=3600.0, help="default: 1h")
    parser.add_argument(
        "--claim", metavar="K=V", type=_claim, action="append", default=[], help="another claim"
    )
    parser.add_argument("--config", metavar="FILE", type=Path, help="the YAML file with the secret")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    config = load_config(args.config, os.environ)
    for warning in warnings(config):
        if warning.startswith("auth.jwt.secret"):
            print(f"warning: {warning}", file=sys.stderr)
    role = Role.parse(args.role) or Role.USER
    try:
        token = sign(config.auth.jwt, args.user, role=role, ttl=args.ttl, claims=dict(args.claim))
    except ValueError as fault:
        print(f"kalam-notify token: error: {fault}", file=sys.stderr)
        return 2
    print(token)
    return 0


def _user(text: str) -> str:
    if not is_user_id(text):
        raise argparse.ArgumentTypeError("a user id is 1 to 128 printable characters")
    return text


def _ttl(text: str) -> float:
    seconds = parse_duration(text)
    if not seconds:
        raise argparse.ArgumentTypeError(f"{text!r}: {DURATION_CURE}, above 0")
    return seconds


def _claim(text: str) -> Claim:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r}: give NAME=VALUE")
    if name in RESERVED_CLAIMS:
        raise argparse.ArgumentTypeError(f"{name} comes from --user, --role and --ttl")
    return name, _value(value)


def _value(text: str) -> object:
    try:
        return json.loads(text, parse_constant=_not_a_value)
    except (ValueError, RecursionError):
        return text


def _not_a_value(name: str) -> object:
    raise ValueError(f"{name} is not JSON")
