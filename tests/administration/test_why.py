"""Why a user did not get a change: the filter, the policy, or the position that kept it back."""

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from helpers.world import World, world

from kalam_notify.administration.why import case_of, columns_of, judged, policy_filter, seen_through
from kalam_notify.budget import at_once
from kalam_notify.filters import bind
from kalam_notify.log.memory import MemoryLog
from kalam_notify.model import Change, Identity, Role, Row, TableDef, TableId, UserId
from kalam_notify.sql import Limits, parse, parse_policy
from kalam_notify.sql.tree import TRUE

LIMITS = Limits(16_384, 512)
ORDERS = TableDef(TableId("app.orders"), "shared", "public", ("id",))
GUARDED = TableDef(
    TableId("app.guarded"), "shared", "public", ("id",), policy="tenant = CLAIM('tenant')"
)
NOTES = TableDef(TableId("app.notes"), "user", primary_key=("id",))
ALICE = Identity(UserId("alice"), Role.USER, {"tenant": "a"})
BOB = Identity(UserId("bob"), Role.USER, {"tenant": "b"})


def row(**values: Any) -> Row:
    return Row(orjson.dumps(values), values)


def change(
    seq: int,
    new: Row | None,
    old: Row | None = None,
    table: TableDef = ORDERS,
    owner: str = "",
) -> Change:
    kind = "delete" if new is None else "insert" if old is None else "update"
    return Change(seq, table.id, owner, kind, new, old)  # type: ignore[arg-type]


@pytest.fixture
async def it() -> AsyncIterator[World]:
    async with world(MemoryLog(), [ORDERS, GUARDED, NOTES]) as made:
        yield made


class Subscribed:
    """A subscription of a user, made when the log stands where it does."""

    def __init__(
        self, it: World, sql: str, options: Any = None, identity: Identity = ALICE
    ) -> None:
        self.it = it
        self.connection = it.connect(identity)
        table = parse(sql, LIMITS).table
        self.definition = it.tables[table]
        policy = self.definition.policy
        select = parse(sql, LIMITS)
        query = bind(
            select,
            self.definition,
            identity,
            None if policy is None else parse_policy(policy, LIMITS),
        )
        self.handle = it.manager.subscribe(self.connection, "s", query, options, sql=sql).handle

    def loaded(self, position: int) -> "Subscribed":
        self.handle.loaded(position)
        return self

    def live(self) -> "Subscribed":
        self.handle.level()
        return self

    def why(self, change: Change, position: int = 100) -> dict[str, Any]:
        steps = case_of(self.handle, self.connection.identity, "1-abcdef-1", 0, LIMITS, position)
        return judged(at_once(steps), change)


async def test_a_change_that_was_delivered_says_as_what(it: World) -> None:
    live = Subscribed(it, "SELECT * FROM app.orders WHERE status = 'open'").loaded(10).live()
    opened, paid = row(id=1, status="open"), row(id=1, status="paid")
    for told, seen in [
        (change(11, opened), "insert"),
        (change(12, opened, paid), "enter"),
        (change(13, paid, opened), "leave"),
        (change(14, opened, opened), "update"),
        (change(15, None, opened), "delete"),
    ]:
        answer = live.why(told)
        assert (answer["outcome"], answer["seen_as"]) == ("delivered", seen)


async def test_a_filter_that_kept_it_back_is_told_term_by_term(it: World) -> None:
    where = "status = 'open' AND total > 5 AND id < 100"
    live = Subscribed(it, f"SELECT * FROM app.orders WHERE {where}").loaded(10).live()
    answer = live.why(change(11, row(id=1, status="paid", total=None)))
    assert (answer["outcome"], answer["seen_as"]) == ("filter", None)
    assert {(term["sql"], term["is"], term["image"]) for term in answer["terms"]} == {
        ("status = 'open'", "FALSE", "new"),
        ("total > 5", "UNKNOWN", "new"),
    }
    assert {"status": "paid"} in [term["values"] for term in answer["terms"]]
    assert "query's filter" in answer["why"]


async def test_a_policy_that_kept_it_back_is_told_apart_from_the_query(it: World) -> None:
    live = Subscribed(it, "SELECT * FROM app.guarded WHERE id > 0").loaded(10).live()
    answer = live.why(change(11, row(id=1, tenant="b"), table=GUARDED))
    assert answer["outcome"] == "policy"
    assert [term["of"] for term in answer["terms"]] == ["policy"]
    assert answer["terms"][0]["values"] == {"tenant": "b"}
    answer = live.why(change(12, row(id=-1, tenant="b"), table=GUARDED))
    assert answer["outcome"] == "filter+policy"
    answer = live.why(change(13, row(id=-1, tenant="a"), table=GUARDED))
    assert answer["outcome"] == "filter"
    assert live.why(change(14, row(id=1, tenant="a"), table=GUARDED))["outcome"] == "delivered"


async def test_filter_and_policy_that_are_true_of_different_images_are_blamed_together(
    it: World,
) -> None:
    live = Subscribed(it, "SELECT * FROM app.guarded WHERE id > 0 AND n = 1").loaded(10).live()
    old, new = row(id=1, n=1, tenant="b"), row(id=1, n=2, tenant="a")
    answer = live.why(change(11, new, old, table=GUARDED))
    assert answer["outcome"] == "filter+policy"
    assert {(term["of"], term["image"]) for term in answer["terms"]} == {
        ("filter", "new"),
        ("policy", "old"),
    }


async def test_a_change_before_its_beginning_is_told_so(it: World) -> None:
    live = Subscribed(it, "SELECT * FROM app.orders").loaded(20).live()
    answer = live.why(change(20, row(id=1)))
    assert answer["outcome"] == "before_start"
    assert "live changes only" in answer["why"]
    assert live.why(change(21, row(id=1)))["outcome"] == "delivered"


async def test_a_change_beyond_its_position_is_told_so(it: World) -> None:
    behind = Subscribed(it, "SELECT * FROM app.orders").loaded(20)
    assert behind.why(change(21, row(id=1)))["outcome"] == "not_yet"
    live = Subscribed(it, "SELECT * FROM app.orders").loaded(20).live()
    assert live.why(change(31, row(id=1)), position=30)["outcome"] == "not_yet"
    assert live.why(change(30, row(id=1)), position=30)["outcome"] == "delivered"


async def test_while_it_loads_a_change_is_part_of_the_snapshot(it: World) -> None:
    loading = Subscribed(it, "SELECT * FROM app.orders")
    assert loading.why(change(5, row(id=1)))["outcome"] == "snapshot"


async def test_a_row_of_somebody_else_and_a_delete_of_nothing_tell_nobody(it: World) -> None:
    notes = Subscribed(it, "SELECT * FROM app.notes").loaded(1).live()
    answer = notes.why(change(2, row(id=1), table=NOTES, owner="bob"))
    assert answer["outcome"] == "owner"
    assert "terms" not in answer
    assert notes.why(change(3, row(id=1), table=NOTES, owner="alice"))["outcome"] == "delivered"
    assert notes.why(change(4, None, table=NOTES, owner="alice"))["outcome"] == "nothing"


async def test_of_rows_of_a_user_table_no_value_is_told(it: World) -> None:
    notes = Subscribed(it, "SELECT * FROM app.notes WHERE text = 'x'").loaded(1).live()
    answer = notes.why(change(2, row(id=1, text="secret"), table=NOTES, owner="alice"))
    assert answer["outcome"] == "filter"
    assert "secret" not in str(answer)
    assert "values" not in answer["terms"][0]


def test_a_claim_that_is_missing_lets_nothing_through() -> None:
    nobody = policy_filter(GUARDED, Identity(UserId("eve"), Role.USER), LIMITS)
    assert nobody is not None
    assert seen_through(nobody, change(1, row(id=1, tenant="a"), table=GUARDED)) is None


def test_the_columns_of_an_expression_are_named_once() -> None:
    where = "SELECT * FROM app.orders WHERE lower(b) = a AND (a > 1 OR c IS NULL)"
    condition = bind(parse(where, LIMITS), ORDERS, ALICE).filter
    assert columns_of(condition.predicate) == ["a", "b", "c"]
    assert columns_of(TRUE) == []
