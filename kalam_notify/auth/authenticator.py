"""Who sends this HTTP request: from its headers to an identity."""

from kalam_notify.auth.api_keys import ApiKeys
from kalam_notify.auth.tokens import KeyNotYetKnown, TokenVerifier
from kalam_notify.config import AuthSettings
from kalam_notify.errors import AuthenticationFailed
from kalam_notify.model import Identity


class Authenticator:
    """All ways to authenticate of one configuration; a reload makes a new one."""

    def __init__(self, settings: AuthSettings) -> None:
        self.tokens = TokenVerifier(settings.jwt)
        self.api_keys = ApiKeys(settings.api_keys)
        self.admits_anonymous = settings.anonymous

    def identify(self, authorization: str | None, api_key: str | None) -> Identity:
        """The identity behind the values of `Authorization` and `X-API-Key` (None: not sent).

        An API key that is sent decides alone. Raises AuthenticationFailed, or its kind
        KeyNotYetKnown when `tokens.refresh()` could help.
        """
        if api_key is not None:
            return self.api_keys.identify(api_key)
        if authorization is None:
            raise AuthenticationFailed("send a Bearer token, or an API key in X-API-Key")
        return self.tokens.verify(bearer_token(authorization))

    async def authorize(self, authorization: str | None, api_key: str | None) -> Identity:
        """`identify`, fetching published keys once where that could help."""
        try:
            return self.identify(authorization, api_key)
        except KeyNotYetKnown:
            await self.tokens.refresh()
            return self.identify(authorization, api_key)


def bearer_token(authorization: str) -> str:
    """The token in the value of an `Authorization` header; raises AuthenticationFailed."""
    scheme, _, token = authorization.strip().partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token or " " in token:
        raise AuthenticationFailed("the Authorization header must be: Bearer <token>")
    return token
