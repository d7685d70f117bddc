"""Log lines, for people and for machines, without anything secret."""

import io
import json
import logging
import subprocess
import sys

import pytest

from kalam_notify.config import LoggingSettings
from kalam_notify.logs import configure_logging, redact, set_level

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"

logger = logging.getLogger("kalam_notify.test")


@pytest.fixture(autouse=True)
def _root_logger_as_before():
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def lines_of(settings: LoggingSettings) -> io.StringIO:
    stream = io.StringIO()
    configure_logging(settings, stream)
    return stream


def test_a_json_line_holds_message_fields_and_exception() -> None:
    stream = lines_of(LoggingSettings(format="json"))
    try:
        raise ValueError("why")
    except ValueError:
        logger.exception("went %s", "wrong", extra={"seq": 5, "table": "a.b", "level": "mine"})
    (line,) = stream.getvalue().splitlines()
    said = json.loads(line)
    assert said["ts"].endswith("Z")
    assert (said["level"], said["logger"]) == ("error", "kalam_notify.test")
    assert (said["message"], said["seq"], said["table"]) == ("went wrong", 5, "a.b")
    assert said["exception"].endswith("ValueError: why")


def test_json_takes_whatever_an_extra_field_holds() -> None:
    stream = lines_of(LoggingSettings(format="json"))
    logger.info("x", extra={"a": float("nan"), "b": {1, 2}, "c": None, "d": "\ud800\n", "e": b"x"})
    said = json.loads(stream.getvalue(), parse_constant=pytest.fail)
    assert (said["c"], said["d"]) == (None, "\ud800\n")


def test_a_text_line_holds_message_and_fields() -> None:
    stream = lines_of(LoggingSettings())
    logger.warning("went %s", "slow", extra={"seq": 5, "why": "no room"})
    line = stream.getvalue()
    assert line.endswith('Z WARNING kalam_notify.test: went slow seq=5 why="no room"\n')


def test_a_quoted_line_end_begins_no_line_of_its_own() -> None:
    stream = lines_of(LoggingSettings())
    logger.info("bad id %s", "a\nERROR forged\x1b[2J", extra={"b": "c\nd"})
    assert len(stream.getvalue().splitlines()) == 1
    assert "\x1b" not in stream.getvalue()


def test_the_level_can_change_while_running() -> None:
    stream = lines_of(LoggingSettings(level="warning"))
    logger.info("one")
    set_level("debug")
    logger.debug("two")
    assert "one" not in stream.getvalue()
    assert "two" in stream.getvalue()


def test_configuring_again_replaces_the_form_and_doubles_no_line() -> None:
    first = lines_of(LoggingSettings())
    second = lines_of(LoggingSettings(format="json"))
    logger.info("once")
    assert first.getvalue() == ""
    assert len(second.getvalue().splitlines()) == 1


@pytest.mark.parametrize(
    "text",
    [
        f"refused {TOKEN}",
        f"Authorization: Bearer {TOKEN}",
        "Authorization: bearer c2lnbmF0dXJl",
        "{'x-api-key': 'c2lnbmF0dXJl'}",
        "X-API-Key: c2lnbmF0dXJl",
        "(b'x-api-key', b'c2lnbmF0dXJl')",
        "GET /v1/ws?token=c2lnbmF0dXJl HTTP/1.1",
    ],
)
@pytest.mark.parametrize("form", ["text", "json"])
def test_tokens_and_keys_are_blacked_out_wherever_they_stand(text, form) -> None:
    stream = lines_of(LoggingSettings(format=form))
    logger.info(text)
    logger.info("field", extra={"what": text})
    try:
        raise ValueError(text)
    except ValueError:
        logger.exception("caught")
    assert stream.getvalue().count("\n") >= 3
    assert "c2lnbmF0dXJl" not in stream.getvalue()


def test_ordinary_text_is_left_as_it_is() -> None:
    for text in ("the bearer", "eyJ is how tokens begin", "SELECT * FROM a.b WHERE token = 'x'"):
        assert redact(text) == text


def test_what_is_hidden_is_in_no_line_and_in_no_traceback_of_pythons_own() -> None:
    program = (
        "import threading, kalam_notify.logs as logs\n"
        "logs.guard_tracebacks(); logs.hide('hush-4711', 's')\n"
        "def fail(): raise ValueError('was hush-4711', b'Bearer eyJhbGciOiJI.e30.abc', 's')\n"
        "t = threading.Thread(target=fail); t.start(); t.join()\n"
        "fail()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 2
    assert done.stderr.count("ValueError: ('was [secret]', b'Bearer [redacted]") == 2
    assert "4711" not in done.stderr.replace("fail(): raise", "").split("ValueError")[-1]
