"""Which tokens have been revoked, though their signature and times still hold.

A revocation names a user (every token issued to them up to that moment) or one token, by its `jti`.
A token tells when it was issued by `iat`, in seconds as a rule: one issued in the very second of
the revocation counts as issued before. One without `iat`, or with one that lies in the future, does
not tell, and counts as issued before too.

Times are Unix seconds. The ledger itself does no I/O; auth/revocation_file.py keeps it on disk.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import msgspec

from kalam_notify.model import Identity

Kind = Literal["user", "token_id"]


class Revocation(msgspec.Struct, frozen=True):
    """One user's tokens, or one token, from `at` on and until `until`, when all have expired."""

    kind: Kind
    name: str
    at: float
    until: float


LONGEST_LIFE = 366 * 86400.0
"""How long tokens are expected to live at most, in seconds, where nobody tells."""


class Revocations:
    """All that are in force."""

    def __init__(self) -> None:
        self._by_name: dict[tuple[Kind, str], Revocation] = {}
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


def _is_later(issued_at: Any, revoked_at: float, latest: float) -> bool:
    """Whether a token tells credibly that it was issued after the revocation."""
    if isinstance(issued_at, bool) or not isinstance(issued_at, int | float):
        return False
    return revoked_at < issued_at <= latest
