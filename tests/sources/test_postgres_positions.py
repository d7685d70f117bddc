"""LSNs, positions, cuts, and what a slot means, as plain functions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalam_notify.sources.postgres.copying import parse_line
from kalam_notify.sources.postgres.positions import (
    Cut,
    Position,
    decode_cut,
    decode_position,
    left_behind,
    lsn_number,
    lsn_text,
    parse_cut,
)
from kalam_notify.sources.postgres.slots import Slot, System, begin_at

HISTORY = "1\t0/3000000\tno recovery target specified\n\n2\t0/5000000\tbefore ...\n"


@given(st.integers(0, 2**64 - 1))
def test_an_lsn_is_a_number_and_a_text(number: int) -> None:
    assert lsn_number(lsn_text(number)) == number


def test_positions_and_cuts_come_out_as_they_went_in() -> None:
    position = Position("7301234567890123456", 3, 2**63, 17, 4)
    assert decode_position(position.encode()) == position
    cut = parse_cut("10:20:10,15,17", 99)
    assert cut == Cut(10, 20, frozenset([10, 15, 17]), 99)
    assert decode_cut(cut.encode()) == cut
    assert parse_cut("5:5:", 1).running == frozenset()


@pytest.mark.parametrize(
    ("xid", "seen"), [(9, True), (10, False), (11, True), (15, False), (19, True), (20, False)]
)
def test_a_cut_sees_what_was_committed_by_then(xid: int, seen: bool) -> None:
    assert parse_cut("10:20:10,15", 99).sees(xid) is seen


def test_transaction_numbers_come_round() -> None:
    epoch = 3 << 32
    cut = Cut(epoch - 5, epoch + 5, frozenset([epoch - 2]), 99)
    assert cut.sees((epoch - 3) % 2**32)
    assert not cut.sees((epoch - 2) % 2**32)
    assert cut.sees(4)
    assert not cut.sees(5)
    assert not cut.sees(1000)


def test_a_server_that_went_another_way_before_a_position_never_had_it() -> None:
    here = Position("s", 1, 0x2000000)
    beyond = Position("s", 1, 0x3000001)
    assert not left_behind(here, 3, HISTORY)
    assert left_behind(beyond, 3, HISTORY)
    assert not left_behind(Position("s", 2, 0x4000000), 3, HISTORY)
    assert left_behind(Position("s", 1, 0x1000000, commit=0x3500000, done=2), 3, HISTORY)
    assert left_behind(Position("s", 7, 1), 3, HISTORY)
    assert not left_behind(Position("s", 3, 0x9000000), 3, HISTORY)


def slot(confirmed: str = "0/1000") -> Slot:
    return Slot("pgoutput", "shop", None, "reserved", confirmed, "shop")


def test_a_stream_goes_on_where_the_slot_still_reaches() -> None:
    told = Position("s", 1, 0x2000, 0x2100, 7)
    begin = begin_at(slot(), told, System("s", 1), "")
    assert (begin.position, begin.why_anew) == (told, None)
    assert begin_at(slot("0/2000"), told, System("s", 1), "").why_anew is None


def test_after_a_failover_it_goes_on_under_the_new_timeline() -> None:
    begin = begin_at(slot(), Position("s", 1, 0x2000), System("s", 3), HISTORY)
    assert (begin.position, begin.why_anew) == (Position("s", 3, 0x2000), None)


@pytest.mark.parametrize(
    ("told", "system"),
    [
        (None, System("s", 1)),
        (Position("other", 1, 0x2000), System("s", 1)),
        (Position("s", 1, 0xFFF), System("s", 1)),
        (Position("s", 1, 0x3000001), System("s", 3)),
    ],
)
def test_otherwise_it_begins_at_the_slots_end(told: Position | None, system: System) -> None:
    begin = begin_at(slot(), told, system, HISTORY)
    assert begin.position == Position("s", system.timeline, 0x1000)
    assert begin.why_anew


@pytest.mark.parametrize(
    ("line", "values"),
    [
        (b"1\tabc\n", [b"1", b"abc"]),
        (b"\\N\t\n", [None, b""]),
        (rb"a\tb\nc\\d\re" + b"\t\\N\n", [b"a\tb\nc\\d\re", None]),
        (rb"\\N" + b"\n", [rb"\N"]),
        (rb"\\x00ff" + b"\n", [rb"\x00ff"]),
        (rb"\b\f\v" + b"\n", [b"\b\f\v"]),
        (b"\n", [b""]),
    ],
)
def test_a_line_of_copy_is_a_row(line: bytes, values: list[bytes | None]) -> None:
    assert parse_line(line) == values
