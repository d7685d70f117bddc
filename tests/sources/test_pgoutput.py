"""The decoder by itself: bytes in, messages out."""

import contextlib

import pytest
import wal_bytes as wal
from hypothesis import given
from hypothesis import strategies as st

from kalam_notify.sources.postgres.pgoutput import (
    EPOCH,
    UNCHANGED,
    Begin,
    Commit,
    Decoder,
    Delete,
    Insert,
    NotPgoutput,
    Relation,
    RelationColumn,
    StreamAbort,
    StreamCommit,
    StreamStart,
    StreamStop,
    Truncate,
    Update,
    subxid_of,
)

AT = wal.MICROSECONDS / 1e6 + EPOCH


def test_a_transaction_begins_and_ends_with_its_lsns_and_its_time() -> None:
    decoder = Decoder()
    assert decoder.decode(wal.begin(0x1_0000_0010, 7)) == Begin(0x1_0000_0010, AT, 7)
    assert decoder.decode(wal.commit(16, 32)) == Commit(16, 32, AT)


def test_a_relation_tells_its_columns_types_and_identity() -> None:
    data = wal.relation(9, "Us er", [("id", 23, -1, True), ("größe", 1700, 655366, False)])
    columns = (RelationColumn("id", 23, -1, True), RelationColumn("größe", 1700, 655366, False))
    assert Decoder().decode(data) == Relation(9, "public", "Us er", "d", columns)


def test_an_empty_namespace_is_the_catalogues() -> None:
    message = Decoder().decode(wal.relation(9, "t", [], namespace=""))
    assert isinstance(message, Relation)
    assert message.namespace == "pg_catalog"


def test_values_are_texts_nulls_and_what_was_left_unchanged() -> None:
    row = [b"1", None, UNCHANGED, b"", "ä\n".encode()]
    assert Decoder().decode(wal.insert(9, row)) == Insert(9, row)


def test_an_update_tells_its_old_row_its_old_key_or_neither() -> None:
    decode = Decoder().decode
    assert decode(wal.update(9, [b"1"])) == Update(9, None, False, [b"1"])
    assert decode(wal.update(9, [b"2"], [b"1"])) == Update(9, [b"1"], True, [b"2"])
    assert decode(wal.update(9, [b"2"], [b"1"], b"O")) == Update(9, [b"1"], False, [b"2"])


def test_a_delete_tells_its_old_row_or_its_old_key() -> None:
    decode = Decoder().decode
    assert decode(wal.delete(9, [b"1", None])) == Delete(9, [b"1", None], True)
    assert decode(wal.delete(9, [b"1", b"x"], b"O")) == Delete(9, [b"1", b"x"], False)


def test_a_truncate_names_every_table() -> None:
    assert Decoder().decode(wal.truncate([9, 10])) == Truncate((9, 10))


def test_messages_of_a_streamed_transaction_carry_their_subtransaction() -> None:
    decoder = Decoder()
    assert decoder.decode(wal.stream_start(7)) == StreamStart(7)
    row = [b"1"]
    assert decoder.decode(wal.insert(9, row, subxid=8)) == Insert(9, row)
    assert decoder.decode(wal.update(9, row, subxid=8)) == Update(9, None, False, row)
    assert decoder.decode(wal.delete(9, row, subxid=8)) == Delete(9, row, True)
    assert decoder.decode(wal.truncate([9], subxid=8)) == Truncate((9,))
    named = decoder.decode(wal.relation(9, "t", [], subxid=8))
    assert named == Relation(9, "public", "t", "d", ())
    assert subxid_of(wal.insert(9, row, subxid=8)) == 8
    assert decoder.decode(wal.stream_stop()) == StreamStop()
    assert decoder.decode(wal.insert(9, row)) == Insert(9, row)
    assert decoder.decode(wal.stream_abort(7, 8)) == StreamAbort(7, 8)
    assert decoder.decode(wal.stream_commit(7, 16, 32)) == StreamCommit(7, 16, 32, AT)


def test_messages_that_say_nothing_of_rows_are_passed_over() -> None:
    decoder = Decoder()
    assert [decoder.decode(data) for data in (b"Oxxxxxxxxname\0", b"Yxxxx", b"Mxxxx")] == [None] * 3


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"?",
        b"B123",
        wal.insert(9, [b"12345"])[:-2],
        wal.insert(9, [b"1"]).replace(b"N", b"X", 1),
        wal.insert(9, [b"1"]).replace(b"t", b"b", 1),
        wal.relation(9, "name", [("id", 23, -1, True)])[:-3],
        wal.truncate([9, 10])[:-1],
    ],
)
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    with pytest.raises(NotPgoutput):
        Decoder().decode(data)


@given(st.binary(max_size=80))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    with contextlib.suppress(NotPgoutput):
        Decoder().decode(data)


@given(st.lists(st.one_of(st.none(), st.binary(max_size=300), st.just(UNCHANGED)), max_size=40))
def test_every_row_comes_out_as_it_went_in(row: list[bytes | None]) -> None:
    assert Decoder().decode(wal.insert(1, row)) == Insert(1, row)
