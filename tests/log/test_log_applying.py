"""Messages make the same of a node's file, however they are grouped and whatever the node's own."""

import itertools
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from log_kit import ORDERS, TABLES, put
from msgspec import structs
from test_log_storing import postings

from kalam_notify.log.nats import node_file
from kalam_notify.log.nats.applying import (
    OVERTAKEN,
    Applicable,
    Applying,
    answers_to,
    read_sources,
)
from kalam_notify.log.nats.message import (
    FORMAT_HEADER,
    NOTHING_SEEN,
    Batches,
    Epoch,
    Sync,
    Trim,
    TrimStep,
    decode,
    encode_batches,
    encode_control,
)
from kalam_notify.model import TableDef
from kalam_notify.model.changes import Appended
from kalam_notify.model.sourced import SourceMark, SourceState
from kalam_notify.store import schema
from kalam_notify.store.rows import TEXT, WITH_TEXT, Indexes
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
        "SELECT * FROM source_marks ORDER BY source",
        "SELECT * FROM source_positions ORDER BY source",
        "SELECT * FROM source_tables ORDER BY source, name",
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


def test_a_mark_without_a_name_is_what_it_was_and_is_read_as_it_was() -> None:
    """What is written of a mark since it can have one stands behind what was written before."""
    old = encode_batches([Posting([], None, SourceMark("shop", "7"))], DECLARED)
    new = encode_batches([Posting([], None, marked("", "a", "7"))], DECLARED)
    assert old.hex() == RECORDED_MARK
    assert new == old.replace(b"\x95\xa4shop", b"\x97\xa4shop") + b"\xa0\xa1a"
    assert _marks(old) == [SourceMark("shop", "7")]
    assert _marks(new) == [marked("", "a", "7")]


RECORDED_MARK = "93a162909193c09095a473686f70a137909090"


def _marks(body: bytes) -> list[SourceMark | None]:
    read = decode({FORMAT_HEADER: "1"}, body)
    assert isinstance(read, Batches)
    return [posting.mark for posting in read.postings]


def marked(follows: str, id: str, position: str | None = None, source: str = "shop") -> SourceMark:
    return SourceMark(source, position, follows=follows, id=id)


def _told(
    tmp_path: Path, *messages_: list[Posting], groups: list[int] | None = None
) -> tuple[Any, ...]:
    """What a node makes of messages of these batches; `groups`: how many in each transaction."""
    said = messages([(encode_batches(batches, DECLARED), None) for batches in messages_])
    pieces, rest = [], said
    for size in groups or [1] * len(said):
        pieces.append(rest[:size])
        rest = rest[size:]
    tmp_path.mkdir(exist_ok=True)
    contents, told = applied(tmp_path, pieces, {})
    return contents, [answers for answers, _ in told.values()]


def test_a_batch_that_does_not_follow_on_the_last_one_of_its_source_is_refused(
    tmp_path: Path,
) -> None:
    """Two nodes followed a source at once: one was frozen, and has come back."""
    first = [Posting([put(1)], None, marked("", "a1", "1"))]
    taken_over = [Posting([], None, marked("a1", "b1"))]
    goes_on = [Posting([put(2, by="b")], None, marked("b1", "b2", "2"))]
    stale = [
        # Its definition and its position are refused with it.
        Posting(
            [put(2, by="a")],
            None,
            structs.replace(marked("a1", "a2", "2"), defined=((ORDERS.id, "as a sees it"),)),
        ),
        # What follows on what is refused is refused, too; what is not of the source is not.
        Posting([put(3)], None, marked("a2", "a3", "3")),
        Posting([put(4)], None),
        Posting([put(5)], None, marked("", "c1", "1", source="mill")),
    ]
    contents, told = _told(tmp_path, first, taken_over, goes_on, stale)
    assert told[3] == [OVERTAKEN, OVERTAKEN, Appended(1, 0, 3, 3), Appended(1, 0, 4, 4)]
    with closing(schema.open_writer(tmp_path / "node.db", "os")) as connection:
        states = read_sources(connection)
    assert states == {"shop": SourceState("2", {}, "b2"), "mill": SourceState("1", {}, "c1")}
    # However a node groups the messages.
    for number, groups in enumerate(([4], [1, 3], [3, 1], [2, 2])):
        at = tmp_path / str(number)
        assert _told(at, first, taken_over, goes_on, stale, groups=groups) == (contents, told)


def test_a_batch_that_was_sent_a_second_time_is_stored_once(tmp_path: Path) -> None:
    """Whoever did not hear what became of a batch sends it again, as another message."""
    one = [Posting([put(1)], None, marked("", "a1", "1"))]
    other = [Posting([put(2)], None, marked("a1", "a2", "2"))]
    _, told = _told(tmp_path, one, other, one, other)
    assert told == [[Appended(1, 0, 1, 1)], [Appended(1, 0, 2, 2)], [OVERTAKEN], [OVERTAKEN]]


def test_a_batch_whose_table_is_refused_leaves_no_mark(tmp_path: Path) -> None:
    said = [
        (encode_batches([Posting([put(1)], None)], DECLARED), None),
        (encode_batches([Posting([put(2)], None, marked("", "a1"))], OTHERWISE), None),
        (encode_batches([Posting([put(3)], None, marked("", "b1"))], DECLARED), None),
    ]
    _, told = applied(tmp_path, [[message] for message in messages(said)], {})
    assert "primary key" in told["m2"][0][0]
    assert told["m3"][0] == [Appended(1, 0, 2, 2)]
