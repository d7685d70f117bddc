"""From the claims of a verified token to an identity: what must be there, and what must hold."""

from typing import Any

from kalam_notify.auth.roles import role_of
from kalam_notify.config import JwtSettings
from kalam_notify.errors import AuthenticationFailed
from kalam_notify.model import Identity, UserId


def identify(claims: Any, settings: JwtSettings, now: float) -> Identity:
    """The identity that claims stand for at `now` (Unix time).

    Raises AuthenticationFailed when they lack `sub` or `exp`, name an unknown role, are expired or
    not yet valid, or come from or are meant for somebody else.
    """
    if not isinstance(claims, dict):
        raise AuthenticationFailed("the token's payload is not an object")
    expires_at = time_of(claims, "exp")
    if expires_at is None:
        raise AuthenticationFailed("the token has no expiry (exp)", reason="claims")
    if now >= expires_at + settings.leeway:
        raise AuthenticationFailed("the token has expired", reason="expired")
    valid_from = time_of(claims, "nbf")
    if valid_from is not None and now < valid_from - settings.leeway:
        raise AuthenticationFailed("the token is not valid yet", reason="not_yet_valid")
    if settings.issuer is not None and claims.get("iss") != settings.issuer:
        raise AuthenticationFailed("the token comes from another issuer", reason="issuer")
    if settings.audience is not None and not _is_meant_for(claims, settings.audience):
        raise AuthenticationFailed("the token is meant for another audience", reason="audience")
    return Identity(_user(claims), role_of(claims, settings), claims, expires_at)


def is_user_id(value: object) -> bool:
    """Whether this is a user id: text of 1 to 128 printable characters."""
    return isinstance(value, str) and 1 <= len(value) <= 128 and value.isprintable()


def time_of(claims: dict[str, Any], name: str) -> float | None:
    """A claim that is a time, in Unix seconds; None when it is absent."""
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53:
        return float(value)
    raise AuthenticationFailed(f"the token's {name} is not a time", reason="claims")


def _user(claims: dict[str, Any]) -> UserId:
    user = claims.get("sub")
    if not is_user_id(user):
        raise AuthenticationFailed(
            "the token's user (sub) must be text of 1 to 128 printable characters", reason="claims"
        )
    return UserId(str(user))


def _is_meant_for(claims: dict[str, Any], audience: str) -> bool:
    meant = claims.get("aud")
    return audience in meant if isinstance(meant, list) else audience == meant
