"""`kalam-notify rebuild`: an operator decides which rows stand, where nodes do not know."""

import argparse
import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kalam_notify.cli.verbs import add_verb
from kalam_notify.config import Config, Override, load_config
from kalam_notify.config.advice import lacking_package
from kalam_notify.config.nats_settings import is_nats
from kalam_notify.errors import ConfigurationFault, Fault, StorageFault

if TYPE_CHECKING:
    from kalam_notify.cli.verbs import Verbs

_EXAMPLES = """\
  kalam-notify rebuild --keep-rows --config config.yaml
  kalam-notify rebuild --from-stream --config config.yaml --yes

For a node of several on NATS JetStream, while it is stopped. --keep-rows: the stream was removed,
lost its end or came out of a backup, or two nodes have different rows; those of this node stand.
--from-stream: this node begins with what the stream holds, though its beginning be gone.
"""


def add_parser(verbs: "Verbs") -> None:
    parser = add_verb(verbs, "rebuild", "decide which rows stand, of nodes on NATS", _EXAMPLES)
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--keep-rows", action="store_true", help="those of this node")
    way.add_argument("--from-stream", action="store_true", help="those that the stream brings")
    parser.add_argument("--config", metavar="FILE", type=Path, help="the YAML file of the server")
    parser.add_argument("--data-dir", metavar="DIR", help="server.data_dir")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0 where it was done, 1 where somebody said no. Faults are raised."""
    flags = [] if args.data_dir is None else [("--data-dir", "server.data_dir", args.data_dir)]
    overrides = [Override(*flag) for flag in flags]
    config = load_config(args.config, os.environ, overrides, serving=False)
    if not is_nats(config.log.url):
        raise StorageFault(f"log.url is {config.log.url}: only a log on NATS can be rebuilt")
    if faults := [Fault("rebuild", *lack) for lack in lacking_package(config.log.url)]:
        raise ConfigurationFault(faults)
    return asyncio.run(_rebuild(config, args))


async def _rebuild(config: Config, args: argparse.Namespace) -> int:
    # Here and not on top: they need nats-py.
    from kalam_notify.log.nats.opening import node_path, open_link
    from kalam_notify.log.nats.rebuilding import Way, alone, carry_out, look

    way = Way.KEEP_ROWS if args.keep_rows else Way.FROM_STREAM
    link = open_link(config.log.url, config.log.nats, config.log.retention.max_age)
    with alone(config.server.data_dir):
        await link.start()
        try:
            found = await look(link, node_path(config.server.data_dir, link.stream))
            print(found.described(way), flush=True)
            if not (args.yes or _is_wanted()):
                print("nothing was changed")
                return 1
            print(carry_out(found, way))
        finally:
            await link.close()
    return 0


def _is_wanted() -> bool:
    print("go on? [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
