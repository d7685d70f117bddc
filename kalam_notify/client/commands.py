"""The verbs of the command line that talk to a server: publish, tail, explain.

Each takes the parsed arguments and answers the exit code: 0, or 1 with the reason on stderr.
"""

import asyncio
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import orjson

from kalam_notify.client.plain_rows import Envelope, csv_rows
from kalam_notify.client.publish import Batch, batches, publish_stream, row_batches
from kalam_notify.client.requests import Server
from kalam_notify.client.tail import follow_until_interrupted
from kalam_notify.errors import ClientFault, KalamNotifyError


def publish(args: Namespace) -> int:
    """Post changes from `args.file` (`-` or None: stdin) to `args.url`."""
    try:
        server = Server(args.url, args.token, api_key=args.api_key)
        if args.file in (None, "-"):
            return publish_stream(server, sys.stdin.buffer, _batches(args, sys.stdin.buffer))
        with Path(args.file).open("rb") as source:
            return publish_stream(server, source, _batches(args, source))
    except (KalamNotifyError, OSError) as fault:
        return _complain(fault)
    except KeyboardInterrupt:
        return 130


def _batches(args: Namespace, source: BinaryIO) -> Iterator[Batch]:
    """The changes of `source` by the batch, whatever it is."""
    if args.table is None:
        return batches(source)
    envelope = Envelope(args.table, args.change_type, args.key or (), args.user)
    if args.format == "csv":
        return row_batches(csv_rows(source, args.text or ()), envelope)
    return batches(source, envelope)


def tail(args: Namespace) -> int:
    """Follow `args.sql` until SIGINT."""
    try:
        asyncio.run(follow_until_interrupted(args))
    except KeyboardInterrupt:
        return 0  # in the moment before the handler stood
    except KalamNotifyError as fault:
        return _complain(fault)
    return 0


def explain(args: Namespace) -> int:
    """Print how the server would serve `args.sql`."""
    try:
        server = Server(args.url, args.token, api_key=args.api_key)
        path = f"/v1/explain?sql={quote(args.sql, safe='')}"
        if args.param:
            path += f"&params={quote(orjson.dumps(args.param).decode(), safe='')}"
        answer = server.ask("GET", path)
    except KalamNotifyError as fault:
        return _complain(fault)
    if answer.status != 200:
        print(f"refused: {answer.fault}", file=sys.stderr)
        return 1
    print(orjson.dumps(answer.body, option=orjson.OPT_INDENT_2).decode())
    return 0


def _complain(fault: Exception) -> int:
    code = f"{fault.code}: " if isinstance(fault, ClientFault) else ""
    print(f"kalam-notify: {code}{fault}", file=sys.stderr)
    return 1
