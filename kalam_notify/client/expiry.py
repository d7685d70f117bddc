"""When it is time for another token: before the last one's `exp`, as RFC 7519 has it."""

import base64
import json
from typing import Final

_EARLIEST_SECONDS: Final = 60.0
_LATE_SECONDS: Final = 5.0


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
