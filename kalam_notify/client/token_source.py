"""Where a client has its tokens from, and when it is time for another.

A token is asked for anew before the last one's `exp` (RFC 7519), and after it was refused.
"""

import base64
import inspect
import json
from collections.abc import Awaitable, Callable
from typing import Final

from kalam_notify.client.credentials import clean

Token = str | Callable[[], str | Awaitable[str]]
"""A token, or what is asked for one at every connect and every post."""

_EARLIEST_SECONDS: Final = 60.0
_LATE_SECONDS: Final = 5.0


class TokenSource:
    """The tokens of one connection. `last` is the one that the server was told last."""

    def __init__(self, token: Token | None) -> None:
        self.last: str | None = None
        self._token = token
        # Asked for after a refusal, for the next connect.
        self._spare: str | None = None

    @property
    def is_asked(self) -> bool:
        """Whether there may be another than the last one."""
        return callable(self._token)

    async def ask(self) -> str | None:
        """A token; None: there is none. Raises BadCredential, and what the function raises."""
        asked = self._token() if callable(self._token) else self._token
        token = await asked if inspect.isawaitable(asked) else asked
        return None if token is None else clean(token, "token")

    async def next(self) -> str | None:
        """The token for the next connect."""
        spare, self._spare = self._spare, None
        self.last = spare or await self.ask()
        return self.last

    async def has_other(self) -> bool:
        """Whether there is one that was not just refused; it is kept for the next connect."""
        if not self.is_asked:
            return False
        self._spare = await self.ask()
        return self._spare != self.last

    async def renewed(self) -> str | None:
        """Another token than the last one; None where there is none yet."""
        token = await self.ask()
        if token is None or token == self.last:
            return None
        self.last = token
        return token

    def until_refresh(self, now: float) -> float | None:
        """Seconds until it is time for another; None: there is no such time."""
        return until_refresh(self.last, now) if self.is_asked else None


def expiry_of(token: str) -> float | None:
    """When a JSON Web Token expires, in seconds since 1970; None where it does not say."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        expiry = claims["exp"]
    except (IndexError, ValueError, KeyError, TypeError):
        return None
    return float(expiry) if type(expiry) in (int, float) else None


def until_refresh(token: str | None, now: float) -> float | None:
    """Seconds until it is time for another token: a fifth of what is left, a minute at most, before
    it expires. None: there is no such time.
    """
    expiry = None if token is None else expiry_of(token)
    if expiry is None:
        return None
    left = expiry - now
    return _LATE_SECONDS if left <= 0 else max(1.0, left - min(_EARLIEST_SECONDS, left / 5))
