"""Ids and cursors as operators see them."""

import pytest

from kalam_notify.administration.questions import ConnectionName, Cursor, Place


def test_a_connections_id_comes_back_as_it_was_told() -> None:
    name = ConnectionName(3, "0a1b2c", 17)
    assert str(name) == "3-0a1b2c-17"
    assert ConnectionName.parse(str(name)) == name


@pytest.mark.parametrize(
    "text",
    ["", "17", "3-0a1b2c", "0-0a1b2c-1", "3-0A1B2C-1", "3-0a1b2c-0", "3-0a1b2c-1-1", "٣-0a1b2c-1"],
)
def test_what_is_no_id_names_no_connection(text: str) -> None:
    assert ConnectionName.parse(text) is None


@pytest.mark.parametrize("name", ["", "s", "ü \U0001f680", '"\x00', "x" * 128])
def test_a_cursor_is_text_for_an_address_and_comes_back_as_it_was(name: str) -> None:
    cursor = Cursor(2, "abcdef", Place(2**40, name))
    text = str(cursor)
    assert text.isascii()
    assert set(text) & set("+/=&?# ") == set()
    assert Cursor.parse(text) == cursor


@pytest.mark.parametrize("text", ["x", "!!!!", "AAAA", "kwKm", "é", "k" * 5000])
def test_what_is_no_cursor_is_none(text: str) -> None:
    assert Cursor.parse(text) is None
