"""What the sources of a configuration said, laid over one another, each value with its source."""

import datetime
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from kalam_notify.errors import Fault

HIDDEN = "(hidden)"


class Given(NamedTuple):
    """A value somebody gave, and who: a file, an environment variable or a flag."""

    source: str
    value: object


Tree: TypeAlias = dict[str, "Given | Tree"]


def plant(raw: Mapping[object, object], source: str, path: str, faults: list[Fault]) -> Tree:
    """The tree of a mapping; keys that are not text are faults and left out."""
    tree: Tree = {}
    for key, value in raw.items():
        if not isinstance(key, str):
            faults.append(Fault(source, join(path, str(key)), kind(key), _KEY_CURE))
        elif isinstance(value, Mapping) and value:
            tree[key] = plant(value, source, join(path, key), faults)
        else:
            tree[key] = Given(source, value)
    return tree


_KEY_CURE = (
    "YAML does not read this key as text (yes, no, on and off are true and false to it): "
    "put it in quotes"
)


def put(tree: Tree, keys: list[str], given: Given, faults: list[Fault]) -> None:
    """Lay one value over the tree at the path made of `keys`."""
    branch, path = tree, ""
    for key in keys[:-1]:
        path = join(path, key)
        below = branch.get(key)
        if isinstance(below, Given):
            if below.value not in (None, {}):
                faults.append(mapping_wanted(below, path))
            below = None
        if below is None:
            below = branch[key] = {}
        branch = below
    branch[keys[-1]] = given


def mapping_wanted(given: Given, path: str) -> Fault:
    """The fault of a plain value where keys are expected; the value may be a misplaced secret."""
    return Fault(given.source, path, kind(given.value), "give a mapping of keys to values")


def source_of(node: Given | Tree) -> str:
    """Who gave this value, or the first value below it."""
    while not isinstance(node, Given):
        if not node:
            # Only the root can be empty: `plant` keeps an empty mapping as a value.
            return "configuration"
        node = next(iter(node.values()))
    return node.source


def join(path: str, key: str) -> str:
    """The path of a key below `path`, on one line whatever the key holds."""
    shown = key if key.isprintable() else ascii(key)
    return f"{path}.{shown}" if path else shown


def show(value: object) -> str:
    """A value for a fault: short, on one line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        shown = repr(value)
        return shown if len(shown) <= 80 else shown[:77] + "..."
    return kind(value)


def hint_for(value: object) -> str:
    """What to add to the cure of a value that YAML may have made of something else."""
    if isinstance(value, bool):
        return "; YAML takes yes, no, on and off for true and false: put text in quotes"
    if isinstance(value, datetime.date):
        return "; YAML takes this for a date: put text in quotes"
    return ""


def kind(value: object) -> str:
    """What sort of value this is, for a fault that must not show the value."""
    names = {str: "text", bool: "true or false", int: "a number", float: "a number"}
    names |= {dict: "a mapping", list: "a list", type(None): "null"}
    return names.get(type(value), f"a value of type {type(value).__name__}")
