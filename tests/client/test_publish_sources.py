"""What `publish` takes apart: arrays of any size, rows without an envelope, CSV."""

import csv
import io
import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalam_notify.client import publish
from kalam_notify.client.json_stream import ArraySplitter, Malformed
from kalam_notify.client.plain_rows import Envelope, csv_rows
from kalam_notify.client.publish import Batch, Extent, Progress, Tally, batches

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('ab"\\[]{},:\u20ac\n', max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('a"]}', max_size=3), inner),
    max_leaves=20,
)


def in_pieces(text: bytes, cuts: list[int]) -> Iterator[bytes]:
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    return (text[start:end] for start, end in itertools.pairwise(places))


@given(
    elements=st.lists(_JSON, max_size=8),
    indent=st.sampled_from([None, 0, 2]),
    escaped=st.booleans(),
    cuts=st.lists(st.integers(1, 400), max_size=12),
)
def test_an_array_is_taken_apart_wherever_it_was_cut(
    elements: list[Any], indent: int | None, escaped: bool, cuts: list[int]
) -> None:
    text = json.dumps(elements, indent=indent, ensure_ascii=escaped).encode() + b" \n"
    splitter = ArraySplitter()
    found = [it for piece in in_pieces(text[1:], cuts) for it in splitter.feed(piece)]
    splitter.rest = splitter.rest.strip()
    splitter.end()
    assert [json.loads(it) for it in found] == elements
    assert splitter.count == len(elements)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"", "no end"),
        (b"1,2", "no end"),
        (b'{"a":[1]', "no end"),
        (b'"a]', "no end"),
        (b"1,,2]", "element 2 of the array is missing"),
        (b"1,]", "element 2 of the array is missing"),
        (b",1]", "element 1 of the array is missing"),
        (b"1] 2", "something behind"),
    ],
)
def test_what_is_no_array_is_refused(text: bytes, told: str) -> None:
    with pytest.raises(Malformed, match=told):
        list(batches(io.BytesIO(b"[" + text)))


def test_an_element_without_end_is_not_kept_for_ever() -> None:
    splitter = ArraySplitter(longest=100)
    splitter.feed(b"1,")
    splitter.feed(b'"' + b"x" * 60)
    with pytest.raises(Malformed, match="element 2 of the array has no end"):
        splitter.feed(b"y" * 60)


def test_a_small_array_is_one_batch_and_a_large_one_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "WHOLE_CHANGES", 10)
    monkeypatch.setattr(publish, "MAX_BATCH_LINES", 4)
    for count in (0, 1, 10):
        text = json.dumps(list(range(count))).encode()
        assert list(batches(io.BytesIO(b" \n" + text + b"\n"))) == [Batch(text, 0)]
    found = list(batches(io.BytesIO(json.dumps(list(range(11))).encode())))
    assert [json.loads(batch.body) for batch in found] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert [batch.changes for batch in found] == [4, 4, 3]
    assert {batch.content_type for batch in found} == {"application/json"}


class Counted(io.RawIOBase):
    """A huge array that is made while it is read; knows how far ahead of its reader it is."""

    def __init__(self, elements: int) -> None:
        self._pieces = iter([b"[", *[b'{"a":"' + b"x" * 1000 + b'"},'] * elements, b"1]"])
        self.given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = next(self._pieces, b"")
        buffer[: len(piece)] = piece
        self.given += len(piece)
        return len(piece)


def test_an_array_of_any_size_takes_bounded_memory() -> None:
    source = Counted(100_000)
    posted = 0
    for batch in batches(io.BufferedReader(source, 65536)):
        posted += len(batch.body)
        assert source.given - posted <= publish.WHOLE_BYTES + 2 * publish.MAX_BATCH_BYTES
    assert posted > 100_000_000


def changes(text: bytes, envelope: Envelope) -> list[Any]:
    found = []
    for batch in batches(io.BytesIO(text), envelope):
        if batch.lines:
            found += [json.loads(line) for line in batch.body.split(b"\n")]
        else:
            document = json.loads(batch.body)
            found += document if isinstance(document, list) else [document]
    return found


@pytest.mark.parametrize(
    "text",
    [
        b'{"id": 1, "big": 18446744073709551615}\n\n{"id": 2}\r\n',
        b'[{"id": 1, "big": 18446744073709551615},\n {"id": 2}]',
        b'\xef\xbb\xbf[{"id": 1, "big": 18446744073709551615}, {"id": 2}]',
    ],
)
def test_rows_become_changes_as_they_stand(text: bytes) -> None:
    assert changes(text, Envelope('app."Orders"', "update", user="alice")) == [
        {
            "table": 'app."Orders"',
            "change_type": "update",
            "user_id": "alice",
            "row_data": {"id": 1, "big": 2**64 - 1},
        },
        {
            "table": 'app."Orders"',
            "change_type": "update",
            "user_id": "alice",
            "row_data": {"id": 2},
        },
    ]
    assert changes(b'{\n"id": 1}', Envelope("app.a"))[0]["row_data"] == {"id": 1}


@pytest.mark.parametrize("text", [b"[1]", b'[["a"]]', b'["a"]', b"5"])
def test_what_is_no_row_is_refused(text: bytes) -> None:
    with pytest.raises(Malformed, match="this is no row"):
        changes(text, Envelope("app.a"))


def test_a_key_makes_ids_that_tell_tables_users_and_values_apart() -> None:
    def ids(text: bytes, *args: Any, **more: Any) -> list[str]:
        return [change["id"] for change in changes(text, Envelope(*args, **more))]

    rows = b'[{"a":1,"b":"x"},{"a":"1","b":"x"},{"a":1,"b":"y"},{"a":1,"b":"x","c":5}]'
    one, other, third, same = ids(rows, "app.a", key=("a", "b"))
    assert same == one
    found = {one, other, third, *ids(rows[:16] + b"]", "app.b", key=("a", "b"))}
    found |= set(ids(rows[:16] + b"]", "app.a", key=("a", "b"), user="u"))
    assert len(found) == 5
    long = ids(b'[{"a":"' + b"x" * 500 + b'"}]', "app.a", key=("a",))
    assert len(long[0]) == 64
    with pytest.raises(Malformed, match="no column b, which --key names"):
        ids(b'[{"a":1}]', "app.a", key=("b",))


def rows_of(text: str, *text_columns: str) -> list[Any]:
    return [json.loads(row) for row in csv_rows(io.BytesIO(text.encode()), text_columns)]


def test_csv_has_values_of_their_kind_and_nothing_is_rounded() -> None:
    text = (
        "\ufeffid,zip,price,done,note\r\n"
        '1,007,2.5,true,"a, ""b""\nc"\r\n'
        "\r\n"
        "-2,12,1.50,false,\r\n"
        "18446744073709551615,1e5,0.1,TRUE,-0\r\n"
        "18446744073709551616,+1,12345678901234567890.5,no,NaN\r\n"
    )
    assert rows_of(text) == [
        {"id": 1, "zip": "007", "price": 2.5, "done": True, "note": 'a, "b"\nc'},
        {"id": -2, "zip": 12, "price": "1.50", "done": False, "note": None},
        {"id": 2**64 - 1, "zip": "1e5", "price": 0.1, "done": "TRUE", "note": "-0"},
        {
            "id": "18446744073709551616",
            "zip": "+1",
            "price": "12345678901234567890.5",
            "done": "no",
            "note": "NaN",
        },
    ]
    assert rows_of("id,zip\n1,12\n2,\n", "zip") == [{"id": 1, "zip": "12"}, {"id": 2, "zip": ""}]
    assert rows_of("id,zip\n1,12\n", "*") == [{"id": "1", "zip": "12"}]
    assert rows_of("") == rows_of("id\n") == []


@given(st.lists(st.lists(st.text(max_size=6), min_size=2, max_size=2), max_size=6))
def test_texts_come_out_of_csv_as_they_went_in(rows: list[list[str]]) -> None:
    written = io.StringIO()
    csv.writer(written, quoting=csv.QUOTE_ALL).writerows([["a", "b"], *rows])
    # The csv module of Python 3.11 reads a bare line break at a row's end as it writes it.
    assert [list(row.values()) for row in rows_of(written.getvalue(), "*")] == rows


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a,b\n1\n", "line 2 of the CSV has 1 fields, not 2"),
        ("a,b\n1,2\n1,2,3\n", "line 3 of the CSV has 3 fields, not 2"),
        ("a,a\n1,2\n", "names a column twice: a"),
        ('a\n"b\n', "of the CSV: unexpected end of data"),
    ],
)
def test_a_csv_that_is_none_is_refused_with_its_line(text: str, told: str) -> None:
    with pytest.raises(Malformed, match=told):
        rows_of(text)
    with pytest.raises(Malformed, match="no column c, which --text names"):
        rows_of("a,b\n", "c")
    with pytest.raises(Malformed, match="not UTF-8 behind line 0"):
        list(csv_rows(io.BytesIO(b"a\n\xff\n")))


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("seconds", "share", "told"),
    [(10, 0.25, " 25%  ETA 0:30  500 changes, 50/s"), (7200, 0.5, " 50%  ETA 2:00:00  500 ch")],
)
def test_progress_tells_percent_and_when_the_rest_will_be_there(
    tmp_path: Any, seconds: float, share: float, told: str
) -> None:
    (tmp_path / "file").write_bytes(b"x" * 1000)
    now = iter([0.0, seconds])
    with (tmp_path / "file").open("rb") as source:
        screen = Screen()
        progress = Progress(screen, Extent(source), lambda: next(now))
        source.read(int(1000 * share))
        tally = Tally()
        tally.accepted = 500
        progress.show(tally)
        assert told in screen.getvalue()
