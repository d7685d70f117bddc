"""From messages to events, without a database: order, pieces, positions, cuts."""

import io
from collections.abc import Iterable, Sequence

import pytest
import wal_bytes as wal

from kalam_notify.model import PostedChange, TableId
from kalam_notify.model.changes import MovedRow
from kalam_notify.sources.base import Altered, Event, Piece, Truncated, size_of
from kalam_notify.sources.postgres import transactions as module
from kalam_notify.sources.postgres.catalogue import Facts, PgTable, describe
from kalam_notify.sources.postgres.pgoutput import UNCHANGED, Value
from kalam_notify.sources.postgres.positions import Cut, Position, decode_position
from kalam_notify.sources.postgres.transactions import Rest, Transactions
from kalam_notify.sources.postgres.values import Codecs, TypeInfo

INT, TEXT = 23, 25
CODECS = Codecs(
    {
        INT: TypeInfo(INT, "int4", "b", 0, -1, 0, ","),
        TEXT: TypeInfo(TEXT, "text", "b", 0, -1, 0, ","),
    }
)
T, H = 900, 901
COLUMNS = [("id", INT, -1, True), ("v", TEXT, -1, False)]
NAME = TableId("public.t")


def table(oid: int, name: str, key: Sequence[str]) -> PgTable:
    columns = [[1, "id", INT, -1, "", None], [2, "v", TEXT, -1, "", None]]
    keys = [[True, True, list(key)]] if key else None
    facts = Facts(oid, "public", name, "r", "d", 1, True, True, False, columns, keys)
    found = describe(facts, CODECS, {("public", name): (None, None)}, tells_generated=False)
    assert isinstance(found, PgTable)
    return found


class Stream:
    """A stream that is fed messages, with everything that came of them."""

    def __init__(
        self,
        position: Position | None = None,
        cut: Cut | None = None,
        largest: int | None = None,
    ) -> None:
        begin = position or Position("sys", 1, 0)
        self.transactions = Transactions(begin, io.BytesIO, largest)
        cuts = {} if cut is None else {NAME: cut}
        self.transactions.know([table(T, "t", ["id"]), table(H, "h", [])], cuts)
        self.events: list[Event] = []
        self.feed(wal.relation(T, "t", COLUMNS), wal.relation(H, "h", COLUMNS))

    def feed(self, *messages: bytes) -> "Stream":
        for message in messages:
            told = self.transactions.feed(message)
            self.events += (event for event in told if not isinstance(event, Rest))
        return self

    @property
    def pieces(self) -> list[Piece]:
        return [event for event in self.events if isinstance(event, Piece)]

    def told(self) -> list[str]:
        return [shown(change) for piece in self.pieces for change in piece.changes]


def shown(change: PostedChange) -> str:
    row = change.row or change.old
    assert row is not None
    return f"{change.kind} {row.json.decode()}"


def row(id: int, v: Value = b"x") -> list[Value]:
    return [str(id).encode(), v]


def inserts(ids: Iterable[int], subxid: int | None = None) -> list[bytes]:
    return [wal.insert(T, row(id), subxid) for id in ids]


def test_a_transaction_is_told_at_its_commit_with_the_position_behind_it() -> None:
    stream = Stream().feed(wal.begin(100, 7), *inserts([1, 2]))
    assert stream.pieces == []
    stream.feed(wal.commit(100, 120))
    assert stream.told() == ['insert {"id":1,"v":"x"}', 'insert {"id":2,"v":"x"}']
    assert decode_position(stream.pieces[0].position) == Position("sys", 1, 120)


def test_an_empty_transaction_moves_the_position_and_tells_nothing() -> None:
    stream = Stream().feed(wal.begin(100, 7), wal.commit(100, 120))
    assert stream.pieces == []
    assert stream.transactions.position.lsn == 120


def test_changes_of_tables_that_are_not_followed_are_counted_and_not_told() -> None:
    stream = Stream().feed(wal.begin(100, 7), wal.insert(999, row(1)), *inserts([2]))
    stream.feed(wal.truncate([T]))
    [piece, truncated] = stream.events
    assert isinstance(piece, Piece)
    assert isinstance(truncated, Truncated)
    assert decode_position(piece.position) == Position("sys", 1, 0, 100, 2)
    assert decode_position(truncated.position) == Position("sys", 1, 0, 100, 3)


def test_a_long_transaction_is_told_in_pieces_that_say_how_far_they_came() -> None:
    stream = Stream().feed(wal.begin(100, 7), *inserts(range(4500)), wal.commit(100, 120))
    assert [len(piece.changes) for piece in stream.pieces] == [2000, 2000, 500]
    assert [decode_position(piece.position) for piece in stream.pieces] == [
        Position("sys", 1, 0, 100, 2000),
        Position("sys", 1, 0, 100, 4000),
        Position("sys", 1, 120),
    ]


@pytest.mark.parametrize("piece", [0, 1])
def test_a_stream_goes_on_behind_the_piece_that_was_stored(piece: int) -> None:
    messages = [wal.begin(100, 7), *inserts(range(4500)), wal.commit(100, 120)]
    first = Stream().feed(*messages)
    stored = decode_position(first.pieces[piece].position)
    again = Stream(stored).feed(*messages)
    assert first.told()[: 2000 * (piece + 1)] + again.told() == first.told()


def test_of_another_transaction_nothing_is_left_out() -> None:
    stream = Stream(Position("sys", 1, 0, 100, 2))
    stream.feed(wal.begin(90, 6), *inserts([1, 2, 3]), wal.commit(90, 95))
    assert len(stream.told()) == 3


def test_a_streamed_transaction_is_told_at_its_commit_in_its_order() -> None:
    stream = Stream().feed(
        wal.stream_start(7),
        wal.relation(T, "t", COLUMNS, subxid=7),
        *inserts([1], subxid=7),
        *inserts([2], subxid=8),
        wal.stream_stop(),
        # Another one is committed in between.
        wal.begin(50, 9),
        *inserts([50]),
        wal.commit(50, 60),
        wal.stream_start(7, first=False),
        *inserts([3], subxid=8),
        wal.stream_stop(),
    )
    assert stream.told() == ['insert {"id":50,"v":"x"}']
    stream.feed(wal.stream_commit(7, 100, 120))
    assert stream.told()[1:] == [f'insert {{"id":{id},"v":"x"}}' for id in (1, 2, 3)]
    assert decode_position(stream.pieces[-1].position) == Position("sys", 1, 120)


def test_what_a_subtransaction_undid_is_not_told() -> None:
    stream = Stream().feed(
        wal.stream_start(7),
        *inserts([1], subxid=7),
        *inserts([2], subxid=8),
        *inserts([3], subxid=9),
        wal.stream_stop(),
        wal.stream_abort(7, 8),
        wal.stream_commit(7, 100, 120),
    )
    assert stream.told() == [f'insert {{"id":{id},"v":"x"}}' for id in (1, 3)]


def test_a_streamed_transaction_that_is_undone_leaves_nothing() -> None:
    files: list[io.BytesIO] = []

    def open_file() -> io.BytesIO:
        files.append(io.BytesIO())
        return files[-1]

    stream = Stream()
    stream.transactions._open_file = open_file
    stream.feed(wal.stream_start(7), *inserts([1], subxid=7), wal.stream_stop())
    stream.feed(wal.stream_abort(7, 7))
    assert stream.told() == []
    assert [file.closed for file in files] == [True]


def test_a_streamed_transaction_is_gone_on_from_the_middle_too() -> None:
    messages = [
        wal.stream_start(7), *inserts(range(3000), subxid=7), wal.stream_stop(),
        wal.stream_commit(7, 100, 120),
    ]  # fmt: skip
    first = Stream().feed(*messages)
    again = Stream(decode_position(first.pieces[0].position)).feed(*messages)
    assert len(again.told()) == 1000
    # Whether PostgreSQL streams it or not: the changes are the same ones.
    plain = Stream(decode_position(first.pieces[0].position))
    plain.feed(wal.begin(100, 7), *inserts(range(3000)), wal.commit(100, 120))
    assert plain.told() == again.told()


def test_what_a_copy_has_seen_is_not_told_of_its_table() -> None:
    # It has seen 5 and 7, and not 6, which was running, nor 8.
    stream = Stream(cut=Cut(6, 8, frozenset([6]), upto=200))
    for number, xid in enumerate((5, 6, 7, 8)):
        lsn = 100 + 10 * number
        stream.feed(wal.begin(lsn, xid), *inserts([xid]), wal.insert(H, row(xid)))
        stream.feed(wal.commit(lsn, lsn + 5))
    keyed = [text for piece in stream.pieces for text in map(shown, piece.changes)]
    assert sorted(keyed) == sorted([f'insert {{"id":{xid},"v":"x"}}' for xid in (5, 6, 6, 7, 8, 8)])


def test_behind_the_cut_every_transaction_is_told_whatever_its_number() -> None:
    stream = Stream(cut=Cut(6, 8, frozenset(), upto=200))
    stream.feed(wal.begin(200, 5), *inserts([1]), wal.commit(200, 205))
    assert len(stream.told()) == 1


def test_a_relation_that_is_not_as_it_was_is_an_event_before_its_changes() -> None:
    stream = Stream().feed(wal.begin(100, 7), *inserts([1]))
    stream.feed(wal.relation(T, "t", [*COLUMNS, ("c", INT, -1, False)]))
    assert isinstance(stream.events[-1], Altered)
    assert len(stream.told()) == 1


def test_what_waits_when_tables_change_is_told_before_and_not_behind_their_copies() -> None:
    """They may do so amid a transaction that has long been committed, and copies see it whole."""
    stream = Stream().feed(wal.begin(100, 7), *inserts([1, 2]))
    piece, altered = stream.transactions.altered()
    assert isinstance(piece, Piece)
    assert isinstance(altered, Altered)
    assert [shown(change) for change in piece.changes] == [
        'insert {"id":1,"v":"x"}',
        'insert {"id":2,"v":"x"}',
    ]
    assert decode_position(piece.position) == Position("sys", 1, 0, 100, 2)
    seen = Cut(8, 8, frozenset(), upto=200)
    stream.transactions.know([table(T, "t", ["id"]), table(H, "h", [])], {NAME: seen})
    stream.feed(*inserts([3]), wal.insert(H, row(4)), wal.commit(100, 120))
    assert stream.told() == ['insert {"id":4,"v":"x"}']
    assert [type(event) for event in stream.transactions.altered()] == [Altered]


def test_a_table_that_gets_another_name_or_type_is_not_as_it_was() -> None:
    for changed in (
        wal.relation(T, "u", COLUMNS),
        wal.relation(T, "t", [("id", TEXT, -1, True), COLUMNS[1]]),
        wal.relation(T, "t", COLUMNS[:1]),
    ):
        assert isinstance(Stream().feed(wal.begin(100, 7), changed).events[-1], Altered)


def test_an_update_leaves_open_what_it_left_unchanged() -> None:
    stream = Stream().feed(
        wal.begin(100, 7), wal.update(T, row(1, UNCHANGED)), wal.commit(100, 105)
    )
    [change] = stream.pieces[0].changes
    assert not isinstance(change, MovedRow)
    assert (change.unchanged, change.key) == (("v",), "[1]")


def test_an_update_of_the_key_is_a_delete_and_an_insert() -> None:
    stream = Stream().feed(
        wal.begin(100, 7), wal.update(T, row(2), [b"1", None]), wal.commit(100, 105)
    )
    assert stream.told() == ['delete {"id":1}', 'insert {"id":2,"v":"x"}']


def test_an_update_of_the_key_takes_long_values_along_while_they_are_there() -> None:
    stream = Stream().feed(
        wal.begin(100, 7), wal.update(T, row(2, UNCHANGED), [b"1", None]), wal.commit(100, 105)
    )
    [new, gone] = stream.pieces[0].changes
    assert isinstance(new, MovedRow)
    assert (new.key, new.base, new.unchanged, gone.kind) == ("[2]", "[1]", ("v",), "delete")


def test_unchanged_values_come_from_a_full_old_row_where_it_is_told() -> None:
    stream = Stream().feed(
        wal.begin(100, 7), wal.update(T, row(1, UNCHANGED), row(1, b"old"), b"O"),
        wal.update(H, row(3, UNCHANGED), row(1, b"old"), b"O"), wal.commit(100, 105),
    )  # fmt: skip
    assert stream.told() == ['update {"id":1,"v":"old"}', 'update {"id":3,"v":"old"}']
    assert [change.old is None for change in stream.pieces[0].changes] == [True, False]


def test_a_piece_is_no_larger_than_the_log_takes_and_is_gone_on_from() -> None:
    told = [
        wal.begin(100, 7),
        *(wal.insert(T, row(id, b"y" * length)) for id, length in enumerate((10, 900, 900, 5, 9))),
        wal.commit(100, 105),
    ]
    stream = Stream(largest=1300).feed(*told)
    sizes = [sum(map(size_of, piece.changes)) for piece in stream.pieces]
    assert [len(piece.changes) for piece in stream.pieces] == [1, 1, 1, 2]
    assert max(sizes) <= 1300
    # Whichever piece was the last to be stored, what follows on it is told, and nothing twice.
    for number, piece in enumerate(stream.pieces):
        rest = Stream(decode_position(piece.position)).feed(*told)
        after = [shown(change) for one in stream.pieces[number + 1 :] for change in one.changes]
        assert rest.told() == (after if number < 3 else stream.told())


def test_memory_is_bounded_in_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE_BYTES", 10_000)
    stream = Stream().feed(
        wal.begin(100, 7), *(wal.insert(T, row(id, b"y" * 3000)) for id in range(9))
    )
    stream.feed(wal.commit(100, 105))
    assert [len(piece.changes) for piece in stream.pieces] == [3, 3, 3]
