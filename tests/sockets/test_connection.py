"""A connection by itself, on a fake clock and a transport that takes bytes when told to."""

import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from helpers.budgets import AtOnce
from helpers.transports import FakeTransport
from websockets.frames import Frame, Opcode
from websockets.protocol import State as WireState
from websockets.server import ServerProtocol

from kalam_notify.budget import Budget
from kalam_notify.config import Config
from kalam_notify.model import Identity, Role, UserId
from kalam_notify.protocol.close import SLOW_READER
from kalam_notify.sockets.connection import WebSocketConnection
from kalam_notify.sockets.context import Shared
from kalam_notify.sockets.wheel import Wheel

SLOW = 120.0
FRAME = b"\x81\x02ok"


class Clock:
    """Monotonic seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Conversation:
    """One connection, opened, with everything around it replaced."""

    def __init__(self, direct: bool) -> None:
        self.clock = Clock()
        self.wheel = Wheel(self.clock, tick=0.25)
        config = Config()
        config = msgspec.structs.replace(
            config,
            auth=msgspec.structs.replace(config.auth, anonymous=True),
        )
        nothing: Any = SimpleNamespace(
            disconnect=lambda _: None,
            drained=lambda _: None,
            connect=lambda _: None,
            identity_changed=lambda _: (),
            enter=lambda *_: SimpleNamespace(is_over=True),
        )
        self.shared = Shared(
            config,
            nothing,
            nothing,
            nothing,
            nothing,
            cast(Budget, AtOnce()),
            clock=self.clock,
            wheel=self.wheel,
            spawn=lambda coroutine: coroutine.close(),
            later=lambda seconds, call: None,
        )
        protocol = ServerProtocol(state=WireState.OPEN)
        self.connection = WebSocketConnection(self.shared, protocol, "192.0.2.1")
        ours, self.peer = socket.socketpair()
        self.transport = FakeTransport(self.connection, ours if direct else None)
        self.connection.open(self.transport, b"", None, b"")

    def hear(self) -> None:
        """The client sends something harmless."""
        frame = Frame(Opcode.TEXT, b'{"type":"ping"}').serialize(mask=True)
        self.connection.data_received(frame)

    def wait(self, seconds: float, *, hearing: bool = True) -> None:
        """Let time pass a second at a time, the client answering pings."""
        for _ in range(int(seconds)):
            self.clock.now += 1
            if hearing:
                self.hear()
            self.wheel.turn()

    def close(self) -> None:
        self.peer.close()
        if self.transport._socket is not None:
            self.transport._socket.close()

    def clog(self) -> None:
        """From here on the kernel takes nothing until told to."""
        self.transport.room = 0
        self.connection.complete(FRAME, 0)

    @property
    def close_code(self) -> int | None:
        frame = self.connection._protocol.close_sent
        return None if frame is None else int(frame.code)

    def received(self) -> bytes:
        """Everything that came out at the client's end."""
        self.peer.setblocking(False)
        try:
            return self.peer.recv(1 << 20) + self.transport.sent
        except BlockingIOError:
            return self.transport.sent


@pytest.fixture(params=["descriptor", "transport"])
def talk(request: pytest.FixtureRequest) -> Iterator[Conversation]:
    """A connection whose bytes go straight to its descriptor, and one under TLS."""
    talk = Conversation(direct=request.param == "descriptor")
    yield talk
    talk.close()


def test_frames_held_for_the_next_flush_are_no_sign_of_a_slow_reader(talk: Conversation) -> None:
    """The wheel may come by between holding a frame and flushing it, however often."""
    for _ in range(200):
        talk.connection.hold(FRAME)
        talk.wait(1, hearing=False)
        talk.connection.flush()
        talk.hear()
    assert talk.close_code is None
    assert talk.received().count(FRAME) == 200


def test_a_wheel_visit_between_hold_and_flush_closes_nobody(talk: Conversation) -> None:
    talk.wait(10)
    talk.connection.hold(FRAME)
    talk.connection.on_deadline(talk.clock())
    assert talk.close_code is None


def test_a_refreshed_token_while_a_frame_is_held_closes_nobody(talk: Conversation) -> None:
    connection = talk.connection
    connection.hold(FRAME)
    connection._verified(Identity(user_id=UserId("u"), role=Role.USER, claims={}, expires_at=None))
    talk.wait(30, hearing=False)
    connection.flush()
    assert talk.close_code is None


def test_a_socket_that_takes_no_byte_for_the_timeout_is_closed(talk: Conversation) -> None:
    talk.clog()
    talk.wait(SLOW - 2)
    assert talk.close_code is None
    talk.wait(SLOW / 4 + 3)
    assert talk.close_code == SLOW_READER.code


def test_a_socket_that_takes_a_byte_now_and_then_is_not_closed(talk: Conversation) -> None:
    talk.clog()
    talk.connection.offer(FRAME * 100)
    for _ in range(10):
        talk.wait(SLOW - 40)
        talk.transport.take(1)
    assert talk.close_code is None


def test_the_time_before_bytes_waited_is_not_held_against_a_client(talk: Conversation) -> None:
    """Once blocked, drained, and blocked anew long after: the silence between does not count."""
    talk.clog()
    talk.transport.take()
    talk.wait(3 * SLOW)
    talk.clog()
    talk.connection.hold(FRAME)
    talk.wait(5)
    assert talk.close_code is None
