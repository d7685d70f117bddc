"""The sources of a configuration: databases whose tables are followed."""

import re
from collections.abc import Mapping, Sequence
from fnmatch import translate
from functools import lru_cache
from typing import Annotated
from urllib.parse import unquote, urlsplit

import msgspec

from kalam_notify.config import readers as r
from kalam_notify.config.readers import BadValue
from kalam_notify.model import TableId, table_parts

GIB = 1 << 30

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_SLOT = re.compile(r"[a-z0-9_]{1,63}")
_PART = r'(?:"(?:[^"]|"")+"|[A-Za-z_*?][A-Za-z0-9_*?$]*)'
_PATTERN = re.compile(rf"!?({_PART})\.({_PART})")

URL_CURE = "give postgresql://user:password@host:5432/database"


def _read_url(value: object) -> str:
    url = r.plain_text.read(value)
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise BadValue(URL_CURE) from None
    if parts.scheme not in ("postgresql", "postgres"):
        raise BadValue(URL_CURE)
    return url


def _read_pattern(value: object) -> str:
    if not isinstance(value, str) or _PATTERN.fullmatch(value) is None:
        raise BadValue(
            'give schema.table, such as public.orders, public.* or public."User"; ! before it '
            "leaves out what it names"
        )
    return value


def _read_slot(value: object) -> str:
    if not isinstance(value, str) or _SLOT.fullmatch(value) is None:
        raise BadValue("give 1 to 63 lower-case letters, digits and _")
    return value


def read_source_name(name: str) -> str:
    """A source's name, part of the names of its slot and its publication; raises BadValue."""
    if _NAME.fullmatch(name) is None:
        raise BadValue("give a name of 1 to 40 lower-case letters, digits and _, a letter first")
    return name


def _read_patterns(value: object) -> tuple[str, ...]:
    # A name in quotes may hold a comma, so text is one pattern here and never a list.
    items = r.as_list(value) if not isinstance(value, str) or value.startswith("[") else [value]
    if not items:
        raise BadValue("name at least one table, such as public.*")
    return r.read_all(r.Reader(_read_pattern), items)


class SourceSettings(msgspec.Struct, frozen=True):
    """One source. `publication` and `slot`, None: `kalam_` and the source's name."""

    postgres: Annotated[str, r.Reader(_read_url).hidden()]
    tables: Annotated[tuple[str, ...], r.Reader(_read_patterns)] = ("public.*",)
    access: Annotated[str, r.choice("public", "restricted", "private", "dba")] = "private"
    publication: Annotated[str | None, r.nullable(r.Reader(_read_slot))] = None
    slot: Annotated[str | None, r.nullable(r.Reader(_read_slot))] = None
    # Bytes of its write-ahead log that the database keeps for us at most.
    max_slot_bytes: Annotated[int, r.size()] = 10 * GIB
    # Whether the slot goes when the connection does: for a server that keeps nothing itself.
    is_temporary: Annotated[bool, r.boolean] = False

    @property
    def password(self) -> str | None:
        """The password in the URL, if one is."""
        password = urlsplit(self.postgres).password
        return None if password is None else unquote(password)

    def __repr__(self) -> str:
        """Without the URL: a configuration may end up in a log line."""
        return f"SourceSettings(tables={self.tables!r}, access={self.access!r}, …)"


def chosen_by(sources: Mapping[str, SourceSettings], table: TableId) -> str | None:
    """The name of a source that tells this table, if one does."""
    names = table_parts(table)
    return next((name for name, one in sources.items() if chooses(one.tables, *names)), None)


def chooses(patterns: Sequence[str], schema: str, table: str) -> bool:
    """Whether a source with these patterns tells this table."""
    chosen = [pattern for pattern in patterns if not pattern.startswith("!")]
    refused = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    names = (schema, table)
    return any(_matches(one, names) for one in chosen) and not any(
        _matches(one, names) for one in refused
    )


def _matches(pattern: str, names: tuple[str, str]) -> bool:
    return all(part.fullmatch(name) for part, name in zip(_compiled(pattern), names, strict=True))


@lru_cache(maxsize=1000)
def _compiled(pattern: str) -> tuple[re.Pattern[str], ...]:
    match = _PATTERN.fullmatch(pattern)
    assert match is not None
    return tuple(_part(part) for part in match.groups())


def _part(part: str) -> re.Pattern[str]:
    if part.startswith('"'):
        return re.compile(re.escape(part[1:-1].replace('""', '"')))
    return re.compile(translate(part.lower()))
