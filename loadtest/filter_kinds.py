"""Filters by the number, and rows of which each matches exactly one of them."""

from collections.abc import Callable
from dataclasses import dataclass

from loadtest.harness.rows import Shape
from loadtest.harness.server import POLICED, TABLE

BATCH = 100
AT_ONCE = 10  # filters that one batch matches
CONNECTIONS = 1000


@dataclass(frozen=True)
class Kind:
    """A way to write filter k of many, and the columns of a row that only filter k matches."""

    name: str
    where: Callable[[int], str]
    columns: Callable[[int], str]
    table: str = TABLE


KINDS = [
    Kind("equality", lambda k: f"g = {k}", lambda k: f'"g":{k}'),
    Kind("in", lambda k: f"g IN ({3 * k}, {3 * k + 1}, {3 * k + 2})", lambda k: f'"g":{3 * k + 1}'),
    Kind(
        "range", lambda k: f"v >= {10 * k} AND v < {10 * k + 10}", lambda k: f'"v":{10 * k + 5}.5'
    ),
    Kind("prefix", lambda k: f"s LIKE 'p{k:06d}%'", lambda k: f'"s":"p{k:06d}-tail"'),
    Kind("unindexable", lambda k: f"g % 1000003 = {k}", lambda k: f'"g":{k}'),
]
POLICY = "policy"
NAMES = [*(kind.name for kind in KINDS), POLICY]
SAME = Kind("same", lambda k: "g = 0", lambda k: '"g":0')


def filter_of(n: int, count: int) -> int:
    """The filter that row n matches: ten different ones per batch, spread over all."""
    batch, place = divmod(n - 1, BATCH)
    return (batch * AT_ONCE + place % AT_ONCE) * 2654435761 % 2**32 % count


def placed_between(first: int, last: int, count: int) -> int:
    """What the client's `placed` is to be after rows first..last."""
    return sum((filter_of(n, count) + 1) * n for n in range(first, last + 1))


def spread(count: int) -> tuple[int, int]:
    """Connections, and subscriptions on each; their product is `count` rounded down."""
    connections = min(count, CONNECTIONS)
    return connections, count // connections


def policed(per_connection: int) -> Kind:
    return Kind(
        POLICY,
        lambda k: f"g = {k % per_connection}",
        lambda k: f'"tenant":"t{k // per_connection}","g":{k % per_connection}',
        POLICED,
    )


def shape_of(kind: Kind, count: int) -> Shape:
    return lambda n, text: f'{{"id":{n},"x_load":"{text}",{kind.columns(filter_of(n, count))}}}'
