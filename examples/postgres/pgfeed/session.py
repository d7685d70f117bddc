"""Connections to PostgreSQL."""

import logging
import re
import threading
from typing import Any, NamedTuple

import psycopg

from pgfeed.faults import SetupFault, Stopping
from pgfeed.values import SESSION_SETTINGS

_log = logging.getLogger("feeder.postgres")
_LOCK_PAUSE = 0.2
_SLOT = re.compile(r"[a-z0-9_]{1,63}")


class Slot(NamedTuple):
    plugin: str
    # Everything committed before it has been acknowledged.
    confirmed: str


class Session:
    """One autocommit connection, and the lock that keeps a second feeder off the same slot."""

    def __init__(self, dsn: str, slot: str) -> None:
        if not _SLOT.fullmatch(slot):
            raise SetupFault(f"--slot {slot}: 1 to 63 of a-z, 0-9 and _")
        self._dsn = dsn
        self.slot_name = slot
        self.warnings: list[str] = []
        self.connection: psycopg.Connection[Any] = psycopg.connect(
            dsn, autocommit=True, options=SESSION_SETTINGS
        )
        # A policy that hides rows from this user must be an error, not a gap.
        self.connection.execute("SET row_security = off")
        self.connection.add_notice_handler(self._on_notice)

    def close(self) -> None:
        self.connection.close()

    def lock(self, stop: threading.Event) -> None:
        """Wait until no other feeder works on this slot; raises Stopping when asked to end.

        The lock is the connection's, so PostgreSQL frees it when a killed feeder's connection
        ends, which is when that feeder can no longer move the slot.
        """
        warned = False
        while not self.value(
            "SELECT pg_try_advisory_lock(hashtext('kalam feeder'), hashtext(%s))",
            (self.slot_name,),
        ):
            if not warned:
                _log.warning("another feeder holds slot %s, waiting for it to end", self.slot_name)
                warned = True
            if stop.wait(_LOCK_PAUSE):
                raise Stopping

    def value(self, sql: str, parameters: tuple[Any, ...] = ()) -> Any:
        """The first column of the first row, None where there is none."""
        # psycopg wants literal SQL; every statement of this package is a constant.
        row = self.connection.execute(sql.encode(), parameters or None).fetchone()
        return None if row is None else row[0]

    def slot(self) -> Slot | None:
        row = self.connection.execute(
            "SELECT plugin, confirmed_flush_lsn::text FROM pg_replication_slots "
            "WHERE slot_name = %s AND database = current_database()",
            (self.slot_name,),
        ).fetchone()
        return None if row is None else Slot(*row)

    def replication_connection(self) -> psycopg.Connection[Any]:
        """A connection that speaks the replication protocol."""
        return psycopg.connect(
            self._dsn, autocommit=True, replication="database", options=SESSION_SETTINGS
        )

    def _on_notice(self, notice: psycopg.errors.Diagnostic) -> None:
        text = f"{notice.severity}: {notice.message_primary}"
        _log.warning("%s", text)
        if notice.severity_nonlocalized == "WARNING":
            self.warnings.append(text)
