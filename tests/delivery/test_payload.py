"""Message bodies: what is told, in which order, and never twice encoded."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalam_notify.delivery.payload import (
    MAX_MESSAGE_BYTES,
    BodyBuilder,
    FrameSet,
    RowEncoder,
    with_seq,
)
from kalam_notify.filters import Delta, Projection, delta
from kalam_notify.model import Change, Row, TableDef, TableId
from kalam_notify.protocol.messages import change_head, frame_header

TABLE = TableDef(TableId("app.orders"), "shared", "public", ("id",))
KEYLESS = TableDef(TableId("app.events"), "shared", "public")


def row(**values: Any) -> Row:
    return Row(orjson.dumps(values), values)


def changed(
    seq: int, new: Row | None, old: Row | None = None, old_seq: int | None = None
) -> Change:
    kind: Any = "delete" if new is None else "insert" if old is None else "update"
    return Change(seq, TABLE.id, "", kind, new, old, old_seq)


def told(*seen: tuple[Change, Delta], columns: tuple[str, ...] | None = None) -> list[Any]:
    builder = BodyBuilder(RowEncoder(TABLE, Projection.of(columns, TABLE)))
    for change, how in seen:
        builder.add(change, how)
    return [json.loads(b"{" + body) for body in builder.bodies()]


def test_an_update_names_the_key_and_what_changed() -> None:
    new, old = row(id=1, a=2, b="x", d=1), row(id=1, a=1, b="x", c=True)
    change = changed(9, new, old, 5)
    assert told((change, Delta.UPDATE)) == [
        {
            "change_type": "update",
            "rows": [{"id": 1, "a": 2, "b": "x", "d": 1, "_seq": "9"}],
            "old_values": [{"id": 1, "a": 1, "c": True, "_seq": "5"}],
        }
    ]
    assert told((change, Delta.UPDATE), columns=("b", "c"))[0]["old_values"] == [
        {"id": 1, "c": True, "_seq": "5"}
    ]


@pytest.mark.parametrize(
    ("old", "new", "differs"),
    [
        (1, 1.0, True),
        (1, True, True),
        (0.0, -0.0, True),
        ([1], [True], True),
        ({"a": 1}, {"a": 1}, False),
        ("x", "x", False),
        (None, 0, True),
    ],
)
def test_old_values_tell_json_values_apart_not_python_values(
    old: object, new: object, differs: bool
) -> None:
    (message,) = told((changed(2, row(id=1, v=new), row(id=1, v=old), 1), Delta.UPDATE))
    assert ("v" in message["old_values"][0]) is differs


def test_runs_of_the_same_sight_share_a_message() -> None:
    inserts = [(changed(n, row(id=n)), Delta.INSERT) for n in (1, 2)]
    enter = (changed(3, row(id=3), row(id=3, a=1), 1), Delta.ENTER)
    leave = (changed(4, row(id=1), row(id=1), 2), Delta.LEAVE)
    more = (changed(5, row(id=5)), Delta.INSERT)
    kinds = [(m["change_type"], m.get("transition")) for m in told(*inserts, enter, leave, more)]
    assert kinds == [("insert", None), ("insert", "enter"), ("delete", "leave"), ("insert", None)]


def test_a_projection_leads_with_the_key_and_says_null_for_what_a_row_does_not_have() -> None:
    (message,) = told((changed(4, row(a=1, id=7, x=0)), Delta.INSERT), columns=("b", "a"))
    assert list(message["rows"][0].items()) == [("id", 7), ("b", None), ("a", 1), ("_seq", "4")]


def test_a_row_that_leaves_is_told_as_it_was_with_the_seq_that_took_it() -> None:
    (message,) = told((changed(4, row(id=1, a=9), row(id=1, a=1), 2), Delta.LEAVE))
    assert message["old_values"] == [{"id": 1, "a": 1, "_seq": "4"}]


@given(st.lists(st.integers(1, 200_000), min_size=1, max_size=12))
def test_messages_are_split_at_the_bound_and_lose_nothing(sizes: list[int]) -> None:
    builder = BodyBuilder(RowEncoder(TABLE, Projection(None, None)))
    for seq, size in enumerate(sizes, 1):
        builder.add(changed(seq, row(id=seq, pad="x" * size)), Delta.INSERT)
    head = change_head("é" * 128, False)
    bodies = builder.bodies()
    assert all(len(head) + len(body) <= MAX_MESSAGE_BYTES for body in bodies)
    ids = [r["id"] for body in bodies for r in json.loads(b"{" + body)["rows"]]
    assert ids == list(range(1, len(sizes) + 1))


def test_an_empty_row_still_carries_its_seq() -> None:
    assert with_seq(b"{}", 5) == b'{"_seq":"5"}'


@given(
    heads=st.lists(st.text(min_size=1, max_size=128), min_size=1, max_size=4),
    bodies=st.lists(st.integers(0, 70_000).map(lambda n: b"y" * n), min_size=1, max_size=4),
)
def test_every_head_gets_every_body_in_whole_frames(heads: list[str], bodies: list[bytes]) -> None:
    frames = FrameSet(bodies, 1)
    for name in heads:
        head = change_head(name, False)
        expected = b"".join(frame_header(len(head) + len(body)) + head + body for body in bodies)
        assert frames.for_head(head) == expected


@pytest.mark.parametrize(
    ("kind", "known_old", "old_matches", "new_matches", "expected"),
    [
        ("insert", False, False, True, Delta.INSERT),
        ("insert", False, False, False, None),
        ("update", True, True, True, Delta.UPDATE),
        ("update", True, False, True, Delta.ENTER),
        ("update", True, True, False, Delta.LEAVE),
        ("update", True, False, False, None),
        ("update", False, False, True, Delta.UPDATE),
        ("update", False, False, False, None),
        ("delete", True, True, False, Delta.DELETE),
        ("delete", True, False, False, None),
        ("delete", False, False, False, None),
    ],
)
def test_how_a_change_is_seen(
    kind: Any, known_old: bool, old_matches: bool, new_matches: bool, expected: Delta | None
) -> None:
    old = row(id=1) if known_old else None
    change = Change(2, KEYLESS.id, "", kind, None if kind == "delete" else row(id=1), old)
    assert delta(change, old_matches, new_matches) is expected


BIG = 2**53


@pytest.mark.parametrize("columns", [None, ("id", "a", "b")])
def test_integers_that_a_double_cannot_hold_are_text_where_that_is_asked_for(
    columns: tuple[str, ...] | None,
) -> None:
    values = {"id": BIG + 1, "a": -BIG - 1, "b": [BIG, {"c": 2**64 - 1, "d": True}, 1.5, "9" * 20]}
    old = row(**{**values, "a": BIG})
    change = changed(9, row(**values), old, 5)
    projection = Projection.of(columns, TABLE)._replace(bigints_as_text=True)
    builder = BodyBuilder(RowEncoder(TABLE, projection))
    builder.add(change, Delta.UPDATE)
    (body,) = [json.loads(b"{" + body) for body in builder.bodies()]
    nested = [BIG, {"c": str(2**64 - 1), "d": True}, 1.5, "9" * 20]
    assert body["rows"] == [{"id": str(BIG + 1), "a": str(-BIG - 1), "b": nested, "_seq": "9"}]
    assert body["old_values"] == [{"id": str(BIG + 1), "a": BIG, "_seq": "5"}]
    assert projection != Projection.of(columns, TABLE)
