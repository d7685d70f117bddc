"""The elements of a JSON array of any size, one after the other, in bounded memory.

Only where elements begin and end is looked for, outside of strings: what is between goes to the
server as it is, which has the word on whether it is JSON. An object that holds neither objects nor
arrays, as most innermost ones do, is passed over at one stroke.
"""

import re
from typing import Final

from kalam_notify.errors import KalamNotifyError

LONGEST_ELEMENT: Final = 64 * 1024 * 1024
"""In bytes; a server takes changes of a megabyte or so."""

_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_FLAT: Final = rb'\{[^{}\[\]"]*+(?:' + _STRING + rb'[^{}\[\]"]*+)*+\}'
_TOKENS: Final = re.compile(_STRING + b"|" + _FLAT + rb'|["\[\]{},]', re.DOTALL)

_QUOTE, _COMMA = ord('"'), ord(",")
_OPENING, _CLOSING = b"[{", b"]}"


class Malformed(KalamNotifyError):
    """Input that cannot be taken apart into changes."""


class ArraySplitter:
    """Fed with the text behind the opening bracket of an array, in pieces of any size."""

    def __init__(self, longest: int = LONGEST_ELEMENT) -> None:
        self.is_complete = False
        self.count = 0
        self.rest = b""
        self._longest = longest
        # What belongs to the element that has not come whole.
        self._text = bytearray()
        # Up to here it has been looked at; how deep that place lies within the element.
        self._looked = 0
        self._depth = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The elements that are complete by now, with the white space around them.

        When the array has ended (`is_complete`), `rest` is what came behind it. Raises Malformed.
        """
        self._text += data
        found: list[bytes] = []
        start, self._looked = self._scan(found)
        del self._text[:start]
        self._looked -= start
        if len(self._text) > self._longest:
            raise Malformed(f"element {self.count + 1} of the array has no end")
        return found

    def end(self) -> None:
        """There is no more text. Raises Malformed where there should be."""
        if not self.is_complete:
            raise Malformed("the array has no end: is the file cut off?")
        if self.rest.strip():
            raise Malformed("there is something behind the end of the array")

    def _scan(self, found: list[bytes]) -> tuple[int, int]:
        """Where the element begins that is not complete, and up to where it was looked at."""
        text, start = self._text, 0
        for token in _TOKENS.finditer(text, self._looked):
            first, size = text[token.start()], token.end() - token.start()
            if size > 1:
                continue
            if first == _QUOTE:
                return start, token.start()  # a string whose end has not come
            if first in _OPENING:
                self._depth += 1
            elif self._depth and first in _CLOSING:
                self._depth -= 1
            elif not self._depth:
                self._take(bytes(text[start : token.start()]), found, is_last=first != _COMMA)
                start = token.end()
                if self.is_complete:
                    self.rest = bytes(text[start:])
                    return len(text), len(text)
        return start, len(text)

    def _take(self, element: bytes, found: list[bytes], *, is_last: bool) -> None:
        self.is_complete = is_last
        if element.strip():
            self.count += 1
            found.append(element)
        elif self.count or not is_last:
            raise Malformed(f"element {self.count + 1} of the array is missing")
