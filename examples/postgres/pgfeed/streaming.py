"""The slot's changes: peek, post, and only then advance."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from pgfeed.catalog import Table, describe
from pgfeed.decoding import Decoder, Draft, Message, decode, encode_change
from pgfeed.faults import FeederFault
from pgfeed.outbox import Outbox
from pgfeed.session import Session
from pgfeed.state import State, StateDirectory
from pgfeed.truncation import KeyReader, deletes
from pgfeed.values import Types

_log = logging.getLogger("feeder.stream")

# Rows of one peek: whole transactions until this many are reached.
PEEK_ROWS = 10_000
_FETCH_ROWS = 2_000


class Stream:
    """Feeds what the slot tells, pass by pass.

    Invariant: the slot is advanced only over transactions that the daemon has acknowledged or that
    hold no change of the chosen tables.
    """

    def __init__(
        self,
        session: Session,
        directory: StateDirectory,
        state: State,
        tables: Mapping[str, Table],
        outbox: Outbox,
        keys: KeyReader,
    ) -> None:
        self._session = session
        self._directory = directory
        self._prefix = state.id_prefix
        self._tables = dict(tables)
        self._numeric = state.numeric
        self._decoder = Decoder(Types(state.numeric))
        self._outbox = outbox
        self._keys = keys
        self._options = wal2json_options(tables)
        self._seen: str | None = None

    def run_once(self) -> bool:
        """One pass; False when there was nothing new in the WAL."""
        # Read before the peek: whatever was committed before this point, the peek has told.
        flushed = str(self._session.value("SELECT pg_current_wal_flush_lsn()::text"))
        if flushed == self._seen:
            return False
        rows, end = self._feed(self._peek())
        self._outbox.flush()
        if rows < PEEK_ROWS:
            end = later(end, flushed)
        if end is not None:
            self._advance(end)
        self._seen = flushed if rows < PEEK_ROWS else None
        return True

    def _feed(self, rows: Iterator[tuple[str, str]]) -> tuple[int, str | None]:
        """How many rows there were, and the end of the last transaction."""
        count, end, commit, position = 0, None, "", 0
        for count, (lsn, data) in enumerate(rows, 1):  # noqa: B007 - the last count is the result
            message = decode(data)
            match message.action:
                case "B":
                    commit, position = message.lsn, 0
                case "C":
                    self._outbox.end_transaction()
                    end = lsn
                case "I" | "U" | "D" | "T":
                    position = self._add(message, commit, position)
        return count, end

    def _add(self, message: Message, commit: str, position: int) -> int:
        """Add the changes of one message; returns the next free position in its transaction."""
        table = self._tables[f"{message.schema}.{message.table}"]
        if message.action == "T":
            return self._truncate(table, commit, position)
        if any(column.name not in table.columns for column in message.columns):
            table = self._notice_new_columns(message, table)
        for draft in self._decoder.drafts(message, table):
            self._post(table, draft, f"{commit}.{position}")
            position += 1
        return position

    def _notice_new_columns(self, message: Message, table: Table) -> Table:
        """An ALTER TABLE: judge the table again, for it may now have values too long to be told."""
        [now] = describe(self._session.connection, [table.name], self._numeric)
        seen = {column.name: column.type for column in message.columns}
        now = now._replace(columns=table.columns | seen | now.columns)
        self._tables[table.name] = now
        return now

    def _truncate(self, table: Table, commit: str, position: int) -> int:
        if table.key:
            # The daemon must stand exactly where the TRUNCATE stood.
            self._outbox.flush()
            label = f"{commit.replace('/', '-')}-{position}"
            drafts = deletes(self._keys, table, self._directory.truncation(label))
            for number, draft in enumerate(drafts):
                self._post(table, draft, f"{commit}.{position}.{number}")
        return position + 1

    def _post(self, table: Table, draft: Draft, place: str) -> None:
        self._outbox.add(encode_change(table.name, draft, f"{self._prefix}.{place}"))

    def _peek(self) -> Iterator[tuple[str, str]]:
        """`(lsn, message)`: of a commit, the LSN is where the next transaction may begin.

        A cursor on the server, so that a transaction of any size passes through bounded memory.
        """
        connection = self._session.connection
        self._session.warnings.clear()
        with connection.transaction(), connection.cursor(name="peek") as cursor:
            cursor.itersize = _FETCH_ROWS
            cursor.execute(
                "SELECT lsn::text, data FROM pg_logical_slot_peek_changes("
                "%s, NULL, %s, VARIADIC %s::text[])",
                (self._session.slot_name, PEEK_ROWS, self._options),
            )
            rows: Iterator[tuple[Any, ...]] = iter(cursor)
            first = next(rows, None)
            self._refuse_warnings()
            if first is not None:
                yield first[0], first[1]
                yield from ((lsn, data) for lsn, data in rows)

    def _refuse_warnings(self) -> None:
        """wal2json warns where it leaves a change out; all warnings precede the first row."""
        if self._session.warnings:
            raise FeederFault(
                f"{self._session.warnings[0]}: PostgreSQL cannot tell a change that was made; "
                "give the table REPLICA IDENTITY FULL and start over with a new slot"
            )

    def _advance(self, end: str) -> None:
        slot = self._session.slot()
        if slot is None:
            raise FeederFault(f"slot {self._session.slot_name} is gone: start over with a new one")
        if as_number(end) > as_number(slot.confirmed):
            self._session.value(
                "SELECT end_lsn FROM pg_replication_slot_advance(%s, %s::pg_lsn)",
                (self._session.slot_name, end),
            )
        self._directory.forget_truncations()


def wal2json_options(tables: Mapping[str, Table]) -> list[str]:
    """Name, value, name, value, ... for the plugin."""
    options = {
        "format-version": "2",
        "include-lsn": "true",
        "actions": "insert,update,delete,truncate",
        "add-tables": ",".join(tables),
    }
    return [part for option in options.items() for part in option]


def as_number(lsn: str) -> int:
    """An LSN as the byte position it stands for: `16/B374D848` -> 0x16B374D848."""
    high, _, low = lsn.partition("/")
    return int(high, 16) << 32 | int(low, 16)


def later(one: str | None, other: str) -> str:
    return other if one is None or as_number(other) > as_number(one) else one
