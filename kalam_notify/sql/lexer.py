"""Text -> tokens, and a cursor on them that makes expressions.

Text -> tokens: names, numbers, strings, parameters and symbols.

A token's kind is what the grammar asks for: a keyword is its own kind in capitals, a symbol its own
kind, and `name`, `word` (a name that SQL reserves), `number`, `string`, `quoted`, `param` and `end`
are the others. One regular expression reads a token with the white space and comments before it; it
cannot backtrack (possessive and atomic groups), so the time is linear in the text. It reads every
text to its end: what belongs to no token comes as a piece of its own, and is refused.

Where a token stands is asked of texts that are refused only, and told by reading them again.

A cursor on tokens that makes expressions, counts them, and refuses in words.
"""

import re
from math import inf
from typing import NoReturn

from kalam_notify.errors import SqlRefused
from kalam_notify.sql.tree import Call, Constant, Expression, Name
from kalam_notify.sql.words import CURE_BY_CHARACTER, CURE_BY_SYMBOL, CURE_BY_WORD, KEYWORDS

_LETTER = r"A-Za-z_\xa1-\u1fff\u2c00-\u2fff\u3001-\ufefe\uff00-\U0010ffff"
_SYMBOLS = [
    "<>",
    "!=",
    "<=",
    ">=",
    "<@",
    "->>",
    "->",
    "||",
    "::",
    "@>",
    "?|",
    "?&",
    "#>>",
    "#>",
    "=",
    "<",
    ">",
    "+",
    "-",
    "*",
    "/",
    "%",
    "(",
    ")",
    ",",
    ".",
    ";",
    "?",
    "[",
    "]",
]
# Only single characters are repeated possessively: Python before 3.11.5 goes on behind what a group
# that is repeated so began to match and did not. Nothing here is gone back over twice.
_TOKEN = re.compile(
    rf"""(?: [ \t\r\n\f\v\ufeff\xa0]++ | --[^\n]*+
          | /\*[^*/]*+ (?: (?:\*(?!/)|/(?!\*)) [^*/]*+ )* \*/ )*
    (   [{_LETTER}][{_LETTER}0-9$]*+
      | (?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?(?:[{_LETTER}]++)?
      | '[^']*+(?:''[^']*+)*'(?!')
      | "[^"]*+(?:""[^"]*+)*"(?!")
      | \$[0-9]++
      | /\*
      | {"|".join(map(re.escape, _SYMBOLS))}
      | \Z
      | .
    )""",
    re.VERBOSE | re.DOTALL,
)
_LETTERS = re.compile(rf"[{_LETTER}]")
_NUMBER = re.compile(r"(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?")
_DELIMITED = {"'": "string", '"': "quoted", "$": "param"}
_WORDS = dict.fromkeys(CURE_BY_WORD, "word") | KEYWORDS
_KINDS = {symbol: symbol for symbol in _SYMBOLS}
_KINDS |= {spelled: kind for word, kind in KEYWORDS.items() for spelled in (word, word.lower())}


class Source:
    """The text of a query, and refusals that point into it."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def refuse(self, message: str, at: int) -> NoReturn:
        """Refuse token `at`, with its line and column, both from 1; columns count code points."""
        self.refuse_offset(message, self.start(at))

    def refuse_offset(self, message: str, offset: int) -> NoReturn:
        line = self.text.count("\n", 0, offset) + 1
        raise SqlRefused(message, line=line, column=offset - self.text.rfind("\n", 0, offset))

    def start(self, at: int) -> int:
        """Where token `at` begins."""
        starts = [match.start(1) for match in _TOKEN.finditer(self.text)]
        return starts[min(at, len(starts) - 1)]


class Tokens:
    """The tokens of a text as they are written, and their kinds. The last one is `end`."""

    __slots__ = ("kinds", "source", "written")

    def __init__(self, source: Source) -> None:
        self.source = source
        self.written: list[str] = _TOKEN.findall(source.text)
        known = _KINDS.get
        self.kinds = [
            known(token) or self._kind(token, at) for at, token in enumerate(self.written)
        ]

    def text(self, at: int) -> str:
        """What a token stands for: quotes removed, doubled ones halved."""
        kind, token = self.kinds[at], self.written[at]
        if kind == "string":
            return token[1:-1].replace("''", "'")
        return token[1:-1].replace('""', '"') if kind == "quoted" else token

    def _kind(self, token: str, at: int) -> str:
        first = token[:1]
        if _LETTERS.match(first):
            return _WORDS.get(token.upper(), "name")
        if (token.isascii() and token.isdigit()) or _NUMBER.fullmatch(token):
            return "number"
        if len(token) > 1 and first in _DELIMITED:
            return _DELIMITED[first]
        if token:
            self._refuse(token, at)
        return "end"

    def _refuse(self, token: str, at: int) -> NoReturn:
        if token == "/*":
            rest = self.source.text[self.source.start(at) + 2 :]
            nested = "/*" in rest and "*/" in rest
            token = "a comment inside a comment" if nested else "a comment that is not closed"
            self.source.refuse(token, at)
        if len(token) > 1:
            self.source.refuse(f"{token[:40]!r} is not a number", at)
        if token in "'\"":
            what = "string" if token == "'" else "quoted name"
            self.source.refuse(f"a {what} that is not closed", at)
        cure = CURE_BY_CHARACTER.get(token)
        shown = "NUL character" if token == "\0" else repr(token)
        self.source.refuse(f"unexpected {shown}{f'; {cure}' if cure else ''}", at)


MAX_DEPTH = 64


class Reader:
    """Where the reading of a text stands, and what was made of it so far.

    Invariant: `calls` holds every call after the calls inside it.
    """

    def __init__(self, tokens: Tokens, *, max_terms: float = inf, placed: bool = False) -> None:
        self.max_terms = max_terms
        self.source = tokens.source
        self.kinds, self.written, self.text = tokens.kinds, tokens.written, tokens.text
        self.at = 0
        self.depth = 0
        # Columns and constants; those of a list of constants count once.
        self.terms = 0
        # The highest N of the $N.
        self.parameters = 0
        self.names: list[Name] = []
        self.calls: list[Call] = []
        # Whether an expression stands in the tree more than once.
        self.repeats = False
        # id of a call or constant -> its token; None: nobody asks, see Condition.place.
        self.places: dict[int, int] | None = {} if placed else None

    def refuse(self, message: str, at: int | None = None) -> NoReturn:
        """Refuse what stands here, or at another token."""
        self.source.refuse(message, self.at if at is None else at)

    def unexpected(self, wanted: str) -> NoReturn:
        """Refuse the token that stands here: what was wanted, what was met, and the cure."""
        kind, text = self.kinds[self.at], self.text(self.at)
        cure = CURE_BY_WORD.get(text.upper()) if kind == "word" else CURE_BY_SYMBOL.get(kind)
        met = "the end" if kind == "end" else repr(text[:40])
        self.refuse(f"expected {wanted}, met {met}{f'; {cure}' if cure else ''}")

    def take(self, kind: str, wanted: str) -> None:
        """Go beyond a token that has to stand here."""
        if self.kinds[self.at] != kind:
            self.unexpected(wanted)
        self.at += 1

    def skip(self, kind: str) -> bool:
        """Go beyond a token that may stand here; whether it did."""
        found = self.kinds[self.at] == kind
        self.at += found
        return found

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.refuse(f"nested too deeply: more than {MAX_DEPTH} inside each other")

    def call(self, op: str, args: tuple[Expression, ...], at: int) -> Call:
        """A call whose operator is the token `at`."""
        found = Call(op, args)
        self.calls.append(found)
        if self.places is not None:
            self.places[id(found)] = at
        return found

    def constant(self, kind: str, value: object) -> Constant:
        """The constant that stands here."""
        found = Constant(kind, value)
        if self.places is not None:
            self.places[id(found)] = self.at
        self.at += 1
        self.terms += 1
        return found
