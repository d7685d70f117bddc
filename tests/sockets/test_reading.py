"""One owner of reading: reasons against it, and none."""

import itertools

import pytest
from helpers.transports import FakeTransport

from kalam_notify.sockets.inbound import ReadingGate, Reason


@pytest.fixture
def transport() -> FakeTransport:
    return FakeTransport(None)


@pytest.fixture
def gate(transport: FakeTransport) -> ReadingGate:
    return ReadingGate(transport)


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(Reason, 2)))
def test_reading_goes_on_when_no_reason_is_left(
    gate: ReadingGate, transport: FakeTransport, first: Reason, second: Reason
) -> None:
    gate.hold(first)
    gate.hold(second)
    assert not gate.release(first)
    assert not transport.is_reading
    assert gate.holds(second)
    assert gate.release(second)
    assert transport.is_reading
    assert gate.is_open


def test_a_reason_held_twice_is_one_reason(gate: ReadingGate, transport: FakeTransport) -> None:
    gate.hold(Reason.RATE)
    gate.hold(Reason.RATE)
    assert gate.release(Reason.RATE)
    assert transport.is_reading


def test_releasing_what_is_not_held_wakes_nobody(
    gate: ReadingGate, transport: FakeTransport
) -> None:
    assert not gate.release(Reason.SEND_BUFFER)
    gate.hold(Reason.KEY)
    assert not gate.release(Reason.SEND_BUFFER)
    assert not transport.is_reading


def test_all_reasons_can_be_dropped_at_once(gate: ReadingGate, transport: FakeTransport) -> None:
    assert not gate.release_all()
    gate.hold(Reason.RATE)
    gate.hold(Reason.SEND_BUFFER)
    assert gate.release_all()
    assert transport.is_reading


def test_a_shut_gate_stays_shut(gate: ReadingGate, transport: FakeTransport) -> None:
    gate.hold(Reason.RATE)
    gate.shut()
    assert not gate.release(Reason.RATE)
    assert not gate.release_all()
    assert not gate.is_open


def test_a_closing_transport_is_left_alone(gate: ReadingGate, transport: FakeTransport) -> None:
    transport.is_closed = True
    gate.hold(Reason.KEY)
    assert transport.is_reading
    assert not gate.release(Reason.KEY)
