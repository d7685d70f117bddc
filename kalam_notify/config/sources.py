"""The three sources of a configuration: a YAML file, the environment, flags."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from kalam_notify.config.tree import Given, Tree, plant, put
from kalam_notify.errors import Fault

PREFIX = "KALAM_NOTIFY_"

# What the client verbs take from the environment: no settings.
_NOT_SETTINGS = frozenset({"KALAM_NOTIFY_TOKEN", "KALAM_NOTIFY_API_KEY", "KALAM_NOTIFY_URL"})

# Kubernetes gives every container the addresses of the services in its namespace; those of a
# service called kalam-notify (or kalam-notify-internal, ...) begin with our prefix.
_SERVICE_LINK = re.compile(
    r"([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?"
    r"|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)


class Override(NamedTuple):
    """A setting given on the command line."""

    flag: str
    key: str
    value: object


_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class _Duplicate(NamedTuple):
    key: object
    line: int


class _Loader(yaml.SafeLoader):
    """YAML's safe loader (no tag constructs anything but plain values), noting repeated keys.

    Numbers are those of YAML 1.2: to YAML 1.1, which PyYAML speaks, 1:30 is ninety and 010 is
    eight. Here both are text, which a key that wants a number refuses or reads as it is written.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012  (PyYAML's own, which is no ClassVar)
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NUMBERS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.duplicates: list[_Duplicate] = []

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping and look for repeats, before merge keys (`<<`) are resolved into it."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set()
        for key_node, _ in node.value:
            key = (key_node.tag, key_node.value) if _is_scalar(key_node) else None
            if key in seen:
                self.duplicates.append(_Duplicate(key_node.value, key_node.start_mark.line + 1))
            elif key is not None and key[0] != "tag:yaml.org,2002:merge":
                seen.add(key)
        return node


_Loader.add_implicit_resolver(
    _NUMBERS[0], re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    _NUMBERS[1],
    re.compile(
        r"(?:[-+]?(?:0|[1-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


def _is_scalar(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode)


def read_file(file: Path, faults: list[Fault]) -> Tree:
    """What a YAML file says; an empty file says nothing."""
    source = str(file)
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        faults.append(Fault(source, "(file)", error.strerror or "unreadable", "check the path"))
        return {}
    except UnicodeDecodeError:
        faults.append(Fault(source, "(file)", "not UTF-8", "save it as UTF-8 text"))
        return {}
    raw = _parse(text, source, faults)
    if raw is None:
        return {}
    if not isinstance(raw, Mapping):
        cure = "give a mapping with keys such as server:, auth:, tables:"
        faults.append(Fault(source, "(file)", "not a mapping", cure))
        return {}
    return plant(raw, source, "", faults)


def _parse(text: str, source: str, faults: list[Fault]) -> object:
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        raw: object = loader.get_single_data()
    # PyYAML lets through what int() and date() raise on scalars that only look like theirs, and a
    # few hundred levels of nesting exhaust its stack.
    except (yaml.YAMLError, ValueError, LookupError, RecursionError) as error:
        faults.append(_syntax_fault(error, source))
        return None
    finally:
        if loader is not None:
            loader.dispose()
    if _contains_itself(raw):
        cure = "let no alias (*name) stand inside of what its anchor (&name) names"
        faults.append(Fault(source, "(file)", "a value that contains itself", cure))
        return None
    for duplicate in loader.duplicates:
        where = f"line {duplicate.line}"
        faults.append(Fault(source, str(duplicate.key), where, "the key is given twice: keep one"))
    return raw


def _contains_itself(raw: object) -> bool:
    """Whether an alias makes a mapping or a list a part of its own: a search for a cycle."""
    above: set[int] = set()
    done: set[int] = set()
    waiting: list[tuple[object, bool]] = [(raw, False)]
    while waiting:
        value, is_left = waiting.pop()
        if is_left:
            above.discard(id(value))
            done.add(id(value))
        elif isinstance(value, Mapping | list) and id(value) not in done:
            if id(value) in above:
                return True
            above.add(id(value))
            waiting.append((value, True))
            parts = value.values() if isinstance(value, Mapping) else value
            waiting.extend((part, False) for part in parts)
    return False


# What a message of the parser quotes may be (the beginning of) a secret; a character is none.
_QUOTED = re.compile(r"'(?!.'|tag:yaml.org,2002:python/)[^']*'?|\"(?!.\")[^\"]*\"?")


def _syntax_fault(error: Exception, source: str) -> Fault:
    """A fault for text that is not YAML, without the lines around it: they may hold secrets."""
    place, problem = "(file)", "not valid YAML"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}"
        problem = _QUOTED.sub("...", " ".join((error.problem or problem).split()))
    elif isinstance(error, RecursionError):
        problem = "nested too deeply"
    return Fault(
        source,
        place,
        problem,
        "mend the YAML; text that begins with ! & * % @ ` [ or { wants quotes",
    )


def lay_environment(tree: Tree, environ: Mapping[str, str], faults: list[Fault]) -> None:
    """Lay the `KALAM_NOTIFY_…` variables over the tree. An empty variable counts as not set."""
    for variable in sorted(environ):
        name = variable.removeprefix(PREFIX)
        if name == variable or not environ[variable] or _is_foreign(variable, name):
            continue
        keys = name.lower().split("__")
        if keys[0] == "tables":
            cure = "tables are configured by file only: move this into the YAML file"
            faults.append(Fault(variable, ".".join(keys), "not taken here", cure))
            continue
        value = None if environ[variable] == "null" else environ[variable]
        put(tree, keys, Given(variable, value), faults)


def _is_foreign(variable: str, name: str) -> bool:
    if variable in _NOT_SETTINGS:
        return True
    return "__" not in name and _SERVICE_LINK.fullmatch(name) is not None


def lay_overrides(tree: Tree, overrides: Iterable[Override], faults: list[Fault]) -> None:
    """Lay the flags over the tree."""
    for flag, key, value in overrides:
        put(tree, key.split("."), Given(flag, value), faults)
