"""Tokens and API keys as people hand them over: out of files, variables and clipboards."""

import re

from kalam_notify.errors import KalamNotifyError

_EDGES = " \t\r\n\v\f\u00a0\u200b\u2028\u2029\ufeff"
_FIT_FOR_A_HEADER = re.compile(r"[\x21-\x7e]+")


class BadCredential(KalamNotifyError):
    """What cannot be sent as a token or key. Its text does not show it."""


def clean(credential: str, name: str) -> str:
    """`credential` without white space and byte order marks at its ends.

    `name` is what it is called in a fault. Raises BadCredential for one that no header can carry.
    """
    bare = credential.strip(_EDGES)
    if not _FIT_FOR_A_HEADER.fullmatch(bare):
        raise BadCredential(
            f"the {name} is empty"
            if not bare
            else f"the {name} has a blank or an odd character in it"
        )
    return bare
