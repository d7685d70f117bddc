"""Which keys may verify a token: the secrets, the public keys, or a published key set."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jwt

from kalam_notify.config import JwtSettings
from kalam_notify.config.keys import PublicKey, fits, load_public_keys, prepare_secret
from kalam_notify.config.readers import BadValue
from kalam_notify.errors import ConfigurationFault, Fault

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
    """The keys of one configuration: its own, and those that its issuer publishes.

    `published` answers the published ones as they are now. Raises ConfigurationFault for a key file
    that does not hold a key any more.
    """

    def __init__(
        self, settings: JwtSettings, published: Callable[[], Sequence[PublishedKey]] = tuple
    ) -> None:
        self._secrets = [prepare_secret(secret) for secret in settings.secrets]
        self._public_keys = [key for text in settings.public_keys for key in _loaded(text)]
        self._published = published

    def candidates(self, algorithm: str, kid: str | None) -> Sequence[Any]:
        """The keys that a token of this algorithm and key id may be verified with.

        The family of the algorithm decides, so that a public key is never taken for a secret.
        """
        if algorithm.startswith("HS"):
            return self._secrets
        if self._public_keys:
            return [key for key in self._public_keys if fits(key, algorithm)]
        return [
            entry.key
            for entry in self._published()
            if entry.serves(algorithm) and (kid is None or entry.kid in (None, kid))
        ]


def _loaded(text: str) -> list[PublicKey]:
    try:
        return load_public_keys(text)
    except BadValue as refusal:
        fault = Fault("file", "auth.jwt.public_key", "(hidden)", str(refusal))
        raise ConfigurationFault([fault]) from None
