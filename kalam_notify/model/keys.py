"""Primary keys as text: what names a row of a keyed table.

A key is the JSON array of its values, without white space, as short as it can be: `[7]`,
`["acme",7]`. So 1 and "1" are two keys, and so are true and "true"; and the keys that begin with
the same values are neighbours.
"""

from collections.abc import Iterable, Sequence

import orjson

KEY_TYPES = frozenset((int, str, bool))


def key_of(columns: Sequence[str], values: dict[str, object]) -> str | None:
    """A row's key; None where a value is missing, or neither a string, an integer nor a boolean."""
    if len(columns) == 1:
        value = values.get(columns[0])
        if type(value) is int:
            return f"[{value}]"
        return key_text((value,)) if type(value) in KEY_TYPES else None
    key = [values.get(column) for column in columns]
    return key_text(key) if KEY_TYPES.issuperset(map(type, key)) else None


def key_text(values: Iterable[object]) -> str:
    """The key of these values."""
    return orjson.dumps(tuple(values)).decode()


def key_range(values: Iterable[object]) -> tuple[str, str]:
    """The keys that begin with these values and have more: from the first text, below the second.

    The one is the text up to and with the comma, the other the same with the comma's successor.
    """
    begin = key_text(values)[:-1]
    return f"{begin},", f"{begin}-"


def can_be_key(value: object) -> object | None:
    """The value as it stands in keys that equal it: 1.0 in a condition finds the key 1.

    None where no key can equal it.
    """
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is int and not -(2**63) <= value < 2**64:
        return None
    return value if type(value) in KEY_TYPES else None
