"""Changes in other programs' shapes, from a body to a batch. No I/O.

`formats` says what a message tells; here its table is found, and what it tells is held to the same
rules as a change in our own shape. A fault is told with the name of the format, the message's index
in the body, and where in the message to look.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final

import msgspec
import orjson
from msgspec.structs import replace

from kalam_notify.budget import Steps
from kalam_notify.errors import ChangeRefused
from kalam_notify.formats import cloudevents
from kalam_notify.formats.ours import OURS
from kalam_notify.formats.parsed import MessageFault, ParsedChange, Reader, laid_over
from kalam_notify.formats.recognise import FORMATS, reader_of
from kalam_notify.http.items import Form, split_array
from kalam_notify.http.refusals import explain, invalid_json, too_large, too_many
from kalam_notify.http.rules import MAX_ID_CHARS, RawChange, RuleBroken, Rules, is_too_long
from kalam_notify.model import PostedChange, TableId, parse_table_id, table_id
from kalam_notify.model.changes import key_of

# Messages between two rests: well below a millisecond.
_SLICE: Final = 32
# Commas of an array that is taken apart at once: items cannot be more.
_FEW_COMMAS: Final = 200_000

_NO_ROW: Final = RawChange("", "delete").row_data

_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_LINE = re.compile(rb"\S[^\n]*")
_FIRST = re.compile(rb"[^ \t\r\n]")


class Foreign(msgspec.Struct, frozen=True):
    """How the messages of a body are read: under which names, and into which tables.

    `format` None: whichever is recognised. `tables` are ours by the names that senders give them;
    `only` the ones that may be written, None: any.
    """

    tables: Mapping[str, TableId]
    format: Reader | None = None
    only: Collection[TableId] | None = None


def format_named(name: str | None) -> Reader | None:
    """The format of a `?format=`; None: none is asked for, or our own. Raises ChangeRefused."""
    if name is None or name == OURS.name:
        return None
    reader = FORMATS.get(name)
    if reader is None:
        known = ", ".join((OURS.name, *FORMATS))
        raise ChangeRefused(
            400, "INVALID_CHANGE", f"there is no format {name!r}: there are {known}", field="format"
        )
    return reader


def recognised(body: bytes, form: Form) -> Reader | None:
    """The format of a body's first message; None where it is our own, or none that is known."""
    first = _FIRST.search(body)
    if first is None:
        return None
    try:
        reader = reader_of(_first_message(body, form, first.group()))
    except StopIteration:
        return None
    return None if reader is OURS else reader


def _first_message(body: bytes, form: Form, first: bytes) -> bytes:
    if form is Form.LINES:
        return next(line.group() for line in _LINE.finditer(body))
    if first == b"[":
        return next(item for item in split_array(body) if item is not None)
    return body.strip()


def decode_foreign(
    body: bytes, form: Form, reader: Reader, rules: Rules, foreign: Foreign
) -> Steps[list[PostedChange]]:
    """The changes that the messages of a body tell, in order; see `decoders.decode_batch`."""
    admitting = _Admitting(rules, foreign)
    changes: list[PostedChange] = []
    for index, message in enumerate(_messages(body, form)):
        if message is None:
            yield
            continue
        admitting.message(reader, message, index, changes)
        if index % _SLICE == _SLICE - 1:
            yield
    return changes


def decode_event(
    event: cloudevents.Event, rules: Rules, foreign: Foreign
) -> Steps[list[PostedChange]]:
    """The changes of a CloudEvent whose attributes came as headers."""
    yield from ()
    admitting = _Admitting(rules, foreign)
    changes: list[PostedChange] = []
    with_data = FORMATS["cloudevents"]
    bound = Reader(
        with_data.name, with_data.title, lambda _: cloudevents.changes_of(reader_of, event)
    )
    admitting.message(bound, b"", 0, changes)
    return changes


def _messages(body: bytes, form: Form) -> Iterator[msgspec.Raw | bytes | None]:
    """The messages of a body; None where its reader may rest."""
    if form is Form.LINES:
        yield from (line.group() for line in _LINE.finditer(body))
        return
    first = _FIRST.search(body)
    if first is None:
        raise invalid_json("the body is empty")
    if first.group() != b"[":
        yield body.strip()
        return
    try:
        if body.count(b",") < _FEW_COMMAS:
            yield from _items(body)
            return
        msgspec.json.decode(body, type=msgspec.Raw)
    except msgspec.DecodeError as fault:
        raise invalid_json(str(fault)) from None
    except RecursionError:
        raise invalid_json("nested too deeply") from None
    yield from split_array(body)


class _Admitting:
    """What the messages of one body tell, on its way to changes."""

    def __init__(self, rules: Rules, foreign: Foreign) -> None:
        self._rules = rules
        self._foreign = foreign
        self._tables: dict[tuple[str, ...], TableId] = {}

    def message(
        self, reader: Reader, message: msgspec.Raw | bytes, index: int, into: list[PostedChange]
    ) -> None:
        """Add what a message tells; raises ChangeRefused."""
        try:
            for parsed in reader.read(message):
                into.extend(self._admitted(parsed, index))
                if len(into) > self._rules.limits.max_batch_changes:
                    raise too_many(self._rules.limits.max_batch_changes)
        except MessageFault as fault:
            raise _refused(f"{fault.label}: {fault.message}", index, fault.field) from None
        except msgspec.ValidationError as fault:
            raise _misshapen(reader, message, fault, index) from None
        except msgspec.DecodeError as fault:
            raise invalid_json(f"{reader.title}: {fault}", index) from None
        except RecursionError:
            raise invalid_json(f"{reader.title}: nested too deeply", index) from None

    def _admitted(self, parsed: ParsedChange, index: int) -> Iterable[PostedChange]:
        raw = self._raw(parsed, index)
        try:
            return (self._posted(raw, parsed),)
        except (RuleBroken, msgspec.ValidationError, TypeError):
            pass
        return self._with_another_key(raw, parsed) or self._doubted(raw, parsed, index)

    def _raw(self, parsed: ParsedChange, index: int) -> RawChange:
        table = self._tables.get(parsed.names)
        if table is None:
            table = self._tables[parsed.names] = self._table(parsed, index)
        raw = RawChange(table, parsed.verb, user_id=parsed.user_id, id=parsed.id)
        if parsed.row is not None:
            raw.row_data = _raw(parsed.row)
        if parsed.old is not None:
            raw.old_data = _raw(parsed.old)
        if parsed.unchanged:
            raw.unchanged = list(parsed.unchanged)
        return raw

    def _posted(self, raw: RawChange, parsed: ParsedChange) -> PostedChange:
        if raw.id is not None and not 0 < len(raw.id) <= MAX_ID_CHARS:
            raise RuleBroken
        posted = self._rules.admit(raw)
        if raw.id is not None and not parsed.omits:
            return posted
        return replace(
            posted,
            only_if_new=raw.id is None,
            unchanged=None if parsed.omits else posted.unchanged,
        )

    def _with_another_key(self, raw: RawChange, parsed: ParsedChange) -> Iterable[PostedChange]:
        """An update that moves a row to another key: the old row goes, the new one comes."""
        table = self._rules.catalog.get(TableId(raw.table))
        if parsed.row is None or parsed.old is None or table is None or not table.is_keyed:
            return ()
        try:
            old = laid_over(_raw(parsed.row), _raw(parsed.old))
            keys = [
                key_of(table.primary_key, orjson.loads(row)) for row in (old, bytes(parsed.row))
            ]
            if None in keys or keys[0] == keys[1]:
                return ()
            row = laid_over(_raw(parsed.old), _raw(parsed.row)) if parsed.omits else parsed.row
            before = None if raw.id is None else f"{raw.id}:old"
            gone = RawChange(raw.table, "delete", _NO_ROW, _raw(old), raw.user_id, before)
            come = replace(raw, row_data=_raw(row), old_data=_NO_ROW)
            parsed.omits = False
            return [self._posted(gone, parsed), self._posted(come, parsed)]
        except (RuleBroken, msgspec.MsgspecError, TypeError, ValueError):
            return ()

    def _table(self, parsed: ParsedChange, index: int) -> TableId:
        """Ours by the whole of the sender's name or its end, else by schema and table as given."""
        names = parsed.names
        mapped = next(
            (
                found
                for first in range(len(names))
                if (found := self._foreign.tables.get(".".join(names[first:]))) is not None
            ),
            None,
        )
        if parsed.is_ours:
            mapped = mapped or parse_table_id(names[0])
        if mapped is None and len(names) == 1:
            why = f"it names no schema: map the table {names[0]} under ingest.tables"
            raise _refused(f"{parsed.label}: {why}", index, parsed.table_at)
        table = mapped or table_id(names[-2], names[-1])
        if table is None or not self._rules.catalog.takes_changes(table):
            said = table or ".".join(names)
            raise _refused(
                f"{parsed.label}: the table {said} is not declared: declare it under"
                " tables.declared, or map its name to another under ingest.tables",
                index,
                parsed.table_at,
                code="UNKNOWN_TABLE",
            )
        if self._foreign.only is not None and table not in self._foreign.only:
            raise ChangeRefused(
                403,
                "FORBIDDEN",
                f"{parsed.label}: the table {table} is not among the tables of this hook",
                index=index,
                field=parsed.table_at,
            )
        return table

    def _doubted(self, raw: RawChange, parsed: ParsedChange, index: int) -> Iterable[PostedChange]:
        """A change of which a name was given twice, or its refusal in the message's own words."""
        limit = self._rules.limits.max_row_bytes
        for row, place in ((raw.row_data, parsed.row_at), (raw.old_data, parsed.old_at)):
            if is_too_long(row, limit):
                raise too_large(limit, index, place)
        fields = {
            name: value
            for name, value in msgspec.structs.asdict(raw).items()
            if value is not None and not (isinstance(value, msgspec.Raw) and not len(value))
        }
        try:
            text = msgspec.json.encode(msgspec.json.decode(msgspec.json.encode(fields)))
            return (self._posted(msgspec.json.decode(text, type=RawChange), parsed),)
        except (RuleBroken, msgspec.MsgspecError, TypeError, RecursionError):
            text = msgspec.json.encode(fields)
        refusal = explain(text.decode(), index, self._rules)
        return _raise(refusal, parsed)


def _raw(row: msgspec.Raw | bytes) -> msgspec.Raw:
    return row if isinstance(row, msgspec.Raw) else msgspec.Raw(row)


def _raise(refusal: ChangeRefused, parsed: ParsedChange) -> Iterable[PostedChange]:
    field = refusal.field or ""
    top, dot, rest = field.partition(".")
    places = {"row_data": parsed.row_at, "old_data": parsed.old_at, "unchanged": parsed.row_at}
    places |= {"table": parsed.table_at, "user_id": parsed.table_at, "change_type": parsed.table_at}
    raise ChangeRefused(
        refusal.status,
        refusal.code,
        f"{parsed.label}: {refusal.message}",
        index=refusal.index,
        field=f"{places.get(top, top)}{dot}{rest}" or None,
    )


def _refused(
    message: str, index: int, field: str | None, *, code: str = "INVALID_CHANGE"
) -> ChangeRefused:
    return ChangeRefused(400, code, message, index=index, field=field)


def _misshapen(
    reader: Reader, message: msgspec.Raw | bytes, fault: msgspec.ValidationError, index: int
) -> ChangeRefused:
    """A message of another shape than its format's; msgspec tells where: ``… - at `$.a.b` ``."""
    try:
        msgspec.json.decode(message, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError) as broken:
        return invalid_json(f"{reader.title}: {broken}", index)
    why, _, place = str(fault).partition(" - at `$")
    field = place.rstrip("`").lstrip(".") or None
    return _refused(f"{reader.title}: {why}", index, field)
