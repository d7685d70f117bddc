"""Arrays taken apart as text are the arrays that a decoder sees."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalam_notify.http.items import split_array

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='ab"\\\\[]{},:é\n'),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(alphabet='ab"\\\\[]{},'), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(st.lists(JSON, max_size=8), st.sampled_from([None, 1]), st.booleans())
def test_the_items_are_those_of_the_array(
    values: list[Any], indent: int | None, ascii_only: bool
) -> None:
    text = json.dumps(values, indent=indent, ensure_ascii=ascii_only)
    found = [json.loads(item) for item in split_array(text.encode()) if item is not None]
    assert found == values


@pytest.mark.parametrize("text", [b"[]", b"[ ]", b" [\n] "])
def test_an_empty_array_has_no_items(text: bytes) -> None:
    assert list(split_array(text)) == []


def test_it_rests_inside_a_long_item_too() -> None:
    found = list(split_array(b"[[" + b"[]," * 10_000 + b"[]]]"))
    assert found.count(None) == 7
    assert len(found) == 8


def test_a_long_string_of_escapes_is_one_token() -> None:
    text = json.dumps(["\\" * 1_000_000, 1]).encode()
    assert [len(item or b"") for item in split_array(text)] == [2_000_002, 1]
