"""TRUNCATE, told as one delete per key.

The WAL names the table, not its rows. The feeder is the table's only producer, so when everything
before the TRUNCATE has been acknowledged, the rows the daemon holds are the rows that went: it
asks the daemon for their keys (a snapshot over the WebSocket). The list is put on disk before the
first delete is posted: after a crash the same list is posted again under the same ids, and rows
inserted after the TRUNCATE are never on it.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from pgfeed.catalog import Table
from pgfeed.decoding import Draft
from pgfeed.faults import FeederFault
from pgfeed.state import write_durably

_log = logging.getLogger("feeder.truncate")


class KeyReader:
    """Asks the daemon for the keys of a table's rows; `token` as for any subscriber."""

    def __init__(self, url: str, token: str | None) -> None:
        self._url = "ws" + url.removeprefix("http").rstrip("/") + "/v1/ws"
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def keys(self, table: Table) -> list[dict[str, Any]]:
        """Key column -> value, one for each row the daemon holds."""
        try:
            with connect(
                self._url, additional_headers=self._headers, compression=None, max_size=None
            ) as socket:
                return list(_snapshot(socket, table))
        except (OSError, WebSocketException) as error:
            raise FeederFault(f"the keys of {table.name} cannot be read: {error}") from error


def _snapshot(socket: ClientConnection, table: Table) -> Iterator[dict[str, Any]]:
    names = ", ".join('"' + name.replace('"', '""') + '"' for name in table.key)
    sql = f"SELECT {names} FROM {table.quoted}"
    _send(socket, "subscribe", subscription={"id": "keys", "sql": sql, "options": {}})
    for frame in socket:
        message = msgspec.json.decode(frame)
        match message["type"]:
            case "initial_data_batch":
                yield from ({name: row[name] for name in table.key} for row in message["rows"])
                if not message["batch_control"]["has_more"]:
                    return
                _send(socket, "next_batch", subscription_id="keys")
            case "error" | "auth_error":
                raise FeederFault(
                    f"a TRUNCATE of {table.name} needs the keys of its rows, but the daemon "
                    f"answers {message['message']!r}: give a --token that may subscribe to it"
                )


def _send(socket: ClientConnection, kind: str, **fields: object) -> None:
    socket.send(msgspec.json.encode({"type": kind, **fields}).decode())


def deletes(reader: KeyReader, table: Table, list_file: Path) -> Iterator[Draft]:
    """The deletes that a TRUNCATE stands for, the same ones however often they are asked for."""
    if not list_file.exists():
        keys = reader.keys(table)
        write_durably(list_file, b"".join(msgspec.json.encode(key) + b"\n" for key in keys))
        _log.info("TRUNCATE of %s: %d rows to delete", table.name, len(keys))
    with list_file.open("rb") as lines:
        for line in lines:
            key = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
            yield Draft("delete", None, {name: bytes(value) for name, value in key.items()})
