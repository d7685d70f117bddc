"""What PostgreSQL's catalogue says of the tables that a source follows.

One query tells everything of every table; the same query, hashed by the server, tells whether
anything has changed. What makes rows read otherwise without a change being told (a column more, a
type altered, a rewritten table, a renamed value of an enum) is in the `fingerprint`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import class_row

from kalam_notify.config.source_settings import SourceSettings, chooses
from kalam_notify.config.tables import is_column_name
from kalam_notify.model import TableId, table_id
from kalam_notify.sources.base import Definition
from kalam_notify.sources.postgres.values import Codec, Codecs, TypeInfo, UnfitForKey, refuse_as_key

Connection = psycopg.AsyncConnection[Any]

_TABLES = """
SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name, c.relkind::text AS kind,
       c.relreplident::text AS identity,
       CASE WHEN c.relkind = 'p' THEN 0 ELSE c.relfilenode::bigint END AS storage,
       pg_has_role(c.relowner, 'USAGE') AS is_owned,
       has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') AS is_readable,
       row_security_active(c.oid) AS hides_rows,
       (SELECT coalesce(jsonb_agg(jsonb_build_array(
                   a.attnum, a.attname, a.atttypid::bigint, a.atttypmod, a.attgenerated::text,
                   (SELECT md5(string_agg(e.enumlabel, ',' ORDER BY e.enumsortorder))
                      FROM pg_enum e WHERE e.enumtypid = a.atttypid))
               ORDER BY a.attnum), '[]')
          FROM pg_attribute a
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
       (SELECT jsonb_agg(jsonb_build_array(i.indisprimary, i.indimmediate,
                   (SELECT jsonb_agg(a.attname ORDER BY k.place)
                      FROM unnest(i.indkey) WITH ORDINALITY AS k(attnum, place)
                      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
                     WHERE k.place <= i.indnkeyatts)))
          FROM pg_index i
         WHERE i.indrelid = c.oid AND i.indisvalid
           AND (i.indisprimary OR (i.indisreplident AND c.relreplident = 'i'))) AS keys
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'
   AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_'
"""
_PUBLISHED = """
SELECT schemaname, tablename, {attnames} AS columns, {rowfilter} AS filter
  FROM pg_publication_tables WHERE pubname = %s
"""
_TYPES = """
SELECT t.oid::bigint, t.typname, t.typtype::text, t.typbasetype::bigint, t.typtypmod,
       coalesce((SELECT e.oid FROM pg_type e WHERE e.typarray = t.oid), 0)::bigint, t.typdelim::text
  FROM pg_type t
"""
_CHANGED = f"""
SELECT md5(coalesce(string_agg(t::text, ';' ORDER BY t.oid), ''))
       || (SELECT md5(coalesce(string_agg(p::text, ';' ORDER BY p::text), ''))
             FROM pg_publication_tables p WHERE p.pubname = %s)
  FROM ({_TABLES}) t
"""


class Column(NamedTuple):
    number: int
    name: str
    type_oid: int
    modifier: int
    # Empty; s: generated and stored; v: generated when it is read.
    generated: str
    # Of an enum: its values, hashed.
    labels: str | None


class Facts(NamedTuple):
    """A table as the catalogue has it."""

    oid: int
    schema: str
    name: str
    kind: str
    identity: str
    storage: int
    is_owned: bool
    is_readable: bool
    hides_rows: bool
    columns: list[Any]
    keys: list[Any] | None

    @property
    def label(self) -> str:
        """Its name for SQL."""
        return f"{quoted(self.schema)}.{quoted(self.name)}"

    @property
    def id(self) -> TableId | None:
        return table_id(self.schema, self.name)

    @property
    def all_columns(self) -> list[Column]:
        return [
            Column(number, name, type_oid, modifier, generated, labels)
            for number, name, type_oid, modifier, generated, labels in self.columns
        ]

    @property
    def primary_key(self) -> tuple[str, ...]:
        return next((tuple(names) for is_primary, _, names in self.keys or () if is_primary), ())

    @property
    def key(self) -> tuple[str, ...]:
        """The columns that name a row, which are those that the WAL tells of an old one."""
        if self.identity == "i":
            return next((tuple(names) for primary, _, names in self.keys or () if not primary), ())
        return self.primary_key

    @property
    def key_is_immediate(self) -> bool:
        wants_primary = self.identity != "i"
        return all(now for primary, now, _ in self.keys or () if bool(primary) is wants_primary)

    @property
    def lacks_identity(self) -> bool:
        """Whether PostgreSQL would refuse updates and deletes of it once it is published."""
        if self.identity == "d":
            return not self.primary_key or not self.key_is_immediate
        return self.identity == "n"


class PgTable(NamedTuple):
    """A table that is followed."""

    facts: Facts
    id: TableId
    # Those that are told, in their order.
    columns: dict[str, Codec]
    key: tuple[str, ...]
    # A publication's condition on rows; None: all.
    row_filter: str | None
    definition: Definition


class Unfit(NamedTuple):
    """A table that is not told, and why."""

    label: str
    why: str


def quoted(name: str) -> str:
    """An identifier for SQL."""
    return '"' + name.replace('"', '""') + '"'


async def read_types(connection: Connection) -> Codecs:
    rows = await (await connection.execute(_TYPES)).fetchall()
    return Codecs({row[0]: TypeInfo(*row) for row in rows})


async def read_facts(connection: Connection, settings: SourceSettings) -> list[Facts]:
    """Every table that the settings choose."""
    async with connection.cursor(row_factory=class_row(Facts)) as cursor:
        found = await (await cursor.execute(_TABLES)).fetchall()
    found.sort(key=lambda one: (one.schema, one.name))
    return [one for one in found if chooses(settings.tables, one.schema, one.name)]


async def read_published(
    connection: Connection, publication: str
) -> dict[tuple[str, str], tuple[Sequence[str] | None, str | None]]:
    """What the publication tells: by schema and name, its columns (None: all) and condition."""
    has_lists = connection.info.server_version >= 150000
    query = _PUBLISHED.format(
        attnames="attnames" if has_lists else "NULL::name[]",
        rowfilter="rowfilter" if has_lists else "NULL::text",
    )
    rows = await (await connection.execute(query, (publication,))).fetchall()
    return {(schema, name): (columns, condition) for schema, name, columns, condition in rows}


async def catalogue_version(connection: Connection, publication: str) -> str:
    """Another text whenever a table, or what the publication tells, has changed."""
    row = await (await connection.execute(_CHANGED, (publication,))).fetchone()
    assert row is not None
    return str(row[0])


def describe(
    facts: Facts,
    codecs: Codecs,
    published: Mapping[tuple[str, str], tuple[Sequence[str] | None, str | None]],
    *,
    tells_generated: bool,
) -> PgTable | Unfit:
    """How a published table is told; an Unfit says why it is not."""
    listed, row_filter = published[facts.schema, facts.name]
    if facts.id is None:
        return Unfit(facts.label, "its name cannot be a table's here")
    columns: dict[str, Codec] = {}
    kept: list[Column] = []
    for column in facts.all_columns:
        is_told = (listed is None or column.name in listed) and is_column_name(column.name)
        if is_told and column.generated in (("", "s") if tells_generated else ("",)):
            columns[column.name] = codecs.of(column.type_oid, column.modifier)
            kept.append(column)
    why = _unfit_key(facts, columns)
    if why is not None:
        return Unfit(facts.label, why)
    definition = Definition(
        facts.key,
        {name: str(codec.type) for name, codec in columns.items()},
        _fingerprint(facts, kept, row_filter),
    )
    return PgTable(facts, facts.id, columns, facts.key, row_filter, definition)


def _unfit_key(facts: Facts, columns: Mapping[str, Codec]) -> str | None:
    for name in facts.key:
        if name not in columns:
            return f"its key column {name} is not told"
        try:
            refuse_as_key(name, columns[name])
        except UnfitForKey as unfit:
            return str(unfit)
    if facts.key and not facts.key_is_immediate:
        return "its key is DEFERRABLE: between two statements two rows may carry the same one"
    return None


def _fingerprint(facts: Facts, columns: Sequence[Column], row_filter: str | None) -> str:
    parts: list[object] = [facts.oid, facts.storage if facts.key else 0, row_filter or ""]
    parts += [(c.number, c.name, c.type_oid, c.modifier, c.labels or "") for c in columns]
    return repr(parts)
