"""A cursor on tokens that makes expressions, counts them, and refuses in words."""

from math import inf
from typing import NoReturn

from kalam_notify.sql.lexer import Tokens
from kalam_notify.sql.tree import Call, Constant, Expression, Name
from kalam_notify.sql.words import CURE_BY_SYMBOL, CURE_BY_WORD

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
