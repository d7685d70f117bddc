"""Who sends this: JSON Web Tokens verified, revocations asked, headers read.

Verifying JSON Web Tokens.

A token is looked up in a small cache first: after a network fault thousands of clients return with
the token they had, and a signature costs far more than a digest. The cache holds digests, not
tokens, and an entry is good until the token's own `exp`. Only then come signature (by the family
of the algorithm, from an allow-list), and claims. Whether a token is revoked is asked every time.

`verify` never waits. Where the key set of an issuer (key_set.py) should be fetched first, it raises
`KeyNotYetKnown`, and `authenticate` does so. A token whose key cannot be had is not refused, for
it may be good: that is `KeysUnavailable`.

Who sends this HTTP request: from its headers to an identity.

Which tokens have been revoked, though their signature and times still hold.

A revocation names a user (every token issued to them up to that moment) or one token, by its `jti`.
A token tells when it was issued by `iat`, in seconds as a rule: one issued in the very second of
the revocation counts as issued before. One without `iat`, or with one that lies in the future, does
not tell, and counts as issued before too.

Times are Unix seconds. The ledger itself does no I/O; auth/revocation_file.py keeps it on disk.
"""

import base64
import hashlib
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import jwt
import msgspec

from kalam_notify.auth.api_keys import ApiKeys
from kalam_notify.auth.claims import identify
from kalam_notify.auth.key_set import KeySet
from kalam_notify.auth.keys import KeyRing
from kalam_notify.auth.signatures import signatures
from kalam_notify.config import AuthSettings, JwtSettings
from kalam_notify.errors import AuthenticationFailed, KeysUnavailable
from kalam_notify.model import Identity

LONGEST_TOKEN = 16 * 1024
LONGEST_HEADER = 2 * 1024
CACHED_TOKENS = 16_384
# A fetch that was under way when a token came may have begun before its key was published.
_MOST_FETCHES = 2
# Around a token that came by hand or out of a file.
_EDGES = " \t\r\n\ufeff"


class KeyNotYetKnown(AuthenticationFailed):
    """The token's key is not among those fetched so far: `authenticate` fetches them again."""


class _Verified(NamedTuple):
    identity: Identity
    # Unix time from which the token no longer holds, leeway included.
    until: float


Kind = Literal["user", "token_id"]


class Revocation(msgspec.Struct, frozen=True):
    """One user's tokens, or one token, from `at` on and until `until`, when all have expired."""

    kind: Kind
    name: str
    at: float
    until: float


class Revocations:
    """All that are in force."""

    def __init__(self) -> None:
        self._by_name: dict[tuple[Kind, str], Revocation] = {}
        # Has those come in that others have taken; called before a token is judged.
        self.look: Callable[[], object] = lambda: None
        # The latest expiry of any token that has held here.
        self.farthest_expiry = 0.0

    def __iter__(self) -> Iterator[Revocation]:
        return iter(list(self._by_name.values()))

    def __len__(self) -> int:
        return len(self._by_name)

    def add(self, revocations: Iterable[Revocation]) -> None:
        """Take these in; of two about the same user or token the later times stand."""
        for one in revocations:
            key = (one.kind, one.name)
            known = self._by_name.get(key, one)
            self._by_name[key] = Revocation(
                one.kind, one.name, max(one.at, known.at), max(one.until, known.until)
            )

    def last_expiry(self, now: float) -> float:
        """When the last token that was issued until now will have expired, as far as is known."""
        return max(now + LONGEST_LIFE, self.farthest_expiry)

    def forget_expired(self, now: float) -> None:
        for key, one in list(self._by_name.items()):
            if one.until <= now:
                del self._by_name[key]

    def refuse(self, identity: Identity, now: float, leeway: float) -> bool:
        """Whether the token behind an identity is revoked. What has no `exp` is no token."""
        if not self._by_name or identity.expires_at is None:
            return False
        token_id = identity.claims.get("jti")
        if isinstance(token_id, str) and ("token_id", token_id) in self._by_name:
            return True
        of_user = self._by_name.get(("user", identity.user_id))
        return of_user is not None and not _is_later(
            identity.claims.get("iat"), of_user.at, now + leeway
        )


class TokenVerifier:
    """Verifies tokens by one configuration; a reload makes a new one, with an empty cache.

    What outlives a reload is handed on: the key set of an issuer that is the same (`before`), what
    is revoked, and the count of failures by reason. Raises ConfigurationFault for key files that
    cannot be read.
    """

    def __init__(
        self,
        settings: JwtSettings,
        *,
        before: "TokenVerifier | None" = None,
        revocations: Revocations | None = None,
        failures: Counter[str] | None = None,
        cached_tokens: int = CACHED_TOKENS,
    ) -> None:
        self.key_set = _key_set(settings.jwks_url, before)
        self.revocations = Revocations() if revocations is None else revocations
        self.failures: Counter[str] = Counter() if failures is None else failures
        self._settings = settings
        self._algorithms = frozenset(settings.algorithms)
        self._keys = KeyRing(settings, self._published)
        self._cache: dict[bytes, _Verified] = {}
        self._cache_limit = cached_tokens
        # The key set's count of withdrawals that the cache is in keeping with.
        self._withdrawals = 0

    @property
    def lacks_keys(self) -> bool:
        """Whether the issuer's keys have never been had."""
        return self.key_set is not None and not self.key_set.is_known

    def verify(self, token: str, now: float | None = None) -> Identity:
        """The identity a token stands for at `now` (Unix time; None: the clock's).

        Raises AuthenticationFailed, whose message may be shown to the peer, or its kind
        KeyNotYetKnown when `authenticate` may fetch the token's key, or KeysUnavailable.
        """
        moment = time.time() if now is None else now
        try:
            return self._judge(token.strip(_EDGES), moment)
        except KeyNotYetKnown:
            raise
        except AuthenticationFailed as failure:
            self.failures[failure.reason] += 1
            raise
        except KeysUnavailable:
            self.failures["keys_unavailable"] += 1
            raise

    async def authenticate(self, token: str) -> Identity:
        """`verify`, fetching the key set first where that could help; never KeyNotYetKnown."""
        for _ in range(_MOST_FETCHES):
            try:
                return self.verify(token)
            except KeyNotYetKnown:
                assert self.key_set is not None
                is_shared = self.key_set.is_fetching
                await self.key_set.refresh()
                if not is_shared:
                    break
        return self._verify_finally(token)

    async def refresh(self) -> None:
        """Fetch the key set, if there is one."""
        if self.key_set is not None:
            await self.key_set.refresh()

    async def keep_fresh(self) -> None:
        """Fetch the key set now and then for ever, if there is one."""
        if self.key_set is not None:
            await self.key_set.keep_fresh()

    def close(self) -> None:
        """The server stops: nobody waits for keys any longer."""
        if self.key_set is not None:
            self.key_set.close()

    def _verify_finally(self, token: str) -> Identity:
        """`verify` right after a fetch: what is not known now is either none, or cannot be had."""
        try:
            return self.verify(token)
        except KeyNotYetKnown:
            if self.key_set is not None and self.key_set.is_doubtful:
                self.failures["keys_unavailable"] += 1
                raise KeysUnavailable from None
            self.failures["signature"] += 1
            raise _wrong_signature() from None

    def _published(self) -> tuple[Any, ...]:
        return () if self.key_set is None else self.key_set.keys

    def _judge(self, token: str, moment: float) -> Identity:
        if self.key_set is not None and self.key_set.withdrawals != self._withdrawals:
            # What a withdrawn key has verified no longer holds.
            self._cache.clear()
            self._withdrawals = self.key_set.withdrawals
        digest = _digest(token)
        known = self._cache.get(digest)
        if known is not None and moment >= known.until:
            del self._cache[digest]
            known = None
        if known is not None:
            identity = known.identity
        else:
            identity = identify(self._claims(token), self._settings, moment)
            self._remember(digest, identity)
        self.revocations.look()
        if self.revocations.refuse(identity, moment, self._settings.leeway):
            raise AuthenticationFailed("the token has been revoked", reason="revoked")
        return identity

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
        raise _wrong_signature()

    def _header(self, token: str) -> tuple[str, str | None]:
        try:
            algorithm, kid = _read_header(token.partition(".")[0])
        except (ValueError, RecursionError):
            raise AuthenticationFailed("the token is malformed") from None
        if algorithm not in self._algorithms:
            raise AuthenticationFailed("the token's algorithm is not allowed", reason="algorithm")
        return algorithm, kid

    def _unknown_key(self, algorithm: str) -> Exception:
        key_set = self.key_set
        if key_set is None or algorithm.startswith("HS"):
            return _wrong_signature()
        if key_set.may_fetch():
            return KeyNotYetKnown("the token's key is not known", reason="signature")
        return KeysUnavailable() if key_set.is_doubtful else _wrong_signature()

    def _remember(self, digest: bytes, identity: Identity) -> None:
        if identity.expires_at is None:
            return
        until = identity.expires_at + self._settings.leeway
        self.revocations.farthest_expiry = max(self.revocations.farthest_expiry, until)
        if self._cache_limit <= 0:
            return
        while len(self._cache) >= self._cache_limit:
            del self._cache[next(iter(self._cache))]
        self._cache[digest] = _Verified(identity, until)


def _key_set(url: str | None, before: TokenVerifier | None) -> KeySet | None:
    """The key set at a URL: the one there was, where it is the same, for its keys go on to hold."""
    if url is None:
        return None
    known = None if before is None else before.key_set
    return known if known is not None and known.url == url else KeySet(url)


def _wrong_signature() -> AuthenticationFailed:
    return AuthenticationFailed("the token's signature does not hold", reason="signature")


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


Authorize = Callable[[str | None, str | None], Awaitable[Identity]]
"""Who it is, of an Authorization header and an API key; raises AuthenticationFailed."""


class Authenticator:
    """All ways to authenticate of the configuration as it is now."""

    def __init__(self, settings: AuthSettings, tokens: TokenVerifier | None = None) -> None:
        self.configure(settings, TokenVerifier(settings.jwt) if tokens is None else tokens)

    def configure(self, settings: AuthSettings, tokens: TokenVerifier) -> None:
        """Take a configuration, and the verifier that was made of it."""
        self.tokens = tokens
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


LONGEST_LIFE = 366 * 86400.0
"""How long tokens are expected to live at most, in seconds, where nobody tells."""


def _is_later(issued_at: Any, revoked_at: float, latest: float) -> bool:
    """Whether a token tells credibly that it was issued after the revocation."""
    if isinstance(issued_at, bool) or not isinstance(issued_at, int | float):
        return False
    return revoked_at < issued_at <= latest
