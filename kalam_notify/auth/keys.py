"""Which keys may verify a token: the secret, the public key, or a published key set."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jwt

from kalam_notify.config import JwtSettings
from kalam_notify.config.keys import fits, load_public_key, prepare_secret

LARGEST_KEY_SET = 100


class PublishedKey(NamedTuple):
    """One key of a JWKS, usable for signatures."""

    kid: str | None
    # The one algorithm the publisher allows, or None where it names none.
    algorithm: str | None
    key: Any

    def serves(self, algorithm: str) -> bool:
        return self.algorithm in (None, algorithm) and fits(self.key, algorithm)


def parse_key_set(document: object) -> tuple[PublishedKey, ...]:
    """The usable keys of a JWKS document (RFC 7517); others are left out.

    Symmetric keys are never taken: what is published is no secret. Raises ValueError when the
    document is not a key set.
    """
    entries = document.get("keys") if isinstance(document, Mapping) else None
    if not isinstance(entries, list):
        raise ValueError('not a key set: an object with "keys" was expected')
    keys = (_published_key(entry) for entry in entries[:LARGEST_KEY_SET])
    return tuple(key for key in keys if key is not None)


def _published_key(entry: object) -> PublishedKey | None:
    if not isinstance(entry, dict) or entry.get("kty") not in ("RSA", "EC", "OKP"):
        return None
    if entry.get("use", "sig") != "sig" or "d" in entry:
        return None
    kid, algorithm = entry.get("kid"), entry.get("alg")
    if not isinstance(kid, str | None) or not isinstance(algorithm, str | None):
        return None
    try:
        return PublishedKey(kid, algorithm, jwt.PyJWK(entry).key)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None


class KeyRing:
    """The keys of one configuration; `published` is replaced when a key set has been fetched."""

    def __init__(self, settings: JwtSettings) -> None:
        self._secret = prepare_secret(settings.secret) if settings.secret else None
        self._public_key = settings.public_key and load_public_key(settings.public_key)
        self.published: tuple[PublishedKey, ...] = ()

    def candidates(self, algorithm: str, kid: str | None) -> Sequence[Any]:
        """The keys that a token of this algorithm and key id may be verified with.

        The family of the algorithm decides, so that a public key is never taken for a secret.
        """
        if algorithm.startswith("HS"):
            return (self._secret,) if self._secret else ()
        if self._public_key is not None:
            return (self._public_key,) if fits(self._public_key, algorithm) else ()
        return [
            entry.key
            for entry in self.published
            if entry.serves(algorithm) and (kid is None or entry.kid in (None, kid))
        ]
