"""Who is asking: user, role and claims."""

import json
from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Any, NewType

import msgspec

UserId = NewType("UserId", str)
"""The `sub` of a token and the `user_id` of a change: 1-128 printable characters."""


class Role(IntEnum):
    """Roles in rising order of what they may do."""

    ANONYMOUS = 0
    USER = 1
    SERVICE = 2
    DBA = 3
    SYSTEM = 4

    @property
    def label(self) -> str:
        """The lower-case name that tokens and messages use."""
        return self.name.lower()

    @classmethod
    def parse(cls, label: object) -> "Role | None":
        """The role named by a token's `role` claim, or None when there is no such role."""
        return _BY_LABEL.get(label) if isinstance(label, str) else None


_BY_LABEL = {role.label: role for role in Role}
_NO_CLAIMS: Mapping[str, Any] = MappingProxyType({})


class Identity(msgspec.Struct, frozen=True):
    """An authenticated (or anonymous) subscriber or producer."""

    user_id: UserId
    role: Role
    claims: Mapping[str, Any] = _NO_CLAIMS
    # Unix time of the token's `exp`, leeway not included; None: never (anonymous, API key).
    expires_at: float | None = None

    @property
    def is_anonymous(self) -> bool:
        return self.role is Role.ANONYMOUS


ANONYMOUS = Identity(user_id=UserId(""), role=Role.ANONYMOUS)


def same_claims(one: Identity, other: Identity) -> bool:
    """Whether two tokens say the same. 1, 1.0 and true are three claims, however deep they are."""
    return one.claims is other.claims or _text(one.claims) == _text(other.claims)


def _text(claims: Mapping[str, Any]) -> str:
    return json.dumps(dict(claims), sort_keys=True)
