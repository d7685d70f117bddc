"""`ingest`: what other programs call our tables, and the hooks they post to."""

import re
from collections.abc import Mapping
from typing import Annotated

import msgspec

from kalam_notify.config import readers as r
from kalam_notify.config.credentials import secret_text
from kalam_notify.config.readers import BadValue
from kalam_notify.config.tables import parse_table_name
from kalam_notify.config.tree import Given
from kalam_notify.model import TableId

FORMATS = (
    *("kalam", "debezium", "cloudevents", "supabase", "sequin"),
    *("maxwell", "wal2json", "kafka-connect", "hasura"),
)
"""What a hook may be told to expect; a test holds them to `formats.recognise`."""

HOOK_NAME_CURE = "a hook's name is 1 to 64 letters, digits, - and _: it is part of its address"
_HOOK_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


def is_hook_name(name: str) -> bool:
    return _HOOK_NAME.fullmatch(name) is not None


def _read_mapping(value: object) -> Mapping[str, TableId]:
    if not isinstance(value, Mapping):
        raise BadValue(
            "give a mapping of foreign names to tables, such as {shop.public.orders: app.orders}"
        )
    tables = {}
    for name, given in value.items():
        table = given.value if isinstance(given, Given) else given
        if not isinstance(name, str) or not isinstance(table, str):
            raise BadValue("give each foreign name a table as namespace.name")
        tables[name] = parse_table_name(table)
    return tables


def _read_secret(value: object) -> str:
    secret = secret_text.read(value)
    if secret.removeprefix("v1,").startswith("whsec_"):
        # The same as auth.webhooks, which is not to be known here.
        if not re.fullmatch(r"[A-Za-z0-9+/]{32,88}={0,2}", secret.partition("whsec_")[2]):
            raise BadValue("give whsec_ and the base64 of 24 to 64 random bytes")
    elif len(secret) < 8 or not secret.isascii() or not secret.isprintable():
        raise BadValue("give 8 or more ASCII characters: it stands in a header")
    return secret


class HookSettings(msgspec.Struct, frozen=True):
    """One hook: who may post to it, and what."""

    # Any of them holds, so that one can be changed while the other is in use.
    secrets: Annotated[
        str | tuple[str, ...],
        r.one_or_more(r.Reader(_read_secret, is_secret=True)).hidden(),
    ]
    # The tables that may be written; None: any.
    tables: Annotated[
        tuple[TableId, ...] | None,
        r.nullable(r.list_of(r.Reader(lambda value: parse_table_name(r.text.read(value))))),
    ] = None
    # None: whichever is recognised.
    format: Annotated[str | None, r.nullable(r.choice(*FORMATS))] = None

    @property
    def every_secret(self) -> tuple[str, ...]:
        return (self.secrets,) if isinstance(self.secrets, str) else self.secrets

    def __repr__(self) -> str:
        """Without the secrets: a configuration may end up in a log line."""
        return f"HookSettings(tables={self.tables!r}, format={self.format!r}, …)"


class IngestSettings(msgspec.Struct, frozen=True):
    # Ours by the names that senders give them: `database.schema.table`, or the end of it.
    tables: Annotated[Mapping[str, TableId], r.Reader(_read_mapping)] = msgspec.field(
        default_factory=dict
    )
    hooks: Mapping[str, HookSettings] = msgspec.field(default_factory=dict)

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every secret of every hook."""
        return tuple(one for hook in self.hooks.values() for one in hook.every_secret)
