"""What has to be so before a source can be followed: told all at once, or set up.

`survey` looks and changes nothing. What it finds missing is either `Missing`, with the statement
that would give it, for somebody who may; or something that this role may do itself, which `set_up`
does: the publication, its tables, their replica identities.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import psycopg

from kalam_notify.config.source_settings import SourceSettings
from kalam_notify.sources.base import Missing
from kalam_notify.sources.postgres.catalogue import (
    Facts,
    PgTable,
    Unfit,
    catalogue_version,
    describe,
    quoted,
    read_facts,
    read_published,
    read_types,
)
from kalam_notify.sources.postgres.connecting import Connection, why
from kalam_notify.sources.postgres.values import Codecs

_log = logging.getLogger("kalam_notify.sources")

OLDEST: Final = 140000
# Whoever waits for a lock keeps others waiting behind it, and here a stream as well.
_LOCK_TIMEOUT = "SET lock_timeout = '500ms'"

_SERVER = """
SELECT current_setting('wal_level') AS wal_level,
       current_setting('max_replication_slots')::int AS slots,
       (SELECT count(*) FROM pg_replication_slots)::int AS used_slots,
       EXISTS (SELECT 1 FROM pg_replication_slots WHERE slot_name = %s) AS has_slot,
       current_setting('max_wal_senders')::int AS senders,
       (SELECT count(*) FROM pg_stat_activity
         WHERE backend_type = 'walsender')::int AS used_senders,
       current_user AS role, current_database() AS database,
       coalesce((SELECT rolreplication OR rolsuper FROM pg_roles
                  WHERE rolname = current_user), false)
         OR EXISTS (SELECT 1 FROM pg_roles r WHERE r.rolname IN ('rds_replication', 'rds_superuser',
                    'cloudsqlsuperuser', 'azure_pg_admin') AND pg_has_role(r.oid, 'MEMBER'))
         AS may_replicate,
       has_database_privilege(current_database(), 'CREATE') AS may_create,
       pg_is_in_recovery() AS is_standby,
       current_setting('server_version_num')::int AS release
"""
_PUBLICATION = """
SELECT pg_has_role(pubowner, 'USAGE') AS is_owned, puballtables AS is_for_all,
       pubviaroot AS via_root,
       pubinsert AND pubupdate AND pubdelete AND pubtruncate AS tells_all,
       {generated} AS tells_generated
  FROM pg_publication WHERE pubname = %s
"""
# The release from which a publication may tell generated columns that are stored.
_GENERATED: Final = 180000
_WRITERS = """
SELECT DISTINCT virtualtransaction FROM pg_locks
 WHERE locktype = 'relation' AND relation = ANY(%s::oid[]) AND granted AND pid <> pg_backend_pid()
   AND mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
"""


class Server(NamedTuple):
    wal_level: str
    slots: int
    used_slots: int
    has_slot: bool
    senders: int
    used_senders: int
    role: str
    database: str
    may_replicate: bool
    may_create: bool
    is_standby: bool
    release: int


class Publication(NamedTuple):
    is_owned: bool
    is_for_all: bool
    via_root: bool
    tells_all: bool
    tells_generated: bool


class Survey(NamedTuple):
    """What there is, what is missing, and which statements this role may run to get on."""

    missing: list[Missing]
    steps: list[str]
    # Tables that the steps add to the publication.
    added: list[Facts]
    tables: list[PgTable]
    unfit: list[Unfit]
    # Of the catalogue, as of before the look: what comes later is seen at the next one.
    version: str = ""


class Names(NamedTuple):
    """What the source's objects in the database are called."""

    slot: str
    publication: str


async def survey(connection: Connection, settings: SourceSettings, names: Names) -> Survey:
    """Look at everything; raises psycopg.Error where the database cannot be asked."""
    version = connection.info.server_version
    if version < OLDEST:
        what = f"PostgreSQL {version // 10000} is too old"
        return Survey([Missing(what, "run PostgreSQL 14 or newer")], [], [], [], [])
    catalogue = await catalogue_version(connection, names.publication)
    server = await _server(connection, names.slot)
    missing = [*_of_the_server(server)]
    codecs = await read_types(connection)
    facts = await read_facts(connection, settings)
    published = await read_published(connection, names.publication)
    publication = await _publication(connection, names.publication)
    chosen, unfit = _fit(facts, codecs)
    missing += _of_the_tables(chosen, server)
    steps, lacking = _identities(chosen)
    missing += lacking
    added = [one for one in chosen if (one.schema, one.name) not in published]
    more, lacking = _of_the_publication(publication, names.publication, chosen, added, server)
    missing += lacking
    tables: list[PgTable] = []
    for one in chosen:
        if (one.schema, one.name) in published:
            tells = publication is not None and publication.tells_generated
            found = describe(one, codecs, published, tells_generated=tells)
            if isinstance(found, PgTable):
                tables.append(found)
            else:
                unfit.append(found)
    return Survey(missing, steps + more, added if more else [], tables, unfit, catalogue)


async def _server(connection: Connection, slot: str) -> Server:
    row = await (await connection.execute(_SERVER, (slot,))).fetchone()
    assert row is not None
    return Server(*row)


async def _publication(connection: Connection, name: str) -> Publication | None:
    knows = connection.info.server_version >= _GENERATED
    query = _PUBLICATION.format(generated="pubgencols = 's'" if knows else "false")
    row = await (await connection.execute(query, (name,))).fetchone()
    return None if row is None else Publication(*row)


def _of_the_server(server: Server) -> Sequence[Missing]:
    found = []
    if server.wal_level != "logical":
        found.append(
            Missing(
                f"wal_level is {server.wal_level}, but its changes are read from the WAL",
                "ALTER SYSTEM SET wal_level = logical;  -- then restart PostgreSQL",
            )
        )
    if not server.may_replicate:
        found.append(
            Missing(
                f"role {server.role} may not replicate",
                f"ALTER ROLE {quoted(server.role)} REPLICATION;  -- as a superuser",
            )
        )
    if not server.has_slot and server.used_slots >= server.slots:
        found.append(
            Missing(
                f"all {server.slots} replication slots are taken",
                f"ALTER SYSTEM SET max_replication_slots = {server.slots + 5};"
                "  -- then restart PostgreSQL, or drop a slot that nobody uses",
            )
        )
    if server.used_senders >= server.senders:
        found.append(
            Missing(
                f"all {server.senders} WAL senders are taken",
                f"ALTER SYSTEM SET max_wal_senders = {server.senders + 5};"
                "  -- then restart PostgreSQL",
            )
        )
    if server.is_standby:
        found.append(Missing("the server is a standby", "name the primary in the URL"))
    return found


def _fit(facts: Sequence[Facts], codecs: Codecs) -> tuple[list[Facts], list[Unfit]]:
    """Which tables can be told at all: the others are not published either."""
    chosen, unfit = [], []
    for one in facts:
        everything: Mapping[tuple[str, str], tuple[None, None]] = {
            (one.schema, one.name): (None, None)
        }
        found = describe(one, codecs, everything, tells_generated=False)
        if isinstance(found, Unfit):
            unfit.append(found)
        else:
            chosen.append(one)
    return chosen, unfit


def _of_the_tables(facts: Sequence[Facts], server: Server) -> Sequence[Missing]:
    role = quoted(server.role)
    found = []
    for schema in sorted({one.schema for one in facts if not one.is_readable}):
        labels = ", ".join(
            one.label for one in facts if one.schema == schema and not one.is_readable
        )
        found.append(
            Missing(
                f"role {server.role} may not read {labels}",
                f"GRANT USAGE ON SCHEMA {quoted(schema)} TO {role};"
                f" GRANT SELECT ON {labels} TO {role};",
            )
        )
    hidden = [one.label for one in facts if one.hides_rows]
    if hidden:
        found.append(
            Missing(
                f"row level security hides rows of {', '.join(hidden)} from role {server.role}",
                f"ALTER ROLE {role} BYPASSRLS;  -- as a superuser",
            )
        )
    return found


def _identities(facts: Sequence[Facts]) -> tuple[list[str], list[Missing]]:
    """Published tables want an identity: without one PostgreSQL refuses their updates."""
    steps, lacking = [], []
    for one in facts:
        if not one.lacks_identity:
            continue
        kind = "DEFAULT" if one.primary_key and one.identity == "n" else "FULL"
        statement = f"ALTER TABLE {one.label} REPLICA IDENTITY {kind}"
        if one.is_owned:
            steps.append(statement)
        else:
            lacking.append(
                Missing(
                    f"{one.label} has no replica identity, so its updates and deletes are not told",
                    f"{statement};  -- as its owner",
                )
            )
    return steps, lacking


_OPTIONS = "publish_via_partition_root = true"
_MORE_OPTIONS = f"{_OPTIONS}, publish_generated_columns = stored"


def _of_the_publication(
    publication: Publication | None,
    name: str,
    chosen: Sequence[Facts],
    added: Sequence[Facts],
    server: Server,
) -> tuple[list[str], list[Missing]]:
    labels = ", ".join(one.label for one in added)
    what = f"publication {name} does not tell {labels}"
    if publication is None:
        tables = f" FOR TABLE {labels}" if added else ""
        options = _MORE_OPTIONS if server.release >= _GENERATED else _OPTIONS
        statement = f"CREATE PUBLICATION {quoted(name)}{tables} WITH ({options})"
        may = server.may_create and all(one.is_owned for one in added)
        what = f"there is no publication {name}"
        return _done_or_told(may, [statement], what)
    statements = []
    if added and not publication.is_for_all:
        statements.append(f"ALTER PUBLICATION {quoted(name)} ADD TABLE {labels}")
    may = publication.is_owned and all(one.is_owned for one in added)
    if not publication.via_root and any(one.kind == "p" for one in chosen):
        statements.append(f"ALTER PUBLICATION {quoted(name)} SET ({_OPTIONS})")
        what = f"publication {name} does not tell partitioned tables by their root"
    if not publication.tells_all:
        everything = "publish = 'insert, update, delete, truncate'"
        statements.append(f"ALTER PUBLICATION {quoted(name)} SET ({everything})")
        what = f"publication {name} leaves out kinds of changes"
    return _done_or_told(may, statements, what) if statements else ([], [])


def _done_or_told(may: bool, statements: list[str], what: str) -> tuple[list[str], list[Missing]]:
    if may:
        return statements, []
    return [], [Missing(what, "; ".join(statements) + ";  -- as the owner of the tables")]


async def set_up(connection: Connection, found: Survey) -> list[Missing]:
    """Run the steps of a survey; what could not be done. Looking again shows what came of it."""
    if not found.steps:
        return []
    refused = []
    await connection.execute(_LOCK_TIMEOUT)
    for statement in found.steps:
        try:
            await connection.execute(statement.encode())
            _log.info("set up in the database: %s", statement)
        except psycopg.errors.LockNotAvailable as fault:
            refused.append(Missing(f"{statement}: {why(fault)}", "it is tried again"))
        except psycopg.OperationalError:
            raise
        except psycopg.Error as fault:
            refused.append(Missing(f"{statement}: {why(fault)}", f"{statement};"))
    await connection.execute("RESET lock_timeout")
    return refused


async def outlive_writers(connection: Connection, found: Survey) -> None:
    """Wait for the transactions that write to tables which a survey's steps have published.

    What they wrote before is not told, and a copy does not see it until they have ended.
    """
    oids = [one.oid for one in found.added]
    waits_for = await writers(connection, oids)
    while waits_for:
        await asyncio.sleep(0.02)
        waits_for &= await writers(connection, oids)


async def writers(connection: Connection, oids: Sequence[int]) -> set[str]:
    """The transactions that hold locks for writing on any of these tables."""
    if not oids:
        return set()
    rows = await (await connection.execute(_WRITERS, (list(oids),))).fetchall()
    return {row[0] for row in rows}
