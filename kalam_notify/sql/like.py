"""LIKE without backtracking.

A pattern is cut at its `%` into segments. The first and the last are anchored; those in between
are looked for from left to right, each at the first place it fits, which is never worse than a
later one. So a match costs one pass over the text, however many `%` there are.

A segment with `_` is looked for by a regular expression of literals and dots; its length is
bounded (`MAX_WILD_SEGMENT`), because that search costs text times segment at worst.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from kalam_notify.sql.cache import LatestCache

MAX_WILD_SEGMENT = 128
"""Characters between two `%` when one of them is `_`."""


class BadPattern(ValueError):
    """A pattern that is not evaluated: its comparison is NULL, or it is refused when constant."""


class _Any:
    """The character `_`."""


_ANY = _Any()
_PERCENT = _Any()
_Item = str | _Any


class _Segment(NamedTuple):
    """Characters between two `%`. `text` is None when there is a `_` among them."""

    length: int
    text: str | None
    # Of a segment with `_`: matches it at a place.
    pattern: re.Pattern[str] | None

    def at(self, text: str, position: int) -> bool:
        if self.pattern is None:
            return text.startswith(self.text or "", position)
        return self.pattern.match(text, position) is not None

    def find(self, text: str, start: int, end: int) -> int:
        """The first place in text[start:end] where the segment fits, or -1."""
        if self.pattern is None:
            return text.find(self.text or "", start, end)
        match = self.pattern.search(text, start, end)
        return -1 if match is None else match.start()


class LikePattern:
    """A compiled LIKE pattern; call it with a text."""

    __slots__ = ("_fold", "_least", "_segments")

    def __init__(self, items: list[_Item], fold: Callable[[str], str] | None) -> None:
        self._fold = fold
        self._segments = _segments(items)
        self._least = sum(segment.length for segment in self._segments)

    def __call__(self, text: str) -> bool:
        """Whether the whole text matches."""
        if self._fold is not None:
            text = self._fold(text)
        first, *rest = self._segments
        if len(text) < self._least or not first.at(text, 0):
            return False
        if not rest:
            return len(text) == first.length
        last = rest.pop()
        end = len(text) - last.length
        if not last.at(text, end):
            return False
        position = first.length
        for segment in rest:
            found = segment.find(text, position, end)
            if found < 0:
                return False
            position = found + segment.length
        return position <= end


def compile_like(pattern: str, escape: str | None, *, fold_case: bool) -> LikePattern:
    """The matcher of a pattern. Raises BadPattern."""
    if fold_case:
        # The escape character itself is not folded: it is taken out first.
        items = [item if isinstance(item, _Any) else fold(item) for item in _items(pattern, escape)]
        return LikePattern(items, fold)
    return LikePattern(_items(pattern, escape), None)


_patterns: LatestCache[tuple[str, str | None, bool], LikePattern] = LatestCache(64 * 1024)


def cached_like(pattern: str, escape: str | None, *, fold_case: bool) -> LikePattern:
    """`compile_like` for patterns out of rows, the latest 64 Ki characters of them kept."""
    key = (pattern, escape, fold_case)
    found = _patterns.get(key)
    if found is not None:
        return found
    return _patterns.put(key, compile_like(pattern, escape, fold_case=fold_case), len(pattern) + 1)


def literal_prefix(pattern: str, escape: str | None) -> tuple[str, str]:
    """The literal text a pattern begins with, and what follows: "" (the end), "%" or "more"."""
    items = _items(pattern, escape)
    prefix: list[str] = []
    for item in items:
        if not isinstance(item, str):
            break
        prefix.append(item)
    rest = items[len(prefix) :]
    if not rest:
        return "".join(prefix), ""
    return "".join(prefix), "%" if all(item is _PERCENT for item in rest) else "more"


def fold(text: str) -> str:
    """Lower case, character by character, so that a text keeps its length."""
    if text.isascii():
        return text.lower()
    return "".join(_fold_character(character) for character in text)


def _fold_character(character: str) -> str:
    lowered = character.lower()
    return lowered if len(lowered) == 1 else character


def _items(pattern: str, escape: str | None) -> list[_Item]:
    items: list[_Item] = []
    characters = iter(pattern)
    for character in characters:
        if character == escape:
            escaped = next(characters, None)
            if escaped is None:
                raise BadPattern("the pattern ends in its escape character")
            items.append(escaped)
        elif character == "%":
            items.append(_PERCENT)
        elif character == "_":
            items.append(_ANY)
        else:
            items.append(character)
    return items


def _segments(items: list[_Item]) -> list[_Segment]:
    """The segments between `%`; an empty one between two `%` is left out."""
    cut: list[list[_Item]] = [[]]
    for item in items:
        if item is _PERCENT:
            cut.append([])
        else:
            cut[-1].append(item)
    last = len(cut) - 1
    return [
        _segment(piece, anchored=index in (0, last))
        for index, piece in enumerate(cut)
        if piece or index in (0, last)
    ]


def _segment(items: list[_Item], *, anchored: bool) -> _Segment:
    literal = [item for item in items if isinstance(item, str)]
    if len(literal) == len(items):
        return _Segment(len(items), "".join(literal), None)
    if not anchored and len(items) > MAX_WILD_SEGMENT:
        raise BadPattern(
            f"more than {MAX_WILD_SEGMENT} characters between two % with a _ among them"
        )
    pattern = "".join(re.escape(item) if isinstance(item, str) else "." for item in items)
    return _Segment(len(items), None, re.compile(pattern, re.DOTALL))
