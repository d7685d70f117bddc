"""CloudEvents 1.0: structured, in batches, and in binary mode, where the headers are the envelope.

Format: https://github.com/cloudevents/spec, cloudevents/formats/json-format.md and
cloudevents/bindings/http-protocol-binding.md. An event is known again by its `source` and `id`.

What is in `data` may be a change in our own shape or in any other that is recognised; or a row,
where the type is a table's name and a verb (`app.orders.updated`). Debezium's own events keep what
is in its envelope elsewhere among the attributes
(https://debezium.io/documentation/reference/stable/integrations/cloudevents.html). The rows of its
snapshots share an id, so theirs are made as Debezium's are.
"""

import re
from base64 import b64decode
from binascii import Error
from collections.abc import Callable, Iterable, Mapping
from typing import Final
from urllib.parse import unquote

import msgspec

from kalam_notify.formats import debezium
from kalam_notify.formats.connect_schema import schema_of
from kalam_notify.formats.parsed import (
    ABSENT,
    MessageFault,
    ParsedChange,
    Reader,
    Verb,
    digest,
    given,
    is_null,
)

Find = Callable[[msgspec.Raw | bytes], Reader | None]
"""Whose shape a message has."""

_TYPED = re.compile(
    r"(.+)\.(insert|create|update|upsert|delete|truncate)e?d?", re.DOTALL | re.IGNORECASE
)
_VERBS: Final[Mapping[str, Verb]] = {
    "insert": "insert",
    "create": "insert",
    "update": "update",
    "upsert": "upsert",
    "delete": "delete",
    "truncate": "truncate",
}


class Event(msgspec.Struct, gc=False):
    """An event: the attributes of the specification, and those that Debezium adds."""

    specversion: str = ""
    id: str = ""
    source: str = ""
    type: str = ""
    data: msgspec.Raw | bytes = ABSENT
    data_base64: str | None = None
    iodebeziumop: str | None = None
    iodebeziumconnector: str = ""
    iodebeziumname: str = ""
    iodebeziumdb: str | None = None
    iodebeziumschema: str | None = None
    iodebeziumtable: str | None = None
    iodebeziumtxtotalorder: str | None = None


class _Event(Event, gc=False):
    data: msgspec.Raw = ABSENT


_decode = msgspec.json.Decoder(_Event).decode
_decode_data = msgspec.json.Decoder(debezium.Envelope).decode


def of_headers(headers: Mapping[str, str], body: bytes) -> Event:
    """The event of a request in binary mode; `headers` by lower-case name."""
    given = {
        name.removeprefix("ce-"): unquote(value)
        for name, value in headers.items()
        if name.startswith("ce-")
    }
    known = {name: given[name] for name in Event.__struct_fields__ if name in given}
    known.pop("data_base64", None)
    return Event(**{**known, "data": body})  # type: ignore[arg-type]


def read(find: Find, message: msgspec.Raw | bytes) -> Iterable[ParsedChange]:
    """The changes of an event in structured mode."""
    return changes_of(find, _decode(message))


def changes_of(find: Find, event: Event) -> Iterable[ParsedChange]:
    """The changes that an event tells."""
    label = f"a CloudEvent of source {event.source or 'unknown'}"
    for name, value in (("id", event.id), ("source", event.source), ("type", event.type)):
        if not value:
            raise MessageFault(label, f"the {name} is missing", name)
    if event.specversion not in ("1.0", "1.0.1", "1.0.2", "0.3"):
        raise MessageFault(label, "specversion is 1.0", "specversion")
    data = _data(event, label)
    if event.type.startswith("io.debezium."):
        return _of_debezium(event, data)
    reader = find(data)
    if reader is not None:
        return _within(event, reader.read(data))
    return _typed(event, data, label)


def _data(event: Event, label: str) -> msgspec.Raw | bytes:
    data = event.data
    if event.data_base64 is not None:
        try:
            data = b64decode(event.data_base64, validate=True)
        except (Error, ValueError):
            raise MessageFault(label, "it is not base64", "data_base64") from None
    if isinstance(data, bytes):
        # Nobody has looked at it yet.
        try:
            data.decode()
        except UnicodeDecodeError:
            raise MessageFault(label, "the data is not UTF-8", "data") from None
    return data


def _of_debezium(event: Event, parsed: msgspec.Raw | bytes) -> Iterable[ParsedChange]:
    if event.iodebeziumtable is None or parsed is ABSENT or is_null(parsed):
        return ()
    data, schema, place = _decode_data(parsed), None, "data."
    if data.payload is not ABSENT:
        if given(data.schema) is not None:
            schema = schema_of(bytes(data.schema))
        data, place = _decode_data(data.payload), "data.payload."
    data.op = event.iodebeziumop
    data.source = debezium.Source(
        connector=event.iodebeziumconnector,
        name=event.iodebeziumname,
        db=event.iodebeziumdb,
        schema=event.iodebeziumschema,
        table=event.iodebeziumtable,
        # Made of the position.
        lsn=msgspec.Raw(f"{event.id} {event.iodebeziumtxtotalorder}".encode()),
    )
    changes = debezium.changes_of(data, schema, place)
    for change in changes:
        change.table_at = "iodebeziumtable"
    return changes


def _within(event: Event, changes: Iterable[ParsedChange]) -> Iterable[ParsedChange]:
    for place, parsed in enumerate(changes):
        parsed.label = f"{parsed.label} in a CloudEvent of source {event.source}"
        parsed.table_at, parsed.row_at = f"data.{parsed.table_at}", f"data.{parsed.row_at}"
        parsed.old_at = f"data.{parsed.old_at}"
        if parsed.id is None:
            parsed.id = digest("cloudevents", event.source, event.id, place)
        yield parsed


def _typed(event: Event, data: msgspec.Raw | bytes, label: str) -> Iterable[ParsedChange]:
    typed = _TYPED.fullmatch(event.type)
    if typed is None:
        raise MessageFault(
            label,
            "its data has no shape that is known, and its type is not a table's name and a verb,"
            " such as app.orders.updated",
            "data",
        )
    verb = _VERBS[typed[2].lower()]
    parsed = ParsedChange(
        label, tuple(typed[1].split(".")), "type", verb, row_at="data", old_at="data"
    )
    parsed.id = digest("cloudevents", event.source, event.id)
    if verb == "delete":
        parsed.old = data
    elif verb != "truncate":
        parsed.row = data
    return (parsed,)
