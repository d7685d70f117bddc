"""Text -> lexemes: names, numbers, strings and symbols, each with its place.

sqlglot's own tokenizer reads the union of many dialects (hints, placeholders, backslashes, dollar
quotes, templates); this one reads the pieces of our language and refuses every other character.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

from kalam_notify.errors import SqlRefused
from kalam_notify.sql.vocabulary import CURE_BY_CHARACTER

MAX_DIGITS = 1000
"""Digits of one number."""

MAX_NAME_BYTES = 255

_LEXEME = re.compile(
    r"""
      (?P<space>[ \t\r\n\f\v\ufeff\xa0]+ | --[^\n]* | /\*.*?\*/)
    | (?P<number>(?: [0-9]+ (?:\.[0-9]*)? | \.[0-9]+ ) (?:[eE][+-]?[0-9]+)?)
    | (?P<string>'(?:[^']|'')*')
    | (?P<quoted>"(?:[^"]|"")*")
    | (?P<word>[A-Za-z_\xa1-\u1fff\u2c00-\u2fff\u3001-\ufefe\uff00-\U0010ffff]
              [A-Za-z0-9_$\xa1-\u1fff\u2c00-\u2fff\u3001-\ufefe\uff00-\U0010ffff]*)
    | (?P<symbol><>|!=|<=|>=|->>|->|\|\||[=<>+\-*/%(),.;])
    """,
    re.VERBOSE | re.DOTALL,
)
_WORD_CHARACTER = re.compile(r"[A-Za-z0-9_$\x80-\U0010ffff]")


class Lexeme(NamedTuple):
    """One piece of the text. `text` is what it stands for: quotes removed, doubled ones halved."""

    kind: str
    text: str
    start: int
    end: int


class Source:
    """The text of a query, and refusals that point into it."""

    def __init__(self, text: str) -> None:
        self.text = text

    def place(self, offset: int) -> tuple[int, int]:
        """Line and column of an offset, both from 1; columns count code points."""
        line = self.text.count("\n", 0, offset) + 1
        return line, offset - self.text.rfind("\n", 0, offset)

    def refuse(self, message: str, offset: int) -> NoReturn:
        line, column = self.place(offset)
        raise SqlRefused(message, line=line, column=column)


def lexemes(source: Source) -> list[Lexeme]:
    """The text in pieces, white space and comments left out. Raises SqlRefused."""
    return list(_scan(source))


def _scan(source: Source) -> Iterator[Lexeme]:
    text, position = source.text, 0
    while position < len(text):
        match = _LEXEME.match(text, position)
        if match is None or (text.startswith("/*", match.start()) and match["symbol"]):
            _refuse_character(source, position)
        kind, start, position = match.lastgroup or "", match.start(), match.end()
        piece = match.group()
        if kind == "space":
            if piece.startswith("/*") and "/*" in piece[2:]:
                source.refuse("a comment inside a comment; write one comment only", start)
            continue
        yield _checked(source, Lexeme(kind, piece, start, position))


def _checked(source: Source, lexeme: Lexeme) -> Lexeme:
    kind, piece, start, end = lexeme
    if kind == "string":
        return lexeme._replace(text=piece[1:-1].replace("''", "'"))
    if kind == "quoted":
        return lexeme._replace(text=_name(source, piece[1:-1].replace('""', '"'), start))
    if kind == "number":
        _check_number(source, piece, start, end)
    elif kind == "word":
        _check_word(source, piece, start, end)
    return lexeme


def _check_number(source: Source, piece: str, start: int, end: int) -> None:
    if end < len(source.text) and _WORD_CHARACTER.match(source.text, end):
        source.refuse(
            f"{source.text[start : end + 1]!r} is not a number; write decimal digits, as in 42, "
            "0.5 or 1e3",
            start,
        )
    if len(piece) > MAX_DIGITS:
        source.refuse(f"a number of {len(piece)} digits; at most {MAX_DIGITS} are read", start)


def _check_word(source: Source, piece: str, start: int, end: int) -> None:
    if source.text[end : end + 1] == "'" and piece.upper() in ("E", "B", "X", "N", "Q", "R", "U"):
        source.refuse(
            f"a string with the prefix {piece}; write '...' with '' for a quote inside", start
        )
    _name(source, piece, start)


def _name(source: Source, name: str, start: int) -> str:
    if not name:
        source.refuse("an empty name", start)
    if len(name.encode()) > MAX_NAME_BYTES:
        source.refuse(f"a name of more than {MAX_NAME_BYTES} bytes", start)
    if any(ord(character) < 32 or 127 <= ord(character) < 160 for character in name):
        source.refuse("a name with a control character", start)
    return name


def _refuse_character(source: Source, position: int) -> NoReturn:
    text = source.text
    for opening, what in (("'", "string"), ('"', "quoted name"), ("/*", "comment")):
        if text.startswith(opening, position):
            source.refuse(f"a {what} that is not closed", position)
    for met, cure in CURE_BY_CHARACTER.items():
        if text.startswith(met, position):
            source.refuse(f"unexpected {met!r}; {cure}", position)
    source.refuse(f"unexpected character {text[position]!r}", position)
