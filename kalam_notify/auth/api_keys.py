"""API keys of producers: known by their SHA-256 only."""

import hashlib
import hmac
from collections.abc import Sequence

from kalam_notify.config import ApiKey
from kalam_notify.errors import AuthenticationFailed
from kalam_notify.model import Identity, Role, UserId


class ApiKeys:
    """The keys of one configuration."""

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        self._keys = [(bytes.fromhex(key.sha256), _identity(key)) for key in keys]

    def identify(self, key: str) -> Identity:
        """The identity a key stands for: the key's name as user id, and its role.

        Every stored digest is compared, in constant time, so that the time taken tells nothing.
        Raises AuthenticationFailed.
        """
        digest = hashlib.sha256(key.encode("latin-1", "replace")).digest()
        found = None
        for stored, identity in self._keys:
            if hmac.compare_digest(stored, digest):
                found = identity
        if found is None:
            raise AuthenticationFailed("the API key is not known")
        return found


def _identity(key: ApiKey) -> Identity:
    role = Role.parse(key.role)
    assert role is not None, "the configuration admits known roles only"
    return Identity(UserId(key.name), role)
