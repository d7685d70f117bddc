"""Lexemes -> sqlglot's tokens: the first of two gates a query passes.

Every word is given its meaning here, not by sqlglot: names go on as quoted identifiers and
functions as plain words, so that nothing of sqlglot's own vocabulary (types, hints, special
functions, clauses of other dialects) can wake up behind this gate. What means nothing is refused,
with its place and with what would work instead. Depth is bounded here too, before anything recurs.
"""

from typing import NamedTuple

from sqlglot.tokenizer_core import Token, TokenType

from kalam_notify.sql.lexer import Lexeme, Source, lexemes
from kalam_notify.sql.vocabulary import (
    CURE_BY_WORD,
    FUNCTIONS,
    KEYWORDS,
    SYMBOLS,
    TIMESTAMP_TYPES,
    nearest,
)

MAX_DEPTH = 64
"""Parentheses, CASEs and prefix operators (NOT, unary minus) that may be open at one place."""

UNKNOWN = "\0UNKNOWN"
"""The word after IS, told apart from any column: no name holds a control character."""

PLAIN = "\0"
"""In front of a function's name: sqlglot knows no such function and leaves the call as it is."""

_LITERAL_WORDS = ("DATE", "TIMESTAMP", "TIMESTAMPTZ")
# Pairs that sqlglot would read as one operator even with white space in between.
_PAIRS = {"<<", ">>", "==", "<>", "<=", ">=", "->"}
_STRING_OR_NUMBER = (TokenType.STRING, TokenType.NUMBER)
_ENDS_OPERAND = (
    TokenType.STRING,
    TokenType.NUMBER,
    TokenType.IDENTIFIER,
    TokenType.R_PAREN,
    TokenType.NULL,
    TokenType.TRUE,
    TokenType.FALSE,
    TokenType.END,
)
_CONSTANTS = (TokenType.NULL, TokenType.TRUE, TokenType.FALSE)


class Tokens(NamedTuple):
    """The tokens, and the number of columns and constants after WHERE."""

    tokens: list[Token]
    terms: int


def tokenize(source: Source, *, in_where: bool = False) -> Tokens:
    """The tokens of a statement, or of a bare condition (`in_where`). Raises SqlRefused."""
    tokenizer = _Tokenizer(source, in_where)
    return tokenizer.run()


class _Tokenizer:
    def __init__(self, source: Source, in_where: bool) -> None:
        self.source = source
        self.pieces = lexemes(source)
        self.in_where = in_where
        self.index = 0
        self.tokens: list[Token] = []
        self.terms = 0
        self.depth = _Depth(source)

    def run(self) -> Tokens:
        while self.index < len(self.pieces):
            self._take(self.pieces[self.index])
            self.index += 1
        self.depth.finish()
        return Tokens(self.tokens, self.terms)

    def _take(self, piece: Lexeme) -> None:
        if piece.kind == "symbol":
            self._symbol(piece)
        elif piece.kind == "word":
            self._word(piece)
        elif piece.kind == "quoted":
            self._name(piece)
        else:
            self._constant(piece)

    def _symbol(self, piece: Lexeme) -> None:
        before = self._symbol_at(self.index - 1)
        if before is not None and before + piece.text in _PAIRS:
            self.source.refuse(f"unexpected {piece.text!r} after {before!r}", piece.start)
        self._emit(SYMBOLS[piece.text], piece)
        if piece.text == "(":
            self.depth.open(piece)
        elif piece.text == ")":
            self.depth.close(piece, "(")
        elif piece.text in ("-", "+"):
            self._sign(piece)
        else:
            self.depth.operand()

    def _sign(self, piece: Lexeme) -> None:
        before = self.tokens[-2].token_type if len(self.tokens) > 1 else None
        if piece.text == "+" and before not in _ENDS_OPERAND:
            self.source.refuse("a + without a left side; leave it out", piece.start)
        self.depth.prefix(piece)

    def _word(self, piece: Lexeme) -> None:
        upper = piece.text.upper()
        keyword = KEYWORDS.get(upper)
        if keyword is not None:
            self._keyword(keyword, piece)
        elif upper in _LITERAL_WORDS and self._kind_at(self.index + 1) == "string":
            self._timestamp(piece)
        elif upper == "CURRENT_USER":
            self._current_user(piece)
        elif upper == "UNKNOWN" and self._after_is():
            self._emit(TokenType.IDENTIFIER, piece, UNKNOWN)
        elif upper in CURE_BY_WORD:
            self.source.refuse(f"unexpected {upper}; {CURE_BY_WORD[upper]}", piece.start)
        elif self._symbol_at(self.index + 1) == "(":
            self._function(piece)
        else:
            self._name(piece)

    def _keyword(self, keyword: TokenType, piece: Lexeme) -> None:
        self._emit(keyword, piece)
        if keyword is TokenType.NOT:
            self.depth.prefix(piece)
        elif keyword is TokenType.CASE:
            self.depth.open(piece)
        elif keyword is TokenType.END:
            self.depth.close(piece, "CASE")
        else:
            self.depth.operand()
        if keyword in _CONSTANTS:
            self._count()
        elif keyword is TokenType.WHERE:
            self.in_where = True
        elif keyword is TokenType.ALIAS and self.in_where:
            self._cast_type()

    def _function(self, piece: Lexeme) -> None:
        name = piece.text.upper()
        if name not in FUNCTIONS and name != "CAST":
            hint = nearest(name, FUNCTIONS) or f"there are {', '.join(FUNCTIONS)} and CAST"
            self.source.refuse(f"unknown function {piece.text}; {hint}", piece.start)
        self._emit(TokenType.VAR, piece, name if name == "CAST" else PLAIN + name)

    def _cast_type(self) -> None:
        """The type after AS: several words make one token."""
        first = end = self.index + 1
        while self._kind_at(end) == "word":
            end += 1
        name = " ".join(piece.text.upper() for piece in self.pieces[first:end])
        if name not in TIMESTAMP_TYPES:
            self.source.refuse(
                f"AS {name or 'without a type'}; only CAST(x AS TIMESTAMP) and "
                "CAST(x AS TIMESTAMPTZ) are understood",
                self.pieces[self.index].start,
            )
        self._emit(TIMESTAMP_TYPES[name], self.pieces[first])
        self.index = end - 1

    def _timestamp(self, piece: Lexeme) -> None:
        """TIMESTAMP '...' goes on as the call TIMESTAMP('...')."""
        self._emit(TokenType.VAR, piece, PLAIN + piece.text.upper())
        self._emit(TokenType.L_PAREN, piece)
        self.index += 1
        self._constant(self.pieces[self.index])
        self._emit(TokenType.R_PAREN, piece)

    def _current_user(self, piece: Lexeme) -> None:
        self._count()
        self.depth.operand()
        self._emit(TokenType.VAR, piece, PLAIN + "CURRENT_USER")
        self._emit(TokenType.L_PAREN, piece)
        self._emit(TokenType.R_PAREN, piece)

    def _name(self, piece: Lexeme) -> None:
        if self._symbol_at(self.index - 1) != ".":
            self._count()
        self.depth.operand()
        self._emit(TokenType.IDENTIFIER, piece)

    def _constant(self, piece: Lexeme) -> None:
        if self.tokens and self.tokens[-1].token_type in _STRING_OR_NUMBER:
            self.source.refuse("two constants with no operator in between", piece.start)
        self._count()
        self.depth.operand()
        number = piece.kind == "number"
        self._emit(TokenType.NUMBER if number else TokenType.STRING, piece)

    def _count(self) -> None:
        self.terms += self.in_where

    def _emit(self, kind: TokenType, piece: Lexeme, text: str | None = None) -> None:
        text = piece.text if text is None else text
        # Line and column are worked out from the offset when something is refused.
        self.tokens.append(Token(kind, text, 1, piece.start, piece.start, piece.end - 1))

    def _after_is(self) -> bool:
        words = [piece.text.upper() for piece in self.pieces[max(0, self.index - 2) : self.index]]
        return words[-1:] == ["IS"] or words == ["IS", "NOT"]

    def _symbol_at(self, index: int) -> str | None:
        if 0 <= index < len(self.pieces) and self.pieces[index].kind == "symbol":
            return self.pieces[index].text
        return None

    def _kind_at(self, index: int) -> str | None:
        return self.pieces[index].kind if index < len(self.pieces) else None


class _Depth:
    """The groups and prefix operators that are open at the current token."""

    def __init__(self, source: Source) -> None:
        self._source = source
        # Each open group, with the number of prefixes that stand before it, and itself.
        self._open: list[tuple[Lexeme, int]] = []
        self._total = 0
        self._prefixes = 0

    def open(self, piece: Lexeme) -> None:
        self._open.append((piece, self._prefixes + 1))
        self._total += self._prefixes + 1
        self._prefixes = 0
        self._check(piece)

    def close(self, piece: Lexeme, opening: str) -> None:
        if not self._open or self._open[-1][0].text.upper() != opening:
            self._source.refuse(f"{piece.text} without {opening}", piece.start)
        self._total -= self._open.pop()[1]
        self._prefixes = 0

    def finish(self) -> None:
        if self._open:
            piece, _ = self._open[-1]
            self._source.refuse(f"{piece.text} is not closed", piece.start)

    def prefix(self, piece: Lexeme) -> None:
        self._prefixes += 1
        self._check(piece)

    def operand(self) -> None:
        self._prefixes = 0

    def _check(self, piece: Lexeme) -> None:
        if self._total + self._prefixes > MAX_DEPTH:
            self._source.refuse(f"nested more than {MAX_DEPTH} deep", piece.start)
