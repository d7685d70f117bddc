"""Text -> tokens: names, numbers, strings, parameters and symbols, each with its place.

A token's kind is what the grammar asks for: a keyword is its own kind in capitals, a symbol its own
kind, and `name`, `word` (a name that SQL reserves), `number`, `string`, `param` and `end` are the
others. One regular expression reads a token with the white space and comments before it; it cannot
backtrack (possessive and atomic groups), so the time is linear in the text.
"""

import re
from typing import NoReturn

from kalam_notify.errors import SqlRefused
from kalam_notify.sql.words import CURE_BY_CHARACTER, CURE_BY_WORD, KEYWORDS

_LETTER = r"A-Za-z_\xa1-\u1fff\u2c00-\u2fff\u3001-\ufefe\uff00-\U0010ffff"
_TOKEN = re.compile(
    rf"""(?:[ \t\r\n\f\v\ufeff\xa0]++ | --[^\n]*+ | /\*(?>[^*/]++|\*(?!/)|/(?!\*))*+\*/)*+
    (?: ([{_LETTER}][{_LETTER}0-9$]*+)
      | ((?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?+)
      | '((?:[^']++|'')*+)'
      | "((?:[^"]++|"")*+)"
      | \$([0-9]{{1,9}})(?![0-9])
      | (<>|!=|<=|>=|<@|->>|->|\|\||::|@>|\?\||\?&|\#>>|\#>|/(?!\*)|[=<>+\-*%(),.;?\[\]])
      | (\Z)
      | (.)
    )""",
    re.VERBOSE | re.DOTALL,
)
_NAME_CHARACTER = re.compile(rf"[{_LETTER}0-9$]")
_WORD, _NUMBER, _STRING, _QUOTED, _PARAM, _SYMBOL, _END, _ODD = range(1, 9)
_KINDS = {_STRING: "string", _QUOTED: "quoted", _PARAM: "param", _END: "end"}


class Source:
    """The text of a query, and refusals that point into it."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def refuse(self, message: str, offset: int) -> NoReturn:
        """Refuse with line and column, both from 1; columns count code points."""
        line = self.text.count("\n", 0, offset) + 1
        raise SqlRefused(message, line=line, column=offset - self.text.rfind("\n", 0, offset))


class Tokens:
    """The tokens of a text: their kinds, and their matches for what else is asked of them."""

    __slots__ = ("kinds", "matches", "source")

    def __init__(self, source: Source) -> None:
        self.source = source
        self.kinds: list[str] = []
        self.matches: list[re.Match[str]] = []
        self._read()

    def text(self, at: int) -> str:
        """What a token stands for: quotes removed, doubled ones halved."""
        match = self.matches[at]
        group = match.lastindex or 0
        text = match[group]
        if group == _STRING:
            return text.replace("''", "'")
        return text.replace('""', '"') if group == _QUOTED else text

    def start(self, at: int) -> int:
        """Where a token begins."""
        match = self.matches[at]
        group = match.lastindex or 0
        return match.start(group) - (group in (_STRING, _QUOTED, _PARAM))

    def _read(self) -> None:
        add_kind, add_match = self.kinds.append, self.matches.append
        keywords, cures = KEYWORDS, CURE_BY_WORD
        for match in _TOKEN.finditer(self.source.text):
            group = match.lastindex
            if group == _SYMBOL:
                kind = match[_SYMBOL]
            elif group == _WORD:
                word = match[_WORD].upper()
                kind = keywords.get(word) or ("word" if word in cures else "name")
            elif group == _NUMBER:
                kind = "number"
                self._check_end(match)
            else:
                kind = _KINDS.get(group or 0) or self._refuse(match.start(_ODD))
            add_kind(kind)
            add_match(match)
            if group == _END:
                return

    def _check_end(self, match: re.Match[str]) -> None:
        text, start, end = self.source.text, match.start(_NUMBER), match.end()
        if end < len(text) and _NAME_CHARACTER.match(text, end):
            self.source.refuse(f"{text[start : end + 20].split()[0]!r} is not a number", start)

    def _refuse(self, start: int) -> NoReturn:
        text, refuse = self.source.text, self.source.refuse
        if text.startswith("/*", start):
            nested = text.find("/*", start + 2) >= 0 and text.find("*/", start) >= 0
            refuse(
                "a comment inside a comment" if nested else "a comment that is not closed", start
            )
        character = text[start]
        if character in "'\"":
            what = "string" if character == "'" else "quoted name"
            refuse(f"a {what} that is not closed", start)
        cure = CURE_BY_CHARACTER.get(character)
        shown = "NUL character" if character == "\0" else repr(character)
        refuse(f"unexpected {shown}{f'; {cure}' if cure else ''}", start)
