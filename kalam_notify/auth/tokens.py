"""Verifying JSON Web Tokens.

A token is looked up in a small cache first: after a network fault thousands of clients return with
the token they had, and a signature costs far more than a digest. The cache holds digests, not
tokens, and an entry is good until the token's own `exp`. Only then come signature (by the family
of the algorithm, from an allow-list), and claims.

Keys that are published under a URL are fetched by `refresh`, off the event loop. `verify` itself
never waits: it raises `KeyNotYetKnown` when fetching the key set again could help, at most once in
`REFRESH_PAUSE` seconds, so that forged key ids cannot turn into a flood of requests elsewhere.
"""

import asyncio
import base64
import hashlib
import json
import logging
import time
from functools import lru_cache
from typing import Any, NamedTuple

import jwt

from kalam_notify.auth.claims import identify
from kalam_notify.auth.fetch import FetchFailed, fetch_key_set
from kalam_notify.auth.keys import KeyRing
from kalam_notify.auth.signatures import signatures
from kalam_notify.config import JwtSettings
from kalam_notify.errors import AuthenticationFailed
from kalam_notify.model import Identity

logger = logging.getLogger(__name__)

LONGEST_TOKEN = 16 * 1024
LONGEST_HEADER = 2 * 1024
CACHED_TOKENS = 16_384
REFRESH_PAUSE = 10.0
# How long a key that its publisher has withdrawn may go on to verify tokens.
KEY_SET_LIFETIME = 3600.0


class KeyNotYetKnown(AuthenticationFailed):
    """The token's key is not among those fetched so far: `refresh` and `verify` once more."""


class _Verified(NamedTuple):
    identity: Identity
    # Unix time from which the token no longer holds, leeway included.
    until: float


class TokenVerifier:
    """Verifies tokens by one configuration; a reload makes a new one, with an empty cache."""

    def __init__(self, settings: JwtSettings, *, cached_tokens: int = CACHED_TOKENS) -> None:
        self._settings = settings
        self._algorithms = frozenset(settings.algorithms)
        self._keys = KeyRing(settings)
        self._cache: dict[bytes, _Verified] = {}
        self._cache_limit = cached_tokens
        self._refreshing: asyncio.Task[None] | None = None
        self._refreshed_at = float("-inf")

    def verify(self, token: str, now: float | None = None) -> Identity:
        """The identity a token stands for at `now` (Unix time; None: the clock's).

        Raises AuthenticationFailed, whose message may be shown to the peer, or its kind
        KeyNotYetKnown when `refresh` could make the same token hold.
        """
        moment = time.time() if now is None else now
        digest = _digest(token)
        known = self._cache.get(digest)
        if known is not None:
            if moment < known.until:
                return known.identity
            del self._cache[digest]
        identity = identify(self._claims(token), self._settings, moment)
        self._remember(digest, identity)
        return identity

    async def authenticate(self, token: str) -> Identity:
        """`verify`, fetching the key set once where that could help."""
        try:
            return self.verify(token)
        except KeyNotYetKnown:
            await self.refresh()
            return self.verify(token)

    async def refresh(self) -> None:
        """Fetch the key set; callers at the same time share one request. Without a URL, nothing.

        A fetch that fails is logged and leaves the keys as they were.
        """
        if self._settings.jwks_url is None:
            return
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._fetch(self._settings.jwks_url))
        # One caller's cancellation must not take the fetch away from the others.
        await asyncio.shield(self._refreshing)

    async def keep_fresh(self) -> None:
        """Fetch the key set now and then for ever, so that withdrawn keys stop to hold."""
        while self._settings.jwks_url is not None:
            await self.refresh()
            pause = KEY_SET_LIFETIME if self._keys.published else REFRESH_PAUSE
            await asyncio.sleep(pause)

    async def _fetch(self, url: str) -> None:
        self._refreshed_at = time.monotonic()
        try:
            published = await asyncio.to_thread(fetch_key_set, url)
        except FetchFailed as failure:
            logger.warning("the key set could not be fetched: %s", failure)
            return
        if any(key not in published for key in self._keys.published):
            # What a withdrawn key has verified no longer holds.
            self._cache.clear()
        self._keys.published = published
        logger.info("fetched %d keys for tokens", len(published))

    def _claims(self, token: str) -> Any:
        if len(token) > LONGEST_TOKEN:
            raise AuthenticationFailed(f"the token is longer than {LONGEST_TOKEN} characters")
        algorithm, kid = self._header(token)
        candidates = self._keys.candidates(algorithm, kid)
        for key in candidates:
            try:
                return json.loads(signatures.decode(token, key, algorithms=[algorithm]))
            except jwt.InvalidSignatureError:
                continue
            except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
                raise AuthenticationFailed("the token is malformed") from None
        # A known key id whose signature is wrong is no matter of keys to be fetched.
        if kid is None or not candidates:
            raise self._unknown_key(algorithm)
        raise AuthenticationFailed("the token's signature does not hold")

    def _header(self, token: str) -> tuple[str, str | None]:
        try:
            algorithm, kid = _read_header(token.partition(".")[0])
        except (ValueError, RecursionError):
            raise AuthenticationFailed("the token is malformed") from None
        if algorithm not in self._algorithms:
            raise AuthenticationFailed("the token's algorithm is not allowed")
        return algorithm, kid

    def _unknown_key(self, algorithm: str) -> AuthenticationFailed:
        published = self._settings.jwks_url is not None and not algorithm.startswith("HS")
        if published and self._may_refresh():
            return KeyNotYetKnown("the token's key is not known")
        return AuthenticationFailed("the token's signature does not hold")

    def _may_refresh(self) -> bool:
        """Whether a fetch is due or under way."""
        if self._refreshing is not None and not self._refreshing.done():
            return True
        return time.monotonic() - self._refreshed_at >= REFRESH_PAUSE

    def _remember(self, digest: bytes, identity: Identity) -> None:
        if identity.expires_at is None or self._cache_limit <= 0:
            return
        while len(self._cache) >= self._cache_limit:
            del self._cache[next(iter(self._cache))]
        self._cache[digest] = _Verified(identity, identity.expires_at + self._settings.leeway)


@lru_cache(maxsize=64)
def _read_header(segment: str) -> tuple[str, str | None]:
    """Algorithm and key id of a token's first segment, which all tokens of an issuer share.

    Only to choose the key: PyJWT reads the header again when it verifies. Raises ValueError.
    """
    if len(segment) > LONGEST_HEADER:
        raise ValueError("too long")
    header = json.loads(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))
    algorithm, kid = (header.get("alg"), header.get("kid")) if isinstance(header, dict) else (0, 0)
    if not isinstance(algorithm, str) or not isinstance(kid, str | None):
        raise ValueError("not a header")
    return algorithm, kid


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
