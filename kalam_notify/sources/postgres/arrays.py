"""PostgreSQL's text of an array, as nested lists of its elements' texts. No I/O.

Format: https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO. `{1,NULL,"a,b"}`, nested
with braces, and with its bounds before it where they do not begin at 1: `[0:1]={1,2}`.
"""

import re
from typing import TypeAlias

Nested: TypeAlias = "list[Nested | str | None]"

_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def parse_array(text: str, delimiter: str = ",") -> Nested:
    """The elements; an unquoted NULL is None. Raises ValueError for what is no array."""
    at = text.index("=") + 1 if text.startswith("[") else 0
    if not text.startswith("{", at):
        raise ValueError(f"no array: {text[:40]!r}")
    plain = re.compile(rf"[^{{}}\"{re.escape(delimiter)}]+")
    root: Nested = []
    # The lists that are open, from the outermost on.
    opened: list[Nested] = [root]
    at += 1
    while opened:
        char = text[at : at + 1]
        if char == "{":
            inner: Nested = []
            opened[-1].append(inner)
            opened.append(inner)
            at += 1
        elif char == "}":
            opened.pop()
            at += 1
        elif char == delimiter:
            at += 1
        else:
            at = _element(text, at, opened[-1], plain)
    if at != len(text):
        raise ValueError(f"no array: {text[:40]!r}")
    return root


def _element(text: str, at: int, into: Nested, plain: re.Pattern[str]) -> int:
    quoted = _QUOTED.match(text, at)
    if quoted is not None:
        into.append(_ESCAPED.sub(r"\1", quoted[1]))
        return quoted.end()
    bare = plain.match(text, at)
    if bare is None:
        raise ValueError(f"no array: {text[:40]!r}")
    word = bare[0]
    into.append(None if word.upper() == "NULL" else _ESCAPED.sub(r"\1", word))
    return bare.end()
