"""The verbs for administrators: tables, connections, subscriptions, kick, and explain --why.

Each takes the parsed arguments and answers the exit code: 0, or 1 with the reason on stderr.
"""

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

import orjson

from kalam_notify.client.requests import Answer, Server
from kalam_notify.errors import KalamNotifyError

Row = Mapping[str, Any]

_PAGE_ROWS = 500
_LONGEST_CELL = 60


class Refused(KalamNotifyError):
    """The server's answer is a refusal."""


def server_of(args: Namespace) -> Server:
    """The server that the arguments name. Raises BadAddress, BadCredential."""
    return Server(args.url, args.token, api_key=args.api_key)


def asked(server: Server, path: str, method: str = "GET") -> Answer:
    """The answer to a request; raises Refused for anything but 200, and Unreachable."""
    answer = server.ask(method, path)
    if answer.status != 200:
        raise Refused(f"refused: {answer.fault}")
    return answer


def listed(server: Server, subject: str, **wanted: object) -> Iterator[Row]:
    """The rows of a list, page after page."""
    query = {name: value for name, value in wanted.items() if value is not None}
    while True:
        page = asked(server, f"/v1/{subject}?{urlencode({'limit': _PAGE_ROWS, **query})}").body
        yield from page[subject]
        if page["next_cursor"] is None:
            return
        query["cursor"] = page["next_cursor"]


def reports_faults(run: Callable[[Namespace], int]) -> Callable[[Namespace], int]:
    """A verb whose faults are told on stderr, with exit code 1."""

    def guarded(args: Namespace) -> int:
        try:
            return run(args)
        except KalamNotifyError as fault:
            print(f"kalam-notify: {fault}", file=sys.stderr)
            return 1

    return guarded


@reports_faults
def tables(args: Namespace) -> int:
    """Print the server's tables."""
    return _print(args, listed(server_of(args), "tables"), _TABLE)


@reports_faults
def connections(args: Namespace) -> int:
    """Print the connections: of a user, or those that lag, where that is asked."""
    lagging = "true" if args.lagging else None
    rows = listed(server_of(args), "connections", user=args.user, lagging=lagging)
    return _print(args, rows, _CONNECTION)


@reports_faults
def subscriptions(args: Namespace) -> int:
    """Print the subscriptions: of a user or table, or those that lag, where that is asked."""
    lagging = "true" if args.lagging else None
    rows = listed(
        server_of(args), "subscriptions", user=args.user, table=args.table, lagging=lagging
    )
    return _print(args, rows, _SUBSCRIPTION)


@reports_faults
def kick(args: Namespace) -> int:
    """Close connections by their ids, or all of a user; 1 when there was none to close."""
    server = server_of(args)
    names = list(args.ids)
    if args.user is not None:
        names += [row["id"] for row in listed(server, "connections", user=args.user)]
    reason = "" if args.reason is None else f"?{urlencode({'reason': args.reason})}"
    closed = [name for name in names if _kicked(server, name, reason)]
    if not names:
        print(f"kalam-notify: {args.user} has no connection", file=sys.stderr)
    return 0 if closed and len(closed) == len(names) else 1


def _kicked(server: Server, name: str, reason: str) -> bool:
    answer = server.ask("DELETE", f"/v1/connections/{quote(name, safe='')}{reason}")
    if answer.status == 200:
        print(f"closed {name}")
        return True
    if answer.status != 404:
        raise Refused(f"refused: {answer.fault}")
    print(f"kalam-notify: there is no connection {name}", file=sys.stderr)
    return False


@reports_faults
def why(args: Namespace) -> int:
    """Print what became of a change at a user's subscriptions."""
    seq, user = args.why
    answer = asked(server_of(args), f"/v1/why?{urlencode({'seq': seq, 'user': user})}").body
    if args.json:
        print(orjson.dumps(answer, option=orjson.OPT_INDENT_2).decode())
        return 0
    change = answer["change"]
    whose = f" of {change['user_id']}" if change["user_id"] else ""
    print(f"change {seq}: {change['change_type']} in {change['table']}{whose}")
    print(answer["verdict"])
    for case in answer["subscriptions"]:
        print(f"\n{case['id']} on {case['connection']}: {case['outcome']}")
        print(f"  {case['sql']}")
        print(f"  {case['why']}")
        for term in case.get("terms", ()):
            values = orjson.dumps(term["values"]).decode() if "values" in term else ""
            print(f"    {term['of']}, {term['image']} row: {term['sql']} is {term['is']} {values}")
    return 0


# How rows are shown: the heading, and the cell of a row.

Columns = Sequence[tuple[str, Callable[[Row], object]]]


def _columns_of(row: Row) -> str:
    if row["columns"] is None:
        return f"({', '.join(row['seen_columns'])})" if row["seen_columns"] else "any"
    return ", ".join(column["name"] for column in row["columns"])


_TABLE: Columns = [
    ("TABLE", lambda row: row["table"]),
    ("TYPE", lambda row: row["type"]),
    ("ACCESS", lambda row: row["access"] or "own rows"),
    ("KEY", lambda row: ", ".join(row["primary_key"]) or "none"),
    ("SUBSCRIPTIONS", lambda row: row["subscriptions"]),
    ("CHANGES", lambda row: row["changes"]),
    ("COLUMNS", _columns_of),
]
_CONNECTION: Columns = [
    ("CONNECTION", lambda row: row["id"]),
    ("USER", lambda row: row["user"] or "(anonymous)"),
    ("ROLE", lambda row: row["role"]),
    ("ADDRESS", lambda row: row["address"]),
    ("AGE", lambda row: duration(row["age"])),
    ("WAITING", lambda row: size(row["bytes_waiting"])),
    ("SUBSCRIPTIONS", lambda row: row["subscriptions"]),
    ("LAGGING", lambda row: row["lagging"]),
]
_SUBSCRIPTION: Columns = [
    ("CONNECTION", lambda row: row["connection"]),
    ("ID", lambda row: row["id"]),
    ("USER", lambda row: row["user"] or "(anonymous)"),
    ("STATE", lambda row: row["state"]),
    ("BEHIND", lambda row: duration(row["seconds_behind"])),
    ("BYTES", lambda row: size(row["bytes_behind"])),
    ("AGE", lambda row: duration(row["age"])),
    ("INDEX", lambda row: row["index"]),
    ("SQL", lambda row: row["sql"]),
]


def _print(args: Namespace, rows: Iterator[Row], columns: Columns) -> int:
    if args.json:
        for row in rows:
            print(orjson.dumps(row).decode())
    else:
        print("\n".join(aligned(list(rows), columns)))
    return 0


def aligned(rows: Sequence[Row], columns: Columns) -> Iterator[str]:
    """Lines of a table: numbers stand to the right, the last column is not cut."""
    cells = [[_cell(get(row)) for _, get in columns] for row in rows]
    heads = [head for head, _ in columns]
    numeric = [
        bool(rows) and all(isinstance(get(row), int | float) for row in rows) for _, get in columns
    ]
    widths = [
        min(max(map(len, column)), _LONGEST_CELL) for column in zip(heads, *cells, strict=True)
    ]
    for line in (heads, *cells):
        fitted = [
            cell[: width - 1] + "…" if len(cell) > width else cell
            for cell, width in zip(line[:-1], widths, strict=False)
        ]
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(
                [*fitted, line[-1]], [*widths[:-1], 0], numeric, strict=True
            )
        ]
        yield "  ".join(padded).rstrip()


def _cell(value: object) -> str:
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def duration(seconds: float) -> str:
    """`850 ms`, `12.3 s`, `4 m 05 s`, `3 h 20 m`, `2 d 04 h`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    for unit, part, names in ((86400, 3600, "dh"), (3600, 60, "hm"), (60, 1, "ms")):
        if whole >= unit:
            return f"{whole // unit} {names[0]} {whole % unit // part:02} {names[1]}"
    return f"{whole} s"


def size(count: float) -> str:
    """`512 B`, `1.5 KiB`, `20 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1000 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError
