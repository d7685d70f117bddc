"""Signing tokens with the server's own secret: the `token` verb and `--dev`."""

import json
import math
import time
from collections.abc import Mapping
from typing import Any

from kalam_notify.auth.claims import is_user_id
from kalam_notify.auth.roles import name_of
from kalam_notify.auth.signatures import signatures
from kalam_notify.config import JwtSettings
from kalam_notify.errors import ConfigurationFault, Fault
from kalam_notify.model import Role

RESERVED_CLAIMS = frozenset({"sub", "role", "exp", "iat"})


def sign(
    settings: JwtSettings,
    user: str,
    *,
    role: Role = Role.USER,
    ttl: float = 3600.0,
    claims: Mapping[str, Any] | None = None,
    now: float | None = None,
) -> str:
    """A JWT for `user` that is good for `ttl` seconds.

    The issuer and audience of the settings are put in. Raises ConfigurationFault when the settings
    have no secret to sign with, and ValueError for a user id that no server would take or a claim
    that has its own parameter.
    """
    if not is_user_id(user):
        raise ValueError("a user id is 1 to 128 printable characters")
    if role is Role.ANONYMOUS:
        raise ValueError("nobody is anonymous with a token")
    if taken := (RESERVED_CLAIMS | {settings.role_claim}) & set(claims or {}):
        raise ValueError(f"the claim {min(taken)} cannot be given as an extra claim")
    algorithm, secret = _signing_key(settings)
    moment = time.time() if now is None else now
    payload: dict[str, Any] = dict(claims or {})
    if settings.issuer is not None:
        payload.setdefault("iss", settings.issuer)
    if settings.audience is not None:
        payload.setdefault("aud", settings.audience)
    payload |= {"sub": user, "iat": _issue(moment), "exp": _expiry(moment, ttl)}
    payload[settings.role_claim] = name_of(role, settings)
    return signatures.encode(json.dumps(payload, separators=(",", ":")).encode(), secret, algorithm)


def _issue(moment: float) -> float:
    """`iat`: to the millisecond, for whether a token is older than a revocation hangs on it."""
    return math.floor(moment * 1000) / 1000


def _expiry(moment: float, ttl: float) -> float:
    """`exp`: whole seconds, as most readers expect; parts of one for a shorter life."""
    return math.ceil(moment + ttl) if ttl >= 1 else moment + ttl


def _signing_key(settings: JwtSettings) -> tuple[str, str]:
    algorithm = next((name for name in settings.algorithms if name.startswith("HS")), None)
    if settings.secrets and algorithm is not None:
        return algorithm, settings.secrets[0]
    cure = "give a secret, e.g. in KALAM_NOTIFY_AUTH__JWT__SECRET"
    if settings.public_keys or settings.jwks_url is not None:
        cure = (
            "only HS256, HS384 and HS512 tokens can be signed here: ask the issuer of your tokens"
        )
    raise ConfigurationFault([Fault("configuration", "auth.jwt.secret", "none to sign with", cure)])
