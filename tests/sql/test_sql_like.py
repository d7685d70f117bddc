"""LIKE: every pattern against a naive matcher, and no pattern that stalls."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sql_helpers import truth

from kalam_notify.sql.like import (
    MAX_WILD_SEGMENT,
    BadPattern,
    compile_like,
    fold,
    literal_prefix,
)


def naive(text: str, pattern: str, escape: str | None) -> bool:
    """The definition, by recursion."""
    if not pattern:
        return not text
    first, rest = pattern[0], pattern[1:]
    if first == escape:
        return bool(text) and text[0] == rest[0] and naive(text[1:], rest[1:], escape)
    if first == "%":
        return any(naive(text[start:], rest, escape) for start in range(len(text) + 1))
    return bool(text) and (first in ("_", text[0])) and naive(text[1:], rest, escape)


@settings(max_examples=400, deadline=None)
@given(
    text=st.text(st.sampled_from("abA\n😀."), max_size=8),
    pattern=st.text(st.sampled_from("abA\n😀.%%_!"), max_size=8),
    escape=st.sampled_from([None, "!", "a"]),
)
def test_a_pattern_matches_what_its_definition_says(
    text: str, pattern: str, escape: str | None
) -> None:
    try:
        matcher = compile_like(pattern, escape, fold_case=False)
    except BadPattern:
        assert escape is not None
        assert pattern.endswith(escape)
        return
    assert matcher(text) is naive(text, pattern, escape)
    prefix, rest = literal_prefix(pattern, escape)
    if matcher(text):
        assert text.startswith(prefix)
    if rest == "%":
        assert matcher(text) is text.startswith(prefix)


@pytest.mark.parametrize(
    ("condition", "answer"),
    [
        ("s LIKE 'First%'", True),
        ("s LIKE 'first%'", False),
        ("s ILIKE 'first%'", True),
        ("s LIKE '%second line'", True),
        ("s LIKE '%line_second%'", True),
        ("s LIKE '%'", True),
        ("s LIKE ''", False),
        ("s LIKE '%50!%%' ESCAPE '!'", False),
        (r"b LIKE 'a\b'", True),
        (r"b LIKE 'a\%'", True),
        (r"b LIKE 'a\\b' ESCAPE '\'", True),
        ("s NOT LIKE 'x%'", True),
        ("n LIKE '1%'", None),
        ("s LIKE n", None),
        ("s LIKE nil", None),
        ("e ILIKE 'ÉTÉ'", True),
        ("e LIKE pattern", True),
        ("e NOT LIKE pattern", False),
    ],
)
def test_like_is_exact(condition: str, answer: bool | None) -> None:
    row = {"s": "First line\nsecond line", "b": r"a\b", "n": 12, "e": "été", "pattern": "_t%"}
    assert truth(condition, **row) is answer


def test_ilike_folds_character_by_character() -> None:
    # The lower case of this letter is two characters long: it stays as it is.
    assert fold("İA") == "İa"
    assert compile_like("_a", None, fold_case=True)("İA")


@pytest.mark.parametrize(
    "pattern",
    ["%a" * 30 + "%b", "%a_" * 30 + "b%", "%_" * 30 + "%b", "a%" * 2000 + "b", "%" * 5000 + "b"],
)
def test_no_pattern_backtracks(pattern: str) -> None:
    # By trial and error these would take longer than the universe has.
    assert compile_like(pattern, None, fold_case=False)("a" * 300_000) is False


def test_a_segment_with_underscores_is_bounded() -> None:
    longest = "%" + "_" * MAX_WILD_SEGMENT + "%"
    assert compile_like(longest, None, fold_case=False)("x" * MAX_WILD_SEGMENT)
    with pytest.raises(BadPattern):
        compile_like("%_" + longest[1:], None, fold_case=False)
    # Anchored to an end there is nothing to search for.
    anchored = "_" * 5000 + "%" + "_" * 5000
    assert compile_like(anchored, None, fold_case=False)("x" * 10_000)


def test_a_bad_pattern_out_of_the_row_is_unknown() -> None:
    assert truth("s LIKE p ESCAPE '!'", s="a", p="a!") is None
    assert truth("s LIKE p", s="a", p="%_" + "_" * MAX_WILD_SEGMENT + "%") is None
