"""The receiving half of a connection, on a fake clock and a transport moved by hand."""

import json
import zlib
from collections import Counter
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from helpers.budgets import AtOnce
from helpers.transports import FakeTransport
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import State as WireState
from websockets.server import ServerProtocol

from kalam_notify.auth import KeyNotYetKnown
from kalam_notify.budget import Budget
from kalam_notify.config import Config
from kalam_notify.errors import AuthenticationFailed, KeysUnavailable
from kalam_notify.model import Identity, Role, UserId
from kalam_notify.protocol import close
from kalam_notify.sockets.connection import CLOSE_TIMEOUT, PARTING, WebSocketConnection
from kalam_notify.sockets.context import Shared
from kalam_notify.sockets.halves import UNAUTHENTICATED_BYTES, HalfReceived
from kalam_notify.sockets.inbound import Reason
from kalam_notify.sockets.wheel import Wheel

ADDRESS = "192.0.2.1"


class Server:
    """Everything around connections, replaced."""

    def __init__(self, *, anonymous: bool = False) -> None:
        self.now = 1_000_000.0
        self.tokens = {"alice": "alice"}
        self.unknown_keys: set[str] = set()
        self.subscribed: list[str] = []
        self.tasks: list[Coroutine[Any, Any, None]] = []
        self.failures: Counter[str] = Counter()
        self.keys_are_away = False
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.wheel = Wheel(self.clock, tick=0.25)
        config = Config()
        auth = msgspec.structs.replace(config.auth, anonymous=anonymous)
        requests: Any = SimpleNamespace(
            disconnect=lambda _: None,
            drained=lambda _: None,
            connect=lambda _: None,
            identity_changed=lambda _: (),
            subscribe=lambda _, request: iter([self.subscribed.append(request.id)]),
        )
        self.shared = Shared(
            msgspec.structs.replace(config, auth=auth),
            self,
            requests,
            requests,
            requests,
            cast(Budget, AtOnce()),
            clock=self.clock,
            wheel=self.wheel,
            spawn=self.tasks.append,
            later=lambda seconds, call: self.timers.append((self.now + seconds, call)),
        )

    def clock(self) -> float:
        return self.now

    def verify(self, token: str) -> Identity:
        if token in self.unknown_keys:
            raise KeyNotYetKnown("not yet")
        if token not in self.tokens:
            raise AuthenticationFailed("no")
        return Identity(
            user_id=UserId(self.tokens[token]), role=Role.USER, claims={}, expires_at=None
        )

    async def authenticate(self, token: str) -> Identity:
        """The keys are there now, or cannot be had."""
        if self.keys_are_away:
            raise KeysUnavailable
        self.unknown_keys.clear()
        return self.verify(token)

    def finish_tasks(self) -> None:
        for task in self.tasks:
            with pytest.raises(StopIteration):
                task.send(None)
        self.tasks.clear()

    def wait(self, seconds: float) -> None:
        """Let time pass, an eighth of a second at a time."""
        for _ in range(round(seconds * 8)):
            self.now += 0.125
            self.turn()
            self.wheel.turn()

    def turn(self) -> bool:
        """Call back whose time has come; whether there was any."""
        due = [timer for timer in self.timers if timer[0] <= self.now]
        self.timers = [timer for timer in self.timers if timer[0] > self.now]
        for _, call in due:
            call()
        return bool(due)

    def settle(self) -> None:
        while self.turn():
            pass


class Talk:
    """One connection."""

    def __init__(self, server: Server, token: str | None = None, *, deflate: bool = False) -> None:
        self.server = server
        self.wire = ServerProtocol(state=WireState.OPEN)
        if deflate:
            self.wire.extensions = [PerMessageDeflate(True, True, 15, 15)]
        server.shared.by_address[ADDRESS] += 1
        self.connection = WebSocketConnection(server.shared, self.wire, ADDRESS)
        self.transport = FakeTransport(self.connection)
        identity = None if token is None else server.verify(token)
        self.connection.open(self.transport, b"", identity, b"")

    def send(self, *frames: bytes) -> None:
        self.connection.data_received(b"".join(frames))

    def codes(self) -> list[str]:
        """The codes of the errors that were said."""
        return [part.split(b'"')[0].decode() for part in self.transport.sent.split(b'"code":"')[1:]]

    @property
    def close_code(self) -> int | None:
        return None if self.wire.close_sent is None else int(self.wire.close_sent.code)

    @property
    def is_reading(self) -> bool:
        return self.transport.is_reading


@pytest.mark.parametrize("waiting", [b"", b"what was said before"])
def test_the_handshake_and_the_greeting_leave_as_one_piece(waiting: bytes) -> None:
    """In this order, behind what waits in the transport."""
    server = Server()
    wire = ServerProtocol(state=WireState.OPEN)
    server.shared.by_address[ADDRESS] += 1
    connection = WebSocketConnection(server.shared, wire, ADDRESS)
    transport = FakeTransport(connection)
    transport.waiting = waiting
    written: list[bytes] = []
    write = transport.write
    transport.write = lambda data: (written.append(data), write(data))  # type: ignore[method-assign]
    connection.open(transport, b"101\r\n\r\n", server.verify("alice"), b"")
    transport.take()
    assert transport.sent == waiting + b"".join(written)
    assert len(written) == 1
    assert written[0].startswith(b"101\r\n\r\n\x81")
    assert b'"auth_success"' in written[0]


def text(**message: Any) -> bytes:
    return Frame(Opcode.TEXT, json.dumps(message).encode()).serialize(mask=True)


def subscribe(name: str, sql: str = "SELECT * FROM app.orders") -> bytes:
    return text(type="subscribe", subscription={"id": name, "sql": sql})


def authenticate(token: str) -> bytes:
    return text(type="authenticate", method="jwt", token=token)


def ping() -> bytes:
    return Frame(Opcode.PING, b"").serialize(mask=True)


def bomb(size: int) -> bytes:
    """A message that inflates to so many bytes."""
    maker = zlib.compressobj(wbits=-15)
    content = b'{"type":"ping","x":"'.ljust(size - 2, b"x") + b'"}'
    data = (maker.compress(content) + maker.flush(zlib.Z_SYNC_FLUSH))[:-4]
    made = bytearray(Frame(Opcode.TEXT, data).serialize(mask=True))
    made[0] |= 0x40
    return bytes(made)


def part_of_a_message(size: int) -> bytes:
    return Frame(Opcode.TEXT, b"x" * size, fin=False).serialize(mask=True)


@pytest.fixture
def server() -> Server:
    return Server()


# Keys


def test_messages_wait_unheard_while_a_key_is_fetched(server: Server) -> None:
    server.unknown_keys.add("alice")
    talk = Talk(server)
    talk.send(authenticate("alice"), subscribe("one"), subscribe("two"))
    assert not talk.is_reading
    assert server.subscribed == []
    server.finish_tasks()
    assert server.subscribed == ["one", "two"]
    assert talk.is_reading
    assert talk.codes() == []


@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize("is_ending", [False, True])
def test_what_a_client_said_before_it_hung_up_is_not_heard_afterwards(
    server: Server, reason: Reason, is_ending: bool, caplog: pytest.LogCaptureFixture
) -> None:
    talk = Talk(server, "alice")
    talk.connection._gate.hold(reason)
    talk.send(subscribe("one"), subscribe("two"))
    if is_ending:
        # From now on the client's answer is listened for, when the loop comes to it.
        talk.connection.end(close.SHUTTING_DOWN)
    talk.connection.eof_received()
    talk.connection._go_on(reason)
    server.settle()
    assert not caplog.records
    assert server.subscribed == []
    assert talk.connection._inbound.held == 0


def test_a_drained_send_buffer_does_not_wake_who_awaits_a_key(server: Server) -> None:
    server.unknown_keys.add("alice")
    talk = Talk(server)
    talk.transport.room = 0
    talk.send(authenticate("alice"))
    talk.connection.send(b"x" * 100)
    talk.transport.take()
    assert not talk.is_reading
    talk.transport.room = None
    server.finish_tasks()
    assert talk.is_reading


def test_a_key_does_not_wake_who_does_not_read_its_answers(server: Server) -> None:
    server.unknown_keys.add("alice")
    talk = Talk(server)
    talk.transport.room = 0
    talk.send(authenticate("alice"))
    talk.connection.send(b"x" * 300_000)
    server.finish_tasks()
    assert not talk.is_reading
    talk.transport.room = None
    talk.transport.take()
    assert talk.is_reading


def test_nobody_is_timed_out_while_the_server_fetches_a_key(server: Server) -> None:
    server.unknown_keys.add("alice")
    talk = Talk(server)
    talk.send(authenticate("alice"))
    server.wait(60)
    assert talk.close_code is None
    server.finish_tasks()
    server.wait(10)
    assert talk.close_code is None, "the silence was not the client's choice"


def test_whoever_awaits_a_key_that_cannot_be_had_is_closed_and_not_refused(server: Server) -> None:
    server.unknown_keys.add("alice")
    server.keys_are_away = True
    talk = Talk(server)
    talk.send(authenticate("alice"), subscribe("one"))
    server.finish_tasks()
    assert talk.close_code == 1013
    assert b"auth_error" not in talk.transport.sent
    assert server.subscribed == []


def test_a_revoked_token_ends_its_connection_and_is_told(server: Server) -> None:
    talk = Talk(server, "alice")
    talk.connection.token_revoked()
    assert talk.close_code == 1008
    assert b"auth_error" in talk.transport.sent
    talk.connection.token_revoked()


# Work


def test_whoever_makes_too_much_work_is_not_read_until_it_is_paid_off(server: Server) -> None:
    talk = Talk(server, "alice", deflate=True)
    for _ in range(4):
        talk.send(bomb(1 << 20))
        server.settle()
    assert not talk.is_reading
    server.wait(5)
    assert not talk.is_reading
    server.wait(2)
    assert talk.is_reading
    assert talk.close_code is None
    assert talk.codes() == []


def test_what_was_read_already_is_heard_in_time_and_order(server: Server) -> None:
    talk = Talk(server, "alice", deflate=True)
    talk.send(bomb(1 << 20), bomb(1 << 20), bomb(1 << 20), subscribe("behind"))
    server.settle()
    assert server.subscribed == []
    server.wait(2)
    assert server.subscribed == []
    server.wait(4)
    assert server.subscribed == ["behind"]
    assert talk.close_code is None


def test_a_throttled_client_is_not_taken_for_a_silent_one(server: Server) -> None:
    talk = Talk(server, "alice", deflate=True)
    talk.send(*[bomb(1 << 20)] * 40)
    server.wait(70)
    assert not talk.is_reading
    assert talk.close_code is None


def test_others_have_their_turn_within_what_one_has_sent(server: Server) -> None:
    talk = Talk(server, "alice")
    talk.send(*[ping()] * 1000)
    answered = talk.transport.sent.count(b"\x8a\x00")
    assert 0 < answered < 300
    assert not talk.is_reading, "what it sends meanwhile waits in its socket"
    server.settle()
    assert talk.transport.sent.count(b"\x8a\x00") == 1000
    assert talk.is_reading


def test_a_flood_of_messages_is_dropped_and_then_closed(server: Server) -> None:
    talk = Talk(server, "alice")
    talk.send(*[text(type="ping")] * 3000)
    server.settle()
    assert talk.codes() == ["RATE_LIMIT_EXCEEDED"] * 1800
    assert talk.close_code == 1008


@pytest.mark.parametrize("opcode", [Opcode.PING, Opcode.PONG])
def test_a_flood_of_pings_or_pongs_is_closed(server: Server, opcode: Opcode) -> None:
    talk = Talk(server, "alice")
    frame = Frame(opcode, b"").serialize(mask=True)
    for _ in range(25):
        talk.send(frame * 1000)
        server.settle()
    assert talk.close_code == 1008


def test_pongs_that_nobody_reads_stop_the_pings(server: Server) -> None:
    talk = Talk(server, "alice")
    talk.transport.room = 0
    for _ in range(10):
        talk.send(Frame(Opcode.PING, b"x" * 125).serialize(mask=True) * 300)
        server.settle()
    assert not talk.is_reading
    assert len(talk.transport.waiting) < 256 * 1024 + 64 * 1024


# Before authentication


def test_before_authentication_a_message_is_small(server: Server) -> None:
    talk = Talk(server)
    talk.send(text(type="ping", x="x" * UNAUTHENTICATED_BYTES))
    assert talk.close_code == 1009


def test_a_message_right_behind_the_token_may_be_large(server: Server) -> None:
    talk = Talk(server)
    talk.send(authenticate("alice"), text(type="ping", x="x" * 500_000))
    server.settle()
    assert talk.close_code is None


def test_where_nobody_need_authenticate_messages_may_be_large() -> None:
    server = Server(anonymous=True)
    talk = Talk(server)
    talk.send(text(type="ping", x="x" * 500_000))
    server.settle()
    assert talk.close_code is None


def test_a_small_message_that_inflates_counts_as_what_it_inflates_to(server: Server) -> None:
    talk = Talk(server, deflate=True)
    talk.send(bomb(UNAUTHENTICATED_BYTES + 1))
    assert talk.close_code == 1009


def test_who_has_not_authenticated_in_time_is_closed_at_once(server: Server) -> None:
    talk = Talk(server)
    server.wait(3.25)
    assert talk.close_code == 1008
    assert b"auth_error" in talk.transport.sent
    assert talk.transport.is_closed


def test_and_cut_where_it_does_not_take_the_goodbye(server: Server) -> None:
    talk = Talk(server)
    talk.transport.room = 0
    server.wait(3.25)
    talk.transport.is_closed = False  # a transport closes when it has written everything
    server.wait(PARTING + 0.5)
    assert talk.transport.is_closed


@pytest.mark.parametrize(
    "goodbye",
    [authenticate("mallory"), text(type="ping", x="x" * 40_000)],
    ids=["a bad token", "too large a message"],  # masks differ from run to run
)
def test_who_never_authenticated_has_no_longer_to_part_than_to_authenticate(
    server: Server, goodbye: bytes
) -> None:
    talk = Talk(server)
    server.wait(1)
    talk.send(goodbye)
    assert talk.close_code in (1008, 1009)
    server.wait(1.75)
    assert not talk.transport.is_closed or talk.wire.eof_sent
    server.wait(1)
    assert talk.transport.is_closed


def test_who_has_authenticated_has_its_time_to_answer(server: Server) -> None:
    talk = Talk(server, "alice")
    talk.send(text(type="nonsense"))
    assert talk.close_code == 1011
    server.wait(CLOSE_TIMEOUT - 1)
    assert not talk.transport.is_closed
    server.wait(2)
    assert talk.transport.is_closed


def test_the_answer_to_a_close_is_heard_whatever_there_was_against_reading(
    server: Server,
) -> None:
    talk = Talk(server, "alice", deflate=True)
    for _ in range(3):
        talk.send(bomb(1 << 20))
        server.settle()
    assert not talk.is_reading
    talk.connection.end(close.SHUTTING_DOWN)
    assert talk.is_reading
    talk.send(Frame(Opcode.CLOSE, b"\x03\xe9").serialize(mask=True))
    assert talk.transport.is_closed


# What has come in part


def test_what_has_come_in_part_is_counted_until_it_is_whole_or_gone(server: Server) -> None:
    halves = server.shared.half_received
    one, two = Talk(server, "alice"), Talk(server)
    one.send(part_of_a_message(5000))
    two.send(part_of_a_message(3000)[:1000])
    assert 5900 < halves.total < 6100
    one.send(Frame(Opcode.CONT, b"").serialize(mask=True))
    assert halves.total < 1100
    two.connection.connection_lost(None)
    assert (halves.total, len(halves)) == (0, 0)


def test_where_there_is_no_room_those_who_never_authenticated_go_first(server: Server) -> None:
    server.shared.half_received = HalfReceived(100_000)
    strangers = [Talk(server) for _ in range(3)]
    user = Talk(server, "alice")
    for size, stranger in zip((30_000, 20_000, 10_000), strangers, strict=True):
        stranger.send(part_of_a_message(size))
    user.send(part_of_a_message(60_000))
    assert [stranger.close_code for stranger in strangers] == [1013, None, None]
    assert strangers[0].transport.is_closed
    assert strangers[0].connection._inbound.held == 0
    assert user.close_code is None
    assert server.shared.half_received.total == pytest.approx(90_000, abs=100)


def test_unheard_bytes_count_too(server: Server) -> None:
    server.unknown_keys.add("alice")
    talk = Talk(server)
    talk.send(authenticate("alice"), subscribe("x" * 100) * 100)
    assert server.shared.half_received.total > 10_000
    server.finish_tasks()
    server.settle()
    assert server.shared.half_received.total == 0


# The end


def test_a_closed_connection_leaves_nothing_behind(server: Server) -> None:
    talk = Talk(server, "alice", deflate=True)
    talk.send(bomb(1 << 20), bomb(1 << 20), bomb(1 << 20), bomb(1 << 20))
    server.settle()
    talk.connection.connection_lost(None)
    talk.transport.is_closed = True
    server.wait(100)
    assert server.subscribed == []
    assert talk.connection._inbound.held == 0
    assert ADDRESS not in server.shared.by_address
    assert not talk.connection._gate.release(Reason.RATE)
