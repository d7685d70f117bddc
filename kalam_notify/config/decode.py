"""From a tree of given values to settings structs, collecting every fault on the way.

The structs say what is expected: a field that is a struct is a section, any other field is read by
the reader in its annotation. A faulty key keeps its default, so that the walk goes on and the
operator learns of all faults at once; nothing starts from a configuration with faults.
"""

import difflib
import typing
from collections.abc import Iterable
from functools import cache
from typing import Any, TypeVar

import msgspec

from kalam_notify.config.hooks import (
    HOOK_NAME_CURE,
    HookSettings,
    IngestSettings,
    is_hook_name,
)
from kalam_notify.config.readers import BadValue, Reader, as_list
from kalam_notify.config.settings import ApiKey, AuthSettings, Config, TablesSettings
from kalam_notify.config.source_settings import SourceSettings, chosen_by, read_source_name
from kalam_notify.config.tables import (
    TableDeclaration,
    contradictions,
    parse_table_name,
    table_of,
)
from kalam_notify.config.tree import (
    HIDDEN,
    Given,
    Tree,
    hint_for,
    join,
    mapping_wanted,
    plant,
    show,
    source_of,
)
from kalam_notify.errors import Fault
from kalam_notify.model import TableDef, TableId

S = TypeVar("S", bound=msgspec.Struct)


class Decoder:
    """One walk over one tree. `sources` tells afterwards who gave each key."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults
        self.sources: dict[str, str] = {}
        # Faults of tables that would be none if a source told them.
        self._unkeyed: list[tuple[TableId, Fault]] = []

    def config(self, tree: Tree) -> Config:
        config = self.section(Config, tree, "") or Config()
        # A source knows the key of its tables, which an index is for.
        self.faults += [
            fault for table, fault in self._unkeyed if chosen_by(config.sources, table) is None
        ]
        return config

    def section(self, cls: type[S], node: Given | Tree, path: str) -> S | None:
        """The struct that `node` describes; None when it lacks a required key."""
        source = source_of(node)
        if isinstance(node, Given):
            if node.value not in (None, {}):
                self.faults.append(mapping_wanted(node, path))
            node = {}
        fields = _fields(cls)
        self._refuse_unknown(node, fields, path)
        values: dict[str, Any] = {}
        missing = False
        for name, field in fields.items():
            if name in node:
                self._field(cls, name, node[name], join(path, name), values)
            elif field.required:
                cure = f"give {name}: {_expectation(cls, name)}"
                self.faults.append(Fault(source, join(path, name), "missing", cure))
            missing = missing or (field.required and name not in values)
        return None if missing else cls(**values)

    def _field(
        self, cls: type, name: str, node: Given | Tree, path: str, values: dict[str, Any]
    ) -> None:
        """Put the value of one field into `values`, or leave it out after a fault."""
        self.sources[path] = source_of(node)
        if (cls, name) == (AuthSettings, "api_keys"):
            values[name] = self._api_keys(node, path)
            return
        if (cls, name) == (TablesSettings, "declared"):
            values[name] = self._tables(node, path)
            return
        if (cls, name) == (IngestSettings, "hooks"):
            values[name] = self._hooks(node, path)
            return
        if (cls, name) == (Config, "sources"):
            values[name] = self._sources(node, path)
            return
        hint = _hints(cls)[name]
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            section = self.section(hint, node, path)
            if section is not None:
                values[name] = section
            return
        self._leaf(_reader(cls, name), node, path, values, name)

    def _leaf(
        self,
        reader: Reader[Any],
        node: Given | Tree,
        path: str,
        values: dict[str, Any],
        name: str,
    ) -> None:
        given = node if isinstance(node, Given) else Given(source_of(node), node)
        try:
            values[name] = reader.read(given.value)
        except BadValue as refusal:
            for one in (refusal, *refusal.others):
                value = given.value if one.item is None else one.item
                shown = HIDDEN if reader.is_secret else show(value)
                self.faults.append(Fault(given.source, path, shown, f"{one}{hint_for(value)}"))
            if refusal.rest is not None:
                values[name] = refusal.rest

    def _api_keys(self, node: Given | Tree, path: str) -> tuple[ApiKey, ...]:
        source = source_of(node)
        try:
            items = as_list(node.value if isinstance(node, Given) else node)
        except BadValue:
            cure = "give a list of {name, sha256, role}, from the environment as JSON"
            self.faults.append(Fault(source, path, HIDDEN, cure))
            return ()
        keys = []
        for index, item in enumerate(items):
            place = f"{path}[{index}]"
            if isinstance(item, dict):
                keys.append(self.section(ApiKey, plant(item, source, place, self.faults), place))
            else:
                self.faults.append(mapping_wanted(Given(source, item), place))
        return tuple(key for key in keys if key is not None)

    def _sources(self, node: Given | Tree, path: str) -> dict[str, SourceSettings]:
        if isinstance(node, Given):
            if node.value not in (None, {}):
                self.faults.append(mapping_wanted(node, path))
            return {}
        sources: dict[str, SourceSettings] = {}
        for name, below in node.items():
            place = join(path, name)
            self.sources[place] = source_of(below)
            try:
                read_source_name(name)
            except BadValue as refusal:
                self.faults.append(Fault(source_of(below), place, show(name), str(refusal)))
                continue
            source = self.section(SourceSettings, below, place)
            if source is not None:
                sources[name] = source
        return sources

    def _tables(self, node: Given | Tree, path: str) -> dict[TableId, TableDef]:
        if isinstance(node, Given):
            if node.value not in (None, {}):
                self.faults.append(mapping_wanted(node, path))
            return {}
        tables: dict[TableId, TableDef] = {}
        for name, declaration in node.items():
            place = join(path, name)
            self.sources[place] = source_of(declaration)
            table = self._table(name, declaration, place)
            if table is not None and table.id in tables:
                cure = "two names differ in case only: keep one"
                self.faults.append(Fault(source_of(declaration), place, "given twice", cure))
            elif table is not None:
                tables[table.id] = table
        return tables

    def _hooks(self, node: Given | Tree, path: str) -> dict[str, HookSettings]:
        if isinstance(node, Given):
            if node.value not in (None, {}):
                self.faults.append(mapping_wanted(node, path))
            return {}
        hooks: dict[str, HookSettings] = {}
        for name, given in node.items():
            place = join(path, name)
            if not is_hook_name(name):
                self.faults.append(Fault(source_of(given), place, show(name), HOOK_NAME_CURE))
            hook = self.section(HookSettings, given, place)
            if hook is not None:
                hooks[name] = hook
        return hooks

    def _table(self, name: str, declaration: Given | Tree, path: str) -> TableDef | None:
        try:
            table_id = parse_table_name(name)
        except BadValue as refusal:
            self.faults.append(Fault(source_of(declaration), path, show(name), str(refusal)))
            return None
        declared = self.section(TableDeclaration, declaration, path)
        if declared is None:
            return None
        # Faulty keys have their defaults by now, which contradict nothing.
        table = table_of(table_id, declared)
        for key, value, cure in contradictions(table):
            fault = Fault(self.sources[path], join(path, key), value, cure)
            if key == "indexes" and not table.is_keyed:
                self._unkeyed.append((table.id, fault))
            else:
                self.faults.append(fault)
        return table

    def _refuse_unknown(self, tree: Tree, known: Iterable[str], path: str) -> None:
        """A fault per unknown key. Their values stay hidden: `secrte: …` is one letter away."""
        for key, node in tree.items():
            if key not in known:
                cure = _nearest(key, list(known), path)
                self.faults.append(Fault(source_of(node), join(path, key), "unknown key", cure))


def _nearest(key: str, known: list[str], path: str) -> str:
    # KALAM_NOTIFY_SERVER_LISTEN, with one underscore, arrives here as server_listen.
    flat = {place.replace(".", "_"): place for place in key_paths(Config)}
    close = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.6)
    if close and key not in flat:
        return f"did you mean {join(path, close[0])}?"
    elsewhere = [place for place in key_paths(Config) if place.split(".")[-1] == key.lower()]
    if elsewhere:
        return f"did you mean {' or '.join(elsewhere)}?"
    close = difflib.get_close_matches(key.lower(), flat, n=1, cutoff=0.8)
    if close:
        return f"did you mean {flat[close[0]]}?"
    return f"known keys here: {', '.join(known)}"


@cache
def key_paths(cls: type[msgspec.Struct], prefix: str = "") -> tuple[str, ...]:
    """Every key path of a settings struct, sections opened, in order."""
    paths: list[str] = []
    for name, hint in _hints(cls).items():
        path = join(prefix, name)
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            paths.extend(key_paths(hint, path))
        else:
            paths.append(path)
    return tuple(paths)


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


@cache
def _fields(cls: type[msgspec.Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    return {field.name: field for field in msgspec.structs.fields(cls)}


@cache
def _reader(cls: type, name: str) -> Reader[Any]:
    metadata = getattr(_hints(cls)[name], "__metadata__", ())
    return next(mark for mark in metadata if isinstance(mark, Reader))


def _expectation(cls: type, name: str) -> str:
    """What a required key takes, learned from its own reader's refusal of nothing."""
    try:
        _reader(cls, name).read(None)
    except BadValue as refusal:
        return str(refusal)
    return "a value"
