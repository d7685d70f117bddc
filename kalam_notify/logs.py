"""Log lines for people (text) or for machines (JSON, one object a line).

Whatever a line is made of, what looks like a token or an API key is blacked out before it is
written: exceptions and peers' input quote more than anybody foresees.
"""

import json
import logging
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable
from math import isfinite
from types import TracebackType
from typing import Any, TextIO

from kalam_notify.config import LoggingSettings

_JWT = re.compile(r"\beyJ[\w-]{5,}\.[\w-]+\.[\w-]*")
_CREDENTIAL = re.compile(
    r"(?i)\b(bearer\s+|x-api-key['\"]?[\s:,=]+(?:b?['\"])?|(?<=[?&])(?:access_)?token=)[^\s\"'&,]+"
)
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_CONTROL |= {9: "\\t", 10: "\\n", 13: "\\r"}

# Secrets by themselves; shorter ones would black out half a line.
_hidden: set[str] = set()
_SHORTEST_HIDDEN = 8

# What every record carries; anything beyond came with `extra=`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


def configure_logging(
    settings: LoggingSettings, stream: TextIO | None = None, *, worker: int | None = None
) -> None:
    """Send every logger's lines to `stream` (None: stderr), in the form and at the level set.

    With `worker`, every line says which worker process it is from. Called again it replaces what
    it set before.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if settings.format == "json" else TextLines())
    if worker is not None:
        handler.addFilter(_Marked(worker))
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old.formatter, JsonLines | TextLines):
            root.removeHandler(old)
    root.addHandler(handler)
    set_level(settings.level)


class _Marked(logging.Filter):
    def __init__(self, worker: int) -> None:
        super().__init__()
        self._worker = worker

    def filter(self, record: logging.LogRecord) -> bool:
        record.worker = self._worker
        return True


def set_level(level: str) -> None:
    """Change the level while running: one of debug, info, warning, error, critical."""
    logging.getLogger().setLevel(level.upper())


def hide(*secrets: str) -> None:
    """Black these out from now on, wherever they turn up."""
    _hidden.update(secret for secret in secrets if len(secret) >= _SHORTEST_HIDDEN)


def redact(text: str) -> str:
    """`text` without tokens, API keys, and what is to be hidden."""
    for secret in _hidden:
        text = text.replace(secret, "[secret]")
    return _CREDENTIAL.sub(r"\1[redacted]", _JWT.sub("[token]", text))


def guard_tracebacks() -> None:
    """Black out what Python itself writes of exceptions that nobody has caught."""
    sys.excepthook = _write_redacted
    threading.excepthook = lambda args: _write_redacted(
        args.exc_type, args.exc_value, args.exc_traceback
    )


def _write_redacted(
    kind: type[BaseException], fault: BaseException | None, trace: TracebackType | None
) -> None:
    if sys.stderr is not None and not issubclass(kind, SystemExit):
        sys.stderr.write(redact("".join(traceback.format_exception(kind, fault, trace))))


class Complaints:
    """Says the first complaint of a kind at once, and of the same ones after it once a minute how
    many there were: what fails fails for every request.
    """

    def __init__(
        self,
        logger: logging.Logger,
        clock: Callable[[], float] = time.monotonic,
        seconds: float = 60.0,
    ) -> None:
        self._logger = logger
        self._clock = clock
        self._seconds = seconds
        # Kind -> when it was said last, and how often it has come since.
        self.standing: dict[str, tuple[float, int]] = {}

    def say(self, kind: str, message: str) -> None:
        now = self._clock()
        said, more = self.standing.get(kind, (None, 0))
        if said is not None and now - said < self._seconds:
            self.standing[kind] = (said, more + 1)
            return
        if len(self.standing) >= 100:
            self.standing.clear()
        self.standing[kind] = (now, 0)
        again = f" (and {more} times more since it was said last)" if more else ""
        self._logger.error("%s%s", message, again)

    def over(self) -> None:
        """All is well again: the next complaint is a first one."""
        self.standing.clear()


class TextLines(logging.Formatter):
    """`2026-01-31T12:00:00.000Z INFO kalam_notify.app: message key=value`."""

    def format(self, record: logging.LogRecord) -> str:
        # A message that quotes a peer must not be able to begin a line of its own.
        message = record.getMessage().translate(_CONTROL)
        fields = "".join(f" {name}={_field(value)}" for name, value in _extra(record).items())
        line = f"{_timestamp(record)} {record.levelname} {record.name}: {message}{fields}"
        trace = _exception(self, record)
        return redact(f"{line}\n{trace}" if trace else line)


class JsonLines(logging.Formatter):
    """One JSON object a line: ts, level, logger, message, extra fields, exception."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "ts": _timestamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        for name, value in _extra(record).items():
            line.setdefault(name, _json_value(value))
        trace = _exception(self, record)
        if trace:
            line["exception"] = redact(trace)
        return json.dumps(line, ensure_ascii=True)


def _timestamp(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _field(value: object) -> str:
    text = str(value).translate(_CONTROL)
    return json.dumps(text, ensure_ascii=False) if not text or " " in text or "=" in text else text


def _json_value(value: object) -> object:
    if value is None or isinstance(value, int) or (isinstance(value, float) and isfinite(value)):
        return value
    return redact(str(value))


def _exception(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = []
    if record.exc_info and record.exc_info[0] is not None:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return "\n".join(parts)
