"""The client's small parts without sockets: tokens in time, text on terminals, keys, rows."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalam_notify.client import View
from kalam_notify.client.events import Acknowledged, Changed, Loaded
from kalam_notify.client.rows import Rows
from kalam_notify.client.terminal import Palette, fit, safe, width
from kalam_notify.client.token_source import TokenSource, expiry_of, until_refresh

NOW = 1_000_000.0


def token(payload: Any) -> str:
    part = base64.urlsafe_b64encode(json.dumps(payload).encode()).rstrip(b"=").decode()
    return f"head.{part}.signature"


class TestTokens:
    @pytest.mark.parametrize(
        ("payload", "expected"),
        [({"exp": 5}, 5.0), ({"exp": 5.5}, 5.5), ({"exp": "5"}, None), ({}, None), ([], None)],
    )
    def test_the_expiry_is_read_where_there_is_one(self, payload: Any, expected: Any) -> None:
        assert expiry_of(token(payload)) == expected

    @pytest.mark.parametrize("text", ["", "x", "a.b.c", "a.e30", "a.====.c", "é.é.é"])
    def test_what_is_no_jwt_has_no_expiry(self, text: str) -> None:
        assert expiry_of(text) is None

    @pytest.mark.parametrize(
        ("left", "wait"), [(3600, 3540), (100, 80), (2, 1.6), (1, 1.0), (0, 5.0), (-100, 5.0)]
    )
    def test_another_is_asked_for_in_good_time(self, left: float, wait: float) -> None:
        assert until_refresh(token({"exp": NOW + left}), NOW) == pytest.approx(wait)

    async def test_one_that_was_asked_for_after_a_refusal_is_the_next(self) -> None:
        given_out = iter([" a\n", "a", "b", "c"])
        source = TokenSource(lambda: next(given_out))
        assert await source.next() == "a"
        assert not await source.has_other()
        assert await source.has_other()
        assert await source.next() == "b"
        assert await source.renewed() == "c"
        assert source.last == "c"

    async def test_a_fixed_one_is_all_there_is(self) -> None:
        source = TokenSource(token({"exp": NOW}))
        assert await source.next() == source.last
        assert not await source.has_other()
        assert source.until_refresh(NOW) is None


class TestTerminal:
    @given(st.text(max_size=30), st.integers(0, 20))
    def test_text_fits_exactly_and_acts_on_nothing(self, text: str, cells: int) -> None:
        shown = fit(safe(text), cells)
        assert width(shown) == cells
        assert not set(shown) & set(map(chr, [*range(32), 127, *range(128, 160), 0x202E, 0x2066]))

    @pytest.mark.parametrize(
        ("text", "cells", "expected"),
        [("abc", 5, "abc  "), ("abcdef", 4, "abc~"), ("漢字", 4, "漢字"), ("漢字漢", 4, "漢~ ")],
    )
    def test_what_is_too_long_is_cut_off_with_a_mark(
        self, text: str, cells: int, expected: str
    ) -> None:
        assert fit(text, cells) == expected

    def test_marks_above_letters_take_no_room(self) -> None:
        assert width("e\u0301\u200b") == 1

    def test_without_colours_nothing_is_added(self) -> None:
        assert Palette(False).paint("red", "x") == "x"
        assert Palette(True).paint("red", "x") == "\x1b[31mx\x1b[0m"


def test_booleans_numbers_and_texts_are_different_keys_of_a_view() -> None:
    view = View()
    view.apply(Acknowledged(True, False, ("id",), {}))
    view.apply(Loaded([{"id": id} for id in (1, True, "1", 0, False)], True, {}))
    assert len(view) == 5
    assert view[True]["id"] is True
    assert view[1]["id"] is not True
    view.apply(Changed("delete", [], [{"id": True}], None, {}))
    assert True not in view
    assert 1 in view


_OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["put", "drop", "begin", "ready", "look"]), st.integers(0, 6)),
    max_size=40,
)


@given(_OPERATIONS)
def test_rows_are_those_of_the_last_complete_state_in_order(
    operations: list[tuple[str, int]],
) -> None:
    rows: Rows[tuple[int, int]] = Rows()
    rows.begin(replaces=True, key=("id",))
    coming: dict[int, tuple[int, int]] = {}
    shown, is_kept = coming, False
    for number, (what, id) in enumerate(operations):
        wire = {"id": id}
        match what:
            case "put":
                coming[id] = (id, number)
                rows.put(wire, (id, number))
            case "drop":
                coming.pop(id, None)
                rows.drop(wire)
            case "begin":
                rows.begin(replaces=True, key=("id",))
                is_kept = bool(shown)
                coming = {} if is_kept else shown
            case "ready":
                rows.ready()
                shown = coming
            case "look":
                assert rows.shown() is rows.shown()
        assert rows.size == len(coming)
        assert list(rows.held()) == list(coming.values())
    assert rows.shown() == [shown[id] for id in sorted(shown)]


def test_rows_that_nobody_looks_at_are_not_kept_twice() -> None:
    rows: Rows[int] = Rows()
    rows.begin(replaces=True, key=("id",))
    for number in range(10_000):
        rows.put({"id": number % 10}, number)
    assert len(rows._fresh) < 1100
    assert rows.shown() == list(range(9990, 10_000))
