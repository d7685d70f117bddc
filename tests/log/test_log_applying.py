"""Messages make the same of a node's file, however they are grouped and whatever the node's own."""

import itertools
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from log_kit import ORDERS, TABLES, put
from msgspec import structs
from test_log_storing import postings

from kalam_notify.log.nats import node_file
from kalam_notify.log.nats.applying import Applicable, Applying, answers_to
from kalam_notify.log.nats.message import (
    FORMAT_HEADER,
    NOTHING_SEEN,
    Epoch,
    Sync,
    Trim,
    TrimStep,
    decode,
    encode_batches,
    encode_control,
)
from kalam_notify.model import TableDef
from kalam_notify.store import schema
from kalam_notify.store.catalog import Indexes
from kalam_notify.store.rows import TEXT, WITH_TEXT
from kalam_notify.store.storing import Posting

DECLARED = {table.id: table for table in TABLES}
OTHERWISE = {**DECLARED, ORDERS.id: structs.replace(ORDERS, primary_key=("n",))}

controls = st.one_of(
    st.builds(
        lambda upto, tables: Trim(NOTHING_SEEN, (TrimStep(0, upto, tables),)),
        st.integers(1, 30),
        st.one_of(st.none(), st.just((ORDERS.id,))),
    ),
    st.just(Sync(NOTHING_SEEN)),
    st.builds(
        lambda number, base: Epoch(NOTHING_SEEN, number, base),
        st.integers(2, 9),
        st.integers(1, 60),
    ),
)
bodies = st.one_of(
    st.builds(encode_batches, postings, st.sampled_from([DECLARED, DECLARED, OTHERWISE])),
    st.builds(encode_control, controls),
    st.just(b"not one of ours"),
)
# A message, and which earlier one it repeats, as a publisher does that was not answered.
sent = st.lists(st.tuples(bodies, st.one_of(st.none(), st.integers(0, 5))), min_size=1, max_size=10)


def messages(bodies: list[tuple[bytes, int | None]]) -> list[Applicable]:
    said: list[Applicable] = []
    for seq, (body, repeats) in enumerate(bodies, 1):
        mid = f"m{seq}"
        if repeats is not None and repeats < len(said):
            body, mid = bodies[repeats][0], said[repeats].mid
        at = 1_000 + 400_000 * seq
        said.append(Applicable(seq, at, mid, decode({FORMAT_HEADER: "1"}, body), len(body)))
    return said


def applied(
    directory: Path, groups: list[list[Applicable]], declared: dict[Any, TableDef]
) -> tuple[Any, ...]:
    """What a node's file holds, each group having been a transaction, and its answers."""
    path = directory / "node.db"
    node_file.prepare(path, "S")
    connection = schema.open_writer(path, "os")
    applying, indexes = Applying(declared), Indexes()
    answers: dict[str, Any] = {}
    for group in groups:
        connection.execute("BEGIN IMMEDIATE")
        found = applying.apply(connection, indexes, group)
        connection.execute("COMMIT")
        applying.numbers.committed()
        answers |= {answer.mid: answer for answer in found.answers}
    told = {mid: _plain(answer) for mid, answer in answers.items()}
    kept = {answer.mid: _plain(answer) for answer in answers_to(connection, list(answers))}
    # A trim forgets answers, to messages that are old by then.
    assert kept.items() <= told.items()
    contents = _contents(connection)
    connection.close()
    return contents, told


def _plain(answer: Any) -> Any:
    return list(answer.batches), answer.removed


def _contents(connection: sqlite3.Connection) -> list[Any]:
    queries = (
        "SELECT seq, at, name, owner, log.kind, size, old_seq, log.id, row, old"
        " FROM log JOIN tables ON tables.id = tbl ORDER BY seq",
        f"SELECT name, r.owner, r.key, r.seq, {TEXT} FROM rows AS r {WITH_TEXT}"
        " JOIN tables ON tables.id = r.tbl ORDER BY name, r.owner, r.key",
        "SELECT * FROM batch_keys ORDER BY key",
        "SELECT last_seq, bytes, horizon, floor, base FROM state",
        "SELECT * FROM stream",
        "SELECT * FROM messages ORDER BY stream_seq",
    )
    return [connection.execute(query).fetchall() for query in queries]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(bodies=sent, cuts=st.lists(st.integers(1, 4), min_size=10, max_size=10))
def test_how_messages_are_grouped_and_what_a_node_declares_changes_nothing(
    bodies: list[tuple[bytes, int | None]], cuts: list[int]
) -> None:
    said = messages(bodies)
    pieces, rest = [], said
    for size in itertools.cycle(cuts):
        if not rest:
            break
        pieces.append(rest[:size])
        rest = rest[size:]
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        alone = applied(Path(one), [[message] for message in said], {})
        assert applied(Path(other), pieces, OTHERWISE) == alone


def test_a_message_of_the_first_format_is_what_it_was() -> None:
    """A change of these bytes is a new format: nodes of two releases read each other's."""
    body = encode_batches([Posting([put(1, id="a", n=2)], "key")], DECLARED)
    assert body.hex() == RECORDED


RECORDED = (
    "93a1629193aa6170702e6f7264657273a673686172656491a269649193a36b6579919a00a0a169c40e7b226964223a"
    "312c226e223a327dc0a35b315da16190c2c0c0"
)
