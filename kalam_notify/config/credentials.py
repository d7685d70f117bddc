"""What tokens are judged by: secrets as operators hand them over, and the names of roles.

A secret comes out of files, templates and variables, and each of them can spoil it without a word:
a line end that an editor added makes another secret, and a template that nobody filled in makes one
that everybody knows. Neither is ever what was meant, so both are refused.
"""

import json
import re
from collections.abc import Mapping

from kalam_notify.config.readers import BadValue, Reader, edges_are_blank, is_unfilled, raise_all
from kalam_notify.config.tree import Given
from kalam_notify.model import Role

# The secret printed in config.example.yaml: whoever has read that file could sign tokens. The file
# is valid, so this one is refused by `serve` and only warned of by `check-config`.
PLACEHOLDER_SECRET = "change-me-this-secret-is-printed-in-the-example-file"

ROLES = tuple(role.label for role in Role if role is not Role.ANONYMOUS)
"""What a token can make of its bearer."""

# What documentation and templates put where a secret belongs, without case and punctuation.
_STAND_INS = re.compile(
    r"(please)?(change|replace|insert|put|fill|enter|set)(this|it|me|in|with|your|a|the|here|now"
    r"|secret|key|jwt|own|real|strong|random|value|password|later|before|production|to|some)*"
    r"|(your|my|the|a|some|super|very|top|jwt|token|signing|app|shared|256bit|384bit|512bit)*"
    r"(secret|secretkey|password|passphrase|jwtkey|signingkey)(here|key|value|goeshere|string)?"
    r"|placeholder|example|sample|dummy|default|none|null|undefined|todo|fixme|tbd|redacted|x{3,12}"
)
_PUNCTUATION = re.compile(r"[\W_]+")


def _read_secret(value: object) -> str:
    if not isinstance(value, str):
        raise BadValue("give text, in quotes where YAML would read something else")
    if not value.strip():
        raise BadValue("give text that is not empty")
    if edges_are_blank(value):
        raise BadValue(
            "begins or ends with white space, a line end or a byte order mark, which would be part "
            "of the secret: take it off"
        )
    if is_unfilled(value):
        raise BadValue("looks like a variable that nothing has filled in: give the secret itself")
    if value != PLACEHOLDER_SECRET and _STAND_INS.fullmatch(_PUNCTUATION.sub("", value.lower())):
        raise BadValue(
            "is a placeholder that anybody would guess: give what openssl rand -hex 32 prints"
        )
    return value


def _read_role_names(value: object) -> Mapping[str, str]:
    if isinstance(value, str):
        value = _json_object(value)
    if not isinstance(value, Mapping):
        raise BadValue("give a mapping of an issuer's names to roles, such as authenticated: user")
    names = {}
    refusals = []
    for name, given in value.items():
        role = given.value if isinstance(given, Given) else given
        if isinstance(name, str) and isinstance(role, str) and role in ROLES:
            names[name] = role
            continue
        refusal = BadValue(f"give {name!r} one of the roles {', '.join(ROLES)}")
        refusal.item = role
        refusals.append(refusal)
    raise_all(refusals)
    return names


def _json_object(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


secret_text = Reader(_read_secret, is_secret=True)
role_names = Reader(_read_role_names)
