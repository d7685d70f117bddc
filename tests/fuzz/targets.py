"""What parses bytes from outside, each as a function of bytes that may raise nothing.

A target lets pass what is documented: the fault that its parser raises for a client's or an
operator's doing. Whatever else comes out is a defect, as is a promise broken about what was
accepted. Targets stand on entry points that outlive what is behind them: messages, a POST's body, a
configuration's sources, HTTP, a database's write-ahead log.
"""

import atexit
import json
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import orjson
import uvloop
import yaml
from helpers.application import application, ask
from helpers.sinks import FakeConnection

from kalam_notify.auth import sign
from kalam_notify.budget import at_once as finish
from kalam_notify.config import Config, LimitSettings, Override, load_config, warnings
from kalam_notify.errors import ChangeRefused, ConfigurationFault, SubscriptionRefused
from kalam_notify.formats.recognise import FORMATS
from kalam_notify.http.decoders import Rules, at_once, decode_batch, inflate
from kalam_notify.http.foreign import Foreign as ForeignShapes
from kalam_notify.http.items import Form
from kalam_notify.model import Identity, Role, TableId, UserId
from kalam_notify.model.tables import Catalog
from kalam_notify.protocol import messages
from kalam_notify.protocol.messages import NextBatch, Subscribe, Unsubscribe
from kalam_notify.sockets import polls
from kalam_notify.sources.postgres.pgoutput import NotPgoutput
from kalam_notify.sources.postgres.positions import Position
from kalam_notify.sources.postgres.transactions import Transactions
from kalam_notify.sources.postgres.values import Codecs, TypeInfo
from kalam_notify.subscriptions.manager import ConnectionsManager
from kalam_notify.subscriptions.plans import SubscriptionHandle
from kalam_notify.subscriptions.requests import SubscriptionRequests

Target = Callable[[bytes], None]

# Files are written over and over: in memory where there is such a place.
_SHM = Path("/dev/shm")
_SCRATCH = Path(mkdtemp(prefix="kalam-fuzz-", dir=_SHM if os.access(_SHM, os.W_OK) else None))
atexit.register(shutil.rmtree, _SCRATCH, ignore_errors=True)

_SETTINGS: dict[str, Any] = {
    "server": {"listen": "127.0.0.1:0", "data_dir": str(_SCRATCH), "drain_seconds": 0},
    "auth": {"jwt": {"secret": "the-fuzzer-signs-with-this-0123456789"}, "anonymous": True},
    "log": {"url": "memory:", "retention": {"max_bytes": "1MiB"}},
    "ingest": {"hooks": {"h": {"secrets": ["the-secret-of-a-hook"]}}},
    "logging": {"level": "error"},
    "limits": {"max_batch_changes": 100, "max_row_bytes": "16KiB", "max_body_bytes": "64KiB"},
    "tables": {
        "declared": {
            "app.orders": {"type": "shared", "access": "public", "primary_key": "id"},
            "app.typed": {
                "type": "shared",
                "access": "public",
                "primary_key": ["id"],
                "columns": {
                    "id": "BigInt",
                    "status": "Text",
                    "total": "Double",
                    "open": "Boolean",
                    "at": "Timestamp",
                    "data": "Json",
                },
                "policy": "status IS NULL OR status <> 'secret'",
            },
            "app.events": {"type": "shared", "access": "public"},
            "app.notes": {"type": "user", "primary_key": ["id", "lang"]},
        }
    },
}
_ROWS: list[dict[str, Any]] = [
    {},
    {"id": 1, "status": "open", "total": 1.5, "open": True, "at": "2026-01-01T00:00:00Z"},
    {"id": -(2**63), "status": "", "total": 1e308, "open": False, "at": "no instant"},
    {"id": 2**64 - 1, "status": "%_\\\n", "total": None, "data": {"a": [1, {"b": None}]}},
    {"id": "1", "status": 1, "total": "12.50", "open": "true", "at": 0, "data": []},
]


def _config() -> Config:
    file = _SCRATCH / "settings.yaml"
    file.write_text(yaml.safe_dump(_SETTINGS))
    return load_config(file)


class _Starter:
    """Begins nothing: what is asked of a log is not fuzzed here."""

    def begin(self, handle: SubscriptionHandle) -> None:
        pass

    def next_batch(self, handle: SubscriptionHandle, last_seq: int | None) -> None:
        pass


class Requests:
    """Messages of one client, from their text to the handles of its subscriptions."""

    def __init__(self) -> None:
        config = _config()
        self._manager = ConnectionsManager()
        catalog = Catalog(config.tables.declared.values())
        self._requests = SubscriptionRequests(catalog, self._manager, _Starter())
        self._requests.configure(config.websocket, 0)
        self.identity = Identity(UserId("alice"), Role.USER, {"tenant": "x"})

    def message(self, data: bytes) -> None:
        """A text message; what is not UTF-8 never gets this far."""
        try:
            message = messages.decode(data.decode())
        except (UnicodeDecodeError, messages.Unreadable):
            return
        connection = FakeConnection(self.identity)
        self._manager.connect(connection)
        self._do(connection, message)
        self._do(connection, message)
        self._requests.disconnect(connection)

    def sql(self, data: bytes) -> None:
        """The SQL of a subscribe; a line of JSON after a NUL are its parameters."""
        text, _, given = data.decode(errors="replace").partition("\0")
        try:
            params = json.loads(given or "[]")
        except (ValueError, RecursionError):
            return
        connection = FakeConnection(self.identity)
        self._manager.connect(connection)
        subscription = {"id": "s", "sql": text, "params": params}
        said = json.dumps({"type": "subscribe", "subscription": subscription})
        try:
            message = messages.decode(said)
        except messages.Unreadable:
            return  # 1e999 is infinite here, which JSON cannot say
        self._do(connection, message)
        for handle in connection.subscriptions.values():
            for row in _ROWS:
                assert handle.plan.filter.matches(row) in (True, False)
            self._explained(text)
        self._requests.disconnect(connection)

    def _explained(self, text: str) -> None:
        # Refused where it wants parameters.
        with suppress(SubscriptionRefused):
            finish(self._requests.explain(text, self.identity))

    def _do(self, connection: FakeConnection, message: messages.ClientMessage) -> None:
        try:
            match message:
                case Subscribe(subscription=request):
                    if messages.is_subscription_id(request.id):
                        finish(self._requests.subscribe(connection, request))
                case NextBatch():
                    self._requests.next_batch(connection, message)
                case Unsubscribe(subscription_id=name):
                    self._requests.unsubscribe(connection, name)
        except SubscriptionRefused as refusal:
            # It has to be told.
            messages.error("s", refusal.code, refusal.message)


class Changes:
    """The body of a post. Its first byte says: 0 JSON, 1 NDJSON, 2 and 3 the same in gzip."""

    def __init__(self) -> None:
        config = _config()
        self._limits: LimitSettings = config.limits
        self._catalog = Catalog(config.tables.declared.values())

    def __call__(self, data: bytes) -> None:
        if not data:
            return
        form = Form.LINES if data[0] & 1 else Form.JSON
        try:
            body = data[1:]
            if data[0] & 2:
                body = inflate(body, self._limits.max_body_bytes)
            changes = at_once(decode_batch(body, form, Rules(self._catalog, self._limits)))
        except ChangeRefused as refusal:
            _must_be_documented(refusal)
            return
        for change in changes:
            table = self._catalog.get(change.table)
            assert table is not None
            assert (change.key is not None) is (table.is_keyed and change.kind != "truncate")
            for row in (change.row, change.old):
                if row is not None:
                    assert len(row.json) <= self._limits.max_row_bytes
                    assert orjson.loads(row.json) == row.values


class Foreign:
    """A body in another program's shape. Its first byte says which: 0 whichever it looks like, then
    each of them; the high bit NDJSON.
    """

    def __init__(self) -> None:
        config = _config()
        self._limits: LimitSettings = config.limits
        self._catalog = Catalog(config.tables.declared.values())
        self._formats = [None, *FORMATS.values()]

    def __call__(self, data: bytes) -> None:
        if not data:
            return
        form = Form.LINES if data[0] & 128 else Form.JSON
        asked = self._formats[(data[0] & 127) % len(self._formats)]
        how = ForeignShapes({"e": TableId("app.events"), "t.typed": TableId("app.typed")}, asked)
        rules = Rules(self._catalog, self._limits)
        try:
            changes = at_once(decode_batch(data[1:], form, rules, how))
        except ChangeRefused as refusal:
            _must_be_documented(refusal)
            return
        for change in changes:
            table = self._catalog.get(change.table)
            assert table is not None
            assert (change.key is not None) is (table.is_keyed and change.kind != "truncate")
            for row in (change.row, change.old):
                if row is not None:
                    assert orjson.loads(row.json) == row.values


def _must_be_documented(refusal: ChangeRefused) -> None:
    assert refusal.status in (400, 413)
    assert refusal.code in ("INVALID_CHANGE", "INVALID_JSON", "UNKNOWN_TABLE", "TOO_LARGE")
    refusal.message.encode()


def configuration(data: bytes) -> None:
    """Sources of a configuration. The first byte says: 0 a file, 1 environment, 2 flags."""
    if not data:
        return
    kind, rest = data[0] % 3, data[1:]
    file, environ, overrides = None, {}, []
    if kind == 0:
        file = _SCRATCH / "config.yaml"
        file.write_bytes(rest)
    lines = [line.partition("=") for line in rest.decode(errors="replace").splitlines()]
    if kind == 1:
        environ = {f"KALAM_NOTIFY_{name}": value for name, _, value in lines}
    if kind == 2:
        overrides = [Override(f"--{name}", name, value) for name, _, value in lines]
    try:
        config = load_config(file, environ, overrides)
    except ConfigurationFault as fault:
        _must_be_lines(fault)
        return
    for warning in warnings(config):
        str(warning)


def _must_be_lines(fault: ConfigurationFault) -> None:
    assert fault.faults
    assert all(str(one).count("\n") == 0 for one in fault.faults), fault


_DOCUMENTED = {200, 204, 304, 400, 401, 403, 404, 405, 410, 413, 415, 426, 429, 503}
_CODE = re.compile(r"[A-Z_]+")


class Http:
    """Requests to the application of a worker, as text: a line, headers, a body.

    TOKEN and KEY in a header stand for credentials that hold.
    """

    def __init__(self) -> None:
        config = _config()
        # No input is to wait for a change that nobody makes.
        polls.LONGEST_WAIT = 0.01
        self._loop = uvloop.new_event_loop()
        self._context = application(config)
        self._application = self._loop.run_until_complete(self._context.__aenter__())
        self._token = sign(
            config.auth.jwt, "feeder", role=Role.DBA, ttl=10 * 24 * 3600.0, claims={}
        ).encode()

    def __call__(self, data: bytes) -> None:
        head, _, body = data.partition(b"\n\n")
        first, *lines = head.split(b"\n")
        method, _, target = first.decode("latin-1").partition(" ")
        headers = [self._header(line) for line in lines]
        if not method or not target.startswith("/"):
            return
        reply = self._loop.run_until_complete(ask(self._application, method, target, headers, body))
        assert reply.status in _DOCUMENTED, reply
        if reply.status >= 400 and not reply.headers["content-type"].startswith("text/"):
            # But for /readyz, and the console's page.
            error = orjson.loads(reply.body)["error"]
            assert _CODE.fullmatch(error["code"]), reply
            assert error["message"], reply

    def _header(self, line: bytes) -> tuple[bytes, bytes]:
        name, _, value = line.partition(b":")
        return name.strip().lower(), value.strip().replace(b"TOKEN", self._token)


_NAMES = (
    "bool",
    "int4",
    "float8",
    "numeric",
    "json",
    "jsonb",
    "uuid",
    "timestamptz",
    "bytea",
    "text",
)
_CODECS = Codecs(
    {
        **{n: TypeInfo(n, name, "b", 0, -1, 0, ",") for n, name in enumerate(_NAMES, 1)},
        **{n + 100: TypeInfo(n + 100, f"_{n}", "b", 0, -1, n, ",") for n in range(1, 11)},
    }
)


def wal(data: bytes) -> None:
    """Messages of PostgreSQL's plugin end to end, each after its length; or a value of a type."""
    if data[:1] == b"\0":
        _value(data[1:])
        return
    stream = Transactions(Position("s", 1, 0), BytesIO)
    with suppress(NotPgoutput):
        while data:
            length = data[0]
            list(stream.feed(data[1 : length + 1]))
            data = data[length + 1 :]


def _value(data: bytes) -> None:
    if not data:
        return
    number = data[0] % 10 + 1
    if data[0] < 128:
        # Only documents and texts may be whatever somebody has written.
        if _NAMES[number - 1] in ("json", "jsonb", "text"):
            orjson.loads(_CODECS.of(number).convert(data[1:]))
        return
    with suppress(ValueError):
        _CODECS.of(number + 100).convert(data[1:])


def target(name: str) -> Target:
    """A target by its name, ready to be fed."""
    match name:
        case "messages":
            return Requests().message
        case "sql":
            return Requests().sql
        case "changes":
            return Changes()
        case "foreign":
            return Foreign()
        case "configuration":
            return configuration
        case "http":
            return Http()
        case "wal":
            return wal
    raise ValueError(f"no target {name}")


TARGETS = ("messages", "sql", "changes", "foreign", "configuration", "http", "wal")
