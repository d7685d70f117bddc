"""The queries that subscribers hold, in the proportions of a rehearsal."""

import random
from typing import Literal

import msgspec

ACCOUNTS, HISTORY = 100_000, "public.pgbench_history"


class Condition(msgspec.Struct, frozen=True):
    """A WHERE of one comparison, kept apart so that the verdict can repeat it in Python."""

    column: str
    operator: Literal["=", ">"]
    value: int


class Question(msgspec.Struct, frozen=True):
    """One subscriber's query."""

    kind: str
    sql: str
    # The key of the rows in the view; empty for the append-only table.
    key: tuple[str, ...] = ()
    # The columns asked for and the filter, for the append-only table only; no columns: all.
    columns: tuple[str, ...] = ()
    condition: Condition | None = None


def choose(count: int, seed: int) -> list[Question]:
    """`count` questions of all kinds: three in five are about a stretch of accounts."""
    dice = random.Random(seed)
    makers = [_account_range] * 12 + [_rich_accounts, _poor_accounts]
    makers += [_overdrawn_tellers, _some_tellers, _branches, _narrow_range]
    makers += [_history_of_teller, _history_of_large]
    # Shuffled once, so that a small number of subscribers has all kinds, too.
    dice.shuffle(makers)
    questions = [makers[number % len(makers)](dice) for number in range(count)]
    # One in each of the first processes, so that each kind of kill meets one.
    questions[:3] = [whole_history()] * 3
    return questions


def whole_history() -> Question:
    return Question("history, all of it", f"SELECT * FROM {HISTORY}")


def _account_range(dice: random.Random) -> Question:
    first = dice.randrange(1, ACCOUNTS - 200)
    where = f"aid BETWEEN {first} AND {first + 199}"
    return Question(
        "accounts, a range of ids",
        f"SELECT aid, abalance FROM public.pgbench_accounts WHERE {where}",
        ("aid",),
    )


def _narrow_range(dice: random.Random) -> Question:
    first = dice.randrange(1, ACCOUNTS - 1000)
    where = f"aid >= {first} AND aid < {first + 1000} AND NOT abalance = 0"
    return Question(
        "accounts, a range with a balance",
        f"SELECT * FROM public.pgbench_accounts WHERE {where}",
        ("aid",),
    )


def _rich_accounts(dice: random.Random) -> Question:
    where = f"abalance > {dice.randrange(4500, 5000)}"
    return Question(
        "accounts, by balance",
        f"SELECT aid, bid, abalance FROM public.pgbench_accounts WHERE {where}",
        ("aid",),
    )


def _poor_accounts(dice: random.Random) -> Question:
    where = f"bid = 1 AND (abalance < -{dice.randrange(4500, 5000)} OR aid IN (1, 50000, 100000))"
    return Question(
        "accounts, by balance",
        f"SELECT abalance, aid FROM public.pgbench_accounts WHERE {where}",
        ("aid",),
    )


def _overdrawn_tellers(_: random.Random) -> Question:
    sql = "SELECT * FROM public.pgbench_tellers WHERE tbalance < 0"
    return Question("tellers, overdrawn", sql, ("tid",))


def _some_tellers(dice: random.Random) -> Question:
    some = ", ".join(str(tid) for tid in sorted(dice.sample(range(1, 11), 2)))
    sql = f"SELECT tid, tbalance FROM public.pgbench_tellers WHERE tid IN ({some})"
    return Question("tellers, by id", sql, ("tid",))


def _branches(dice: random.Random) -> Question:
    where = dice.choice(["", " WHERE bbalance >= 0", " WHERE filler IS NULL"])
    sql = f"SELECT * FROM public.pgbench_branches{where}"
    return Question("branches", sql, ("bid",))


def _history_of_teller(dice: random.Random) -> Question:
    teller = dice.randrange(1, 11)
    return Question(
        "history, one teller's",
        f"SELECT * FROM {HISTORY} WHERE tid = {teller}",
        condition=Condition("tid", "=", teller),
    )


def _history_of_large(dice: random.Random) -> Question:
    least = dice.randrange(4000, 4900)
    return Question(
        "history, large amounts",
        f"SELECT aid, delta, mtime FROM {HISTORY} WHERE delta > {least}",
        columns=("aid", "delta", "mtime"),
        condition=Condition("delta", ">", least),
    )
