"""Who sends this HTTP request: from its headers to an identity."""

from kalam_notify.auth.api_keys import ApiKeys
from kalam_notify.auth.tokens import KeyNotYetKnown, TokenVerifier
from kalam_notify.config import AuthSettings
from kalam_notify.errors import AuthenticationFailed
from kalam_notify.model import Identity


class Authenticator:
    """All ways to authenticate of one configuration; a reload makes a new one from the old."""

    def __init__(self, settings: AuthSettings, tokens: TokenVerifier | None = None) -> None:
        self.tokens = TokenVerifier(settings.jwt) if tokens is None else tokens
        self.api_keys = ApiKeys(settings.api_keys)
        self.admits_anonymous = settings.anonymous

    def identify(self, authorization: str | None, api_key: str | None) -> Identity:
        """The identity behind the values of `Authorization` and `X-API-Key` (None: not sent).

        An API key that is sent decides alone. Raises AuthenticationFailed, its kind KeyNotYetKnown
        where `authorize` may fetch the token's key, or KeysUnavailable.
        """
        if api_key is not None:
            return self._of_api_key(api_key)
        token = None if authorization is None else bearer_token(authorization)
        if token is None:
            self.tokens.failures["missing"] += 1
            raise AuthenticationFailed("send a Bearer token, or an API key in X-API-Key")
        return self.tokens.verify(token)

    async def authorize(self, authorization: str | None, api_key: str | None) -> Identity:
        """`identify`, fetching published keys where that could help."""
        try:
            return self.identify(authorization, api_key)
        except KeyNotYetKnown:
            return await self.tokens.authenticate(bearer_token(authorization or "") or "")

    def _of_api_key(self, api_key: str) -> Identity:
        try:
            return self.api_keys.identify(api_key)
        except AuthenticationFailed:
            self.tokens.failures["api_key"] += 1
            raise


def bearer_token(authorization: str) -> str | None:
    """The token in the value of an `Authorization` header; "" where there should be one.

    None for another scheme, which is no token of ours: a page behind Basic sends its own along.
    """
    scheme, *token = authorization.split(None, 1) or ("",)
    return "".join(token).strip() if scheme.lower() == "bearer" else None
