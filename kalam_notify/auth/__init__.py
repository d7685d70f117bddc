"""Authentication: tokens, API keys, and the identity behind them."""

from kalam_notify.auth.api_keys import ApiKeys
from kalam_notify.auth.claims import is_user_id
from kalam_notify.auth.signing import RESERVED_CLAIMS, sign
from kalam_notify.auth.tokens import (
    Authenticator,
    Authorize,
    KeyNotYetKnown,
    TokenVerifier,
    bearer_token,
)

__all__ = [
    "RESERVED_CLAIMS",
    "ApiKeys",
    "Authenticator",
    "Authorize",
    "KeyNotYetKnown",
    "TokenVerifier",
    "bearer_token",
    "is_user_id",
    "sign",
]
