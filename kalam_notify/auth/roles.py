"""From a claim to a role: where a token names it, and what a foreign issuer calls it."""

from collections.abc import Mapping
from typing import Any

from kalam_notify.config import ROLES, JwtSettings
from kalam_notify.errors import AuthenticationFailed
from kalam_notify.model import Role

_ABSENT = object()
_LONGEST_SHOWN = 64


def role_of(claims: Mapping[str, Any], settings: JwtSettings) -> Role:
    """The role that a token's claims name; `user` where they name none.

    Raises AuthenticationFailed for a name that is none, with the name and those that are known.
    """
    met = _claim(claims, settings.role_claim)
    if met is _ABSENT:
        return Role.USER
    if isinstance(met, list) and settings.roles:
        # A list of an issuer's own groups and roles: those that are mapped count, the highest wins.
        found = [
            settings.roles[name] for name in met if isinstance(name, str) and name in settings.roles
        ]
        roles = [role for name in found if (role := Role.parse(name)) is not None]
        if roles:
            return max(roles)
    role = Role.parse(settings.roles.get(met, met) if isinstance(met, str) else met)
    if role is None or role is Role.ANONYMOUS:
        raise AuthenticationFailed(_unknown(met, settings), reason="role")
    return role


def name_of(role: Role, settings: JwtSettings) -> str:
    """What a token that is signed here calls a role, so that it comes back as the same."""
    if settings.roles.get(role.label, role.label) == role.label:
        return role.label
    return next((name for name, own in settings.roles.items() if own == role.label), role.label)


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """The claim of this name, or at this path: a name may itself hold dots (a URL, usually)."""
    if name in claims:
        return claims[name]
    node: Any = claims
    for part in name.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return _ABSENT
        node = node[part]
    return node


def _unknown(met: object, settings: JwtSettings) -> str:
    shown = ascii(met)
    if len(shown) > _LONGEST_SHOWN:
        shown = f"{shown[: _LONGEST_SHOWN - 3]}..."
    known = [*(name for name in ROLES if name not in settings.roles), *settings.roles]
    return f"the token's role is unknown: {shown}; known are {', '.join(known)}"
