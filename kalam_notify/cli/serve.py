"""`kalam-notify serve`: the daemon in the foreground."""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kalam_notify.auth import sign
from kalam_notify.cli.verbs import add_verb
from kalam_notify.config import (
    Config,
    Override,
    dev_config,
    load_config,
    warnings,
)
from kalam_notify.errors import ConfigurationFault, Fault
from kalam_notify.model import Role

if TYPE_CHECKING:
    from kalam_notify.cli.verbs import Verbs

SOURCE_NAME = "main"
"""What the source of `--source` is called."""

DEV_TOKEN_SECONDS = 24 * 3600.0

_EXAMPLES = """\
  kalam-notify serve --dev
  kalam-notify serve --dev --source postgresql://localhost/shop
  kalam-notify serve --config config.yaml
  kalam-notify serve --config config.yaml --listen 0.0.0.0:2900 --workers auto

Every setting can also come from the environment: KALAM_NOTIFY_ and the key path joined by
two underscores, such as KALAM_NOTIFY_AUTH__JWT__SECRET. Flags win over the environment, the
environment over the file. SIGTERM drains and stops, SIGHUP reads the configuration again.
"""


def add_parser(verbs: "Verbs") -> None:
    parser = add_verb(verbs, "serve", "run the server in the foreground", _EXAMPLES)
    parser.add_argument("--config", metavar="FILE", type=Path, help="the YAML file")
    parser.add_argument("--listen", metavar="HOST:PORT", help="server.listen; port 0: a free one")
    parser.add_argument("--data-dir", metavar="DIR", help="server.data_dir")
    parser.add_argument("--workers", metavar="N", help="server.workers; auto: one per core")
    parser.add_argument(
        "--dev",
        action="store_true",
        help="no file, no secret, nothing kept: prints a token, creates tables on first use",
    )
    parser.add_argument(
        "--source", metavar="URL", help="follow the tables of postgresql://user@host/database"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop; answers the exit code of the server."""
    config = load_config(args.config, os.environ, overrides_of(args), serving=not args.dev)
    if args.dev:
        return _serve_dev(config, args)
    _warn(config)
    return _serve(config, args)


def overrides_of(args: argparse.Namespace) -> list[Override]:
    """The settings given as flags."""
    flags = {
        "--listen": ("server.listen", args.listen),
        "--data-dir": ("server.data_dir", args.data_dir),
        "--workers": ("server.workers", args.workers),
        "--source": (f"sources.{SOURCE_NAME}.postgres", args.source),
    }
    return [Override(flag, key, value) for flag, (key, value) in flags.items() if value is not None]


def _serve_dev(config: Config, args: argparse.Namespace) -> int:
    with _development_directory(config, args.data_dir is not None) as data_dir:
        opened = dev_config(config, data_dir=data_dir, keeps_nothing=args.data_dir is None)
        _warn(opened)
        token = sign(opened.auth.jwt, "dev", role=Role.SERVICE, ttl=DEV_TOKEN_SECONDS)
        print(f"token: {token}", flush=True)
        return _serve(opened, args)


@contextmanager
def _development_directory(config: Config, is_given: bool) -> Iterator[Path]:
    """The data directory of `--dev`: the one given, or one that goes when the server stops."""
    if is_given:
        yield config.server.data_dir
        return
    try:
        directory = Path(tempfile.mkdtemp(prefix="kalam-notify-"))
    except OSError as error:
        cure = "name a directory that can be written to with --data-dir, or in TMPDIR"
        reason = error.strerror or str(error)
        raise ConfigurationFault([Fault("--dev", "temporary directory", reason, cure)]) from error
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _serve(config: Config, args: argparse.Namespace) -> int:
    # Here and not on top: the other verbs need none of the server.
    from kalam_notify.app import run as run_app

    return run_app(config, dev=args.dev, config_file=args.config, overrides=overrides_of(args))


def _warn(config: Config) -> None:
    for warning in warnings(config):
        print(f"warning: {warning}", file=sys.stderr)
