r"""What this program prints, on whatever terminal and whatever it prints of.

Text that a console's encoding lacks comes out as \uXXXX, which is readable, and inside of JSON
means the same. Secrets come out neither in tracebacks nor in complaints about the command line.
"""

import argparse
import codecs
import difflib
import io
import re
import sys
from typing import NoReturn

from kalam_notify.logs import redact

_ESCAPE = "kalam-notify-escape"
_UNKNOWN_OPTION = re.compile(r"unrecognized arguments: .*?(--?[\w-]+)")
_UNKNOWN_CHOICE = re.compile(r"invalid choice: '([^']*)' \(choose from (.*)\)")
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
    """Complains without repeating a token or key that was put in the wrong place.

    What is mistyped is answered with what is near.
    """

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        found, unknown = super().parse_known_args(args, namespace)
        if any(word.startswith("-") for word in unknown):
            # Here and not behind: this parser knows which options there are.
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        hint = self._near_match(message)
        super().error(redact(_SECRET_FLAG.sub(r"\1[hidden]", message)) + hint)

    def _near_match(self, message: str) -> str:
        """What was meant, where it can be told."""
        if found := _UNKNOWN_OPTION.search(message):
            known = [name for action in self._actions for name in action.option_strings]
            return _hint(found[1], known)
        if found := _UNKNOWN_CHOICE.search(message):
            return _hint(found[1], re.findall(r"[\w-]+", found[2]))
        return ""


def _hint(mistyped: str, known: list[str]) -> str:
    near = difflib.get_close_matches(mistyped, known, n=1)
    return f": did you mean {near[0]}?" if near else ""
