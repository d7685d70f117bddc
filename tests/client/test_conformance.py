"""The scenarios of clients/conformance, which the JavaScript client plays as well."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from kalam_notify.client import Backoff, Client, ConnectionLost, Live, Subscription, connect
from kalam_notify.errors import AuthenticationFailed, KalamNotifyError, SubscriptionRefused

SCENARIOS = json.loads(
    (Path(__file__).parents[2] / "clients/conformance/scenarios.json").read_text()
)
SECONDS = 10.0
# Long enough for a client that comes back at once, as the back-off of these tests has it.
STAYS_AWAY_SECONDS = 0.3

Message = dict[str, Any]


class Referee:
    """The fake server: takes connections, and has the scenario's words in its mouth."""

    def __init__(self) -> None:
        self.sockets: asyncio.Queue[ServerConnection] = asyncio.Queue()
        # Handshakes that have come, and what the scenario answers them: None, or a refusal.
        self.handshakes: asyncio.Queue[ServerConnection] = asyncio.Queue()
        self.verdicts: asyncio.Queue[tuple[int, str] | None] = asyncio.Queue()
        self.url = ""

    async def judge(self, socket: ServerConnection, request: Request) -> Response | None:
        self.handshakes.put_nowait(socket)
        verdict = await self.verdicts.get()
        if verdict is None:
            return None
        status, reason = verdict
        return socket.respond(status, json.dumps({"error": {"message": reason}}))

    async def answer(self, verdict: tuple[int, str] | None) -> None:
        await self.handshakes.get()
        self.verdicts.put_nowait(verdict)

    async def take(self, socket: ServerConnection) -> None:
        self.sockets.put_nowait(socket)
        await socket.wait_closed()


@asynccontextmanager
async def referee() -> AsyncIterator[Referee]:
    it = Referee()
    async with serve(
        it.take, "127.0.0.1", 0, process_request=it.judge, close_timeout=1
    ) as listener:
        port = next(iter(listener.sockets)).getsockname()[1]
        it.url = f"http://127.0.0.1:{port}"
        yield it


class Player:
    """One scenario against the Python client."""

    def __init__(self, referee: Referee, subscription: Subscription) -> None:
        self.referee, self.subscription = referee, subscription
        self.socket: ServerConnection | None = None
        self.id = ""
        self.fault: KalamNotifyError | None = None
        self.moved = asyncio.Condition()

    async def read(self) -> None:
        """Read the events as an application would; the view follows."""
        try:
            async for _ in self.subscription:
                async with self.moved:
                    self.moved.notify_all()
        except KalamNotifyError as fault:
            self.fault = fault
        async with self.moved:
            self.moved.notify_all()

    async def step(self, step: Mapping[str, Any]) -> None:
        match step:
            case {"accept": True}:
                await self.referee.answer(None)
                self.socket = await self.referee.sockets.get()
            case {"refuse": status}:
                await self.referee.answer((status, step["reason"]))
            case {"hear": expected}:
                await self._hear(expected, step.get("without", ()))
            case {"say": message}:
                text = json.dumps(message).replace('"$q"', json.dumps(self.id))
                await self._socket.send(text)
            case {"end": code}:
                await self._end(code, step.get("reason", ""))
            case {"rows": expected}:
                await self._until(lambda: _sorted(self.rows()) == _sorted(expected))
            case {"fails": expected}:
                await self._until(lambda: self.fault is not None)
                assert _told(self.fault) == expected
            case {"stays_away": True}:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(self.referee.handshakes.get(), STAYS_AWAY_SECONDS)
            case _:
                raise AssertionError(step)

    def rows(self) -> Any:
        return self.subscription.view

    @property
    def _socket(self) -> ServerConnection:
        assert self.socket is not None
        return self.socket

    async def _hear(self, expected: Message, without: list[str]) -> None:
        heard = json.loads(await self._socket.recv())
        self.id = heard.get("subscription", heard).get("id", self.id)
        assert _covers(_plain(heard, self.id), _plain(expected)), (heard, expected)
        assert not set(without) & set((heard["subscription"]["options"] or {}) if without else ())

    async def _end(self, code: int, reason: str) -> None:
        if code == 1006:
            # Not mid-message: what was said before has arrived.
            await self._socket.ping()
            self._socket.transport.close()
        else:
            await self._socket.close(code, reason)

    async def _until(self, holds: Any) -> None:
        async with self.moved:
            await self.moved.wait_for(holds)


class LivePlayer(Player):
    """One scenario against a live view of `connect`."""

    def __init__(self, referee: Referee, live: Live[Any]) -> None:
        self.live = live
        super().__init__(referee, None)  # type: ignore[arg-type]

    def rows(self) -> Any:
        return self.live.rows if self.live.status == "live" else ()

    async def _until(self, holds: Any) -> None:
        def is_so(_: object) -> object:
            self.fault = self.live.error
            return holds()

        try:
            await self.live.until(is_so)
        except KalamNotifyError:
            assert is_so(())


def _sorted(rows: Any) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


def _told(fault: KalamNotifyError | None) -> Message:
    match fault:
        case SubscriptionRefused(code=code):
            return {"code": code}
        case ConnectionLost(code=403):
            return {"refused": 403}
        case ConnectionLost(code=code):
            return {"close": code}
        case AuthenticationFailed(message=message) if "handshake: 401" in message:
            return {"refused": 401}
        case AuthenticationFailed(message=message):
            return {"authentication": message}
    raise AssertionError(fault)


def _plain(value: Any, id: str = "$q") -> Any:
    """Seqs may be numbers or decimal strings; a query's id is its client's own."""
    if isinstance(value, dict):
        return {name: _plain_field(name, field, id) for name, field in value.items()}
    return value


def _plain_field(name: str, value: Any, id: str) -> Any:
    if name in ("from", "last_seq_id"):
        return str(value)
    if name == "subscription_id":
        return "$q" if value == id else value
    return _plain(value, id)


def _covers(heard: Any, expected: Any) -> bool:
    """Whether everything that is expected was heard; more may have been."""
    if isinstance(expected, dict):
        return isinstance(heard, dict) and all(
            name in heard and _covers(heard[name], value) for name, value in expected.items()
        )
    return bool(heard == expected)


def _client(url: str, tokens: list[str] | None) -> Client:
    quick = _backoff()
    if tokens is None:
        return Client(url, backoff=quick)
    left = iter(tokens)
    return Client(url, token=lambda: next(left), authenticate="message", backoff=quick)


def _backoff() -> Backoff:
    return Backoff(base=0.01, cap=0.05, pause=0.01)


def _options(scenario: Mapping[str, Any]) -> Message:
    more: Message = {}
    if "params" in scenario:
        more["params"] = scenario["params"]
    if "batch_size" in scenario:
        more["options"] = {"batch_size": scenario["batch_size"]}
    return {"live_only": scenario.get("live_only", False), **more}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario["name"])
async def test_the_python_client_keeps_the_rules(scenario: Mapping[str, Any]) -> None:
    async with asyncio.timeout(SECONDS), referee() as it:
        client = _client(it.url, scenario.get("tokens"))
        client._rate_pause = 0.02
        async with client:
            subscription = await client.subscribe(scenario["sql"], **_options(scenario))
            player = Player(it, subscription)
            reading = asyncio.create_task(player.read())
            for step in scenario["steps"]:
                await player.step(step)
            reading.cancel()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario["name"])
async def test_its_live_views_keep_the_rules(scenario: Mapping[str, Any]) -> None:
    async with asyncio.timeout(SECONDS), referee() as it:
        tokens = scenario.get("tokens")
        left = iter(tokens or ())
        db = connect(
            it.url,
            token=None if tokens is None else lambda: next(left),
            authenticate="message",
            backoff=_backoff(),
        )
        db._client._rate_pause = 0.02
        live = db.live(
            scenario["sql"],
            scenario.get("params", ()),
            batch_size=scenario.get("batch_size"),
            live_only=scenario.get("live_only", False),
        )
        player = LivePlayer(it, live)
        for step in scenario["steps"]:
            await player.step(step)
        await db.close()
