"""Posting changes from a program: as often as it takes, stored once.

Every post carries a key of its own, and the server stores nothing that comes under a key it has
seen: so a post whose answer got lost is repeated without fear, until it is answered or time is up.
"""

import asyncio
import http.client
import itertools
import random
import uuid
from collections.abc import Callable, Iterable, Mapping
from ssl import SSLContext
from typing import Any, Final, NamedTuple, Protocol

from kalam_notify.client.faults import Unreachable
from kalam_notify.client.json_text import encode
from kalam_notify.client.requests import Answer, Server, retry_after
from kalam_notify.client.token_source import Token, TokenSource
from kalam_notify.errors import AuthenticationFailed, ChangeRefused

Change = Mapping[str, Any]
PATH: Final = "/v1/changes"
MOST_IDLE: Final = 8
_LONGEST_WAIT_SECONDS: Final = 5.0
_BUSY = (429, 500, 502, 503, 504)


class Published(NamedTuple):
    """The server's answer to a post. The seqs are None where nothing was new."""

    accepted: int
    duplicates: int
    first_seq: int | None
    last_seq: int | None


class Posting(Protocol):
    """As much of a server as is needed here; `once` blocks."""

    def once(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        *,
        timeout: float,
    ) -> Answer: ...

    def close(self) -> None: ...


class Publisher:
    """Posts to one server over a few kept-alive connections. `open_server` makes one more."""

    def __init__(
        self,
        base: str,
        token: Token | None,
        api_key: str | None,
        open_server: Callable[[], Posting] | None = None,
        *,
        ssl: SSLContext | None = None,
    ) -> None:
        self._open = open_server or (lambda: Server(base, None, api_key=api_key, ssl=ssl))
        self._tokens = TokenSource(None if api_key is not None else token)
        self._idle: list[Posting] = []
        self._is_closed = False

    async def publish(
        self, changes: Iterable[Change], *, key: str | None, seconds: float
    ) -> Published:
        """Post `changes` as one batch, all of it stored or nothing; see `Connection.publish`."""
        body = encode(list(changes))
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": key or uuid.uuid4().hex,
        }
        answer = await self._answered(body, headers, seconds)
        if answer.status == 200 and isinstance(answer.body, dict):
            fields = answer.body
            seqs = fields.get("first_seq"), fields.get("last_seq")
            return Published(int(fields["accepted"]), int(fields["duplicates"]), *seqs)
        raise _refusal(answer)

    def close(self) -> None:
        self._is_closed = True
        while self._idle:
            self._idle.pop().close()

    async def _answered(self, body: bytes, headers: Mapping[str, str], seconds: float) -> Answer:
        """Ask until there is an answer that another try would not change, or time is up."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        has_asked_anew = False
        for number in itertools.count():
            token = await self._tokens.ask()
            sent = {**headers, "Authorization": f"Bearer {token}"} if token else headers
            outcome = await self._once(body, sent, deadline - loop.time())
            if isinstance(outcome, Answer):
                if outcome.status == 401 and self._tokens.is_asked and not has_asked_anew:
                    has_asked_anew = True  # there may be another token by now
                    continue
                if outcome.status not in _BUSY:
                    return outcome
            wait = self._wait(outcome, number)
            if loop.time() + wait >= deadline:
                if isinstance(outcome, Answer):
                    return outcome
                raise Unreachable(f"no answer within {seconds:g} s: {outcome}")
            await asyncio.sleep(wait)
        raise AssertionError("there is no last try")

    def _wait(self, outcome: Answer | Exception, number: int) -> float:
        if isinstance(outcome, Answer) and "retry-after" in outcome.headers:
            return retry_after(outcome)
        return random.uniform(0.0, min(_LONGEST_WAIT_SECONDS, 0.1 * 2.0 ** min(number, 16)))

    async def _once(
        self, body: bytes, headers: Mapping[str, str], seconds: float
    ) -> Answer | Exception:
        """One try, in a thread: its answer, or what came in between."""
        server = self._idle.pop() if self._idle else self._open()
        is_well = False
        try:
            answer = await asyncio.to_thread(
                server.once, "POST", PATH, body, headers, timeout=max(seconds, 0.001)
            )
            is_well = True
        except (OSError, http.client.HTTPException) as fault:
            return fault if str(fault) else type(fault)(type(fault).__name__)
        finally:
            if is_well and not self._is_closed and len(self._idle) < MOST_IDLE:
                self._idle.append(server)
            else:
                server.close()
        return answer


def batch(changes: tuple[Change | Iterable[Change], ...]) -> list[Change]:
    """The changes of a call: some of them, or one list of them.

    Raises TypeError for what is no change.
    """
    found: list[Change] = []
    for one in changes:
        found.extend([one] if isinstance(one, Mapping) else one)
    for change in found:
        if not isinstance(change, Mapping):
            raise TypeError(f"a change is a mapping with table, change_type, ...: not {change!r}")
    return found


def _refusal(answer: Answer) -> ChangeRefused | AuthenticationFailed:
    error = answer.body.get("error") if isinstance(answer.body, dict) else None
    error = error if isinstance(error, dict) else {}
    message = str(error.get("message", f"HTTP {answer.status}"))
    if answer.status == 401:
        return AuthenticationFailed(message)
    return ChangeRefused(
        answer.status,
        str(error.get("code", "REFUSED")),
        message,
        index=error.get("index"),
        field=error.get("field"),
    )
