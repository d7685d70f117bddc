r"""What this program prints, on whatever terminal and whatever it prints of.

Text that a console's encoding lacks comes out as \uXXXX, which is readable, and inside of JSON
means the same. Secrets come out neither in tracebacks nor in complaints about the command line.
"""

import argparse
import codecs
import io
import re
import sys
from typing import NoReturn

from kalam_notify.logs import redact

_ESCAPE = "kalam-notify-escape"
_SECRET_FLAG = re.compile(r"(?i)(--?[\w-]*(?:tok|key|secret|passw)[\w-]*[ =]+)[^\s]+")


def prepare() -> None:
    """Have stdout and stderr take every text."""
    codecs.register_error(_ESCAPE, _escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ESCAPE)


def _escaped(fault: UnicodeError) -> tuple[str, int]:
    if not isinstance(fault, UnicodeEncodeError):
        raise fault
    missing = fault.object[fault.start : fault.end].encode("utf-16-be", "surrogatepass")
    units = (missing[place : place + 2].hex() for place in range(0, len(missing), 2))
    return "".join(f"\\u{unit}" for unit in units), fault.end


class Parser(argparse.ArgumentParser):
    """Complains without repeating a token or key that was put in the wrong place."""

    def error(self, message: str) -> NoReturn:
        super().error(redact(_SECRET_FLAG.sub(r"\1[hidden]", message)))
