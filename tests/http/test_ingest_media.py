"""Media types, encodings, and bodies that are larger than they look."""

import gzip
import random
import zlib
from types import SimpleNamespace

import pytest

from kalam_notify.errors import ChangeRefused
from kalam_notify.http import decoders
from kalam_notify.http.decoders import form_of, inflate, is_gzip
from kalam_notify.http.items import Form


@pytest.mark.parametrize(
    ("content_type", "form"),
    [
        (None, Form.JSON),
        ("application/json", Form.JSON),
        ("Application/JSON; charset=UTF-8", Form.JSON),
        ('application/json; charset="utf-8"; profile=x', Form.JSON),
        ("application/x-ndjson", Form.LINES),
        ("application/x-ndjson;charset=utf8", Form.LINES),
    ],
)
def test_media_types_name_forms(content_type: str | None, form: Form) -> None:
    assert form_of(content_type) is form


@pytest.mark.parametrize(
    "content_type",
    ["", "text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1"],
)
def test_other_media_types_are_refused(content_type: str) -> None:
    with pytest.raises(ChangeRefused) as caught:
        form_of(content_type)
    assert (caught.value.status, caught.value.code) == (415, "UNSUPPORTED_MEDIA_TYPE")


def test_gzip_and_nothing_else_is_understood() -> None:
    assert is_gzip("GZIP")
    assert not is_gzip(None)
    assert not is_gzip("identity")
    for encoding in ("br", "deflate", "gzip, gzip"):
        with pytest.raises(ChangeRefused) as caught:
            is_gzip(encoding)
        assert caught.value.status == 415


@pytest.mark.parametrize("size", [0, 1, 99, 100])
def test_what_fits_the_limit_is_inflated(size: int) -> None:
    assert inflate(gzip.compress(b"x" * size), 100) == b"x" * size


def test_all_members_of_a_gzip_body_count() -> None:
    two = gzip.compress(b"x" * 50) + gzip.compress(b"y" * 50)
    assert inflate(two, 100) == b"x" * 50 + b"y" * 50
    with pytest.raises(ChangeRefused) as caught:
        inflate(two, 99)
    assert caught.value.status == 413


def test_a_bomb_is_refused_for_its_size() -> None:
    bomb = gzip.compress(b"0" * 50_000_000)
    with pytest.raises(ChangeRefused) as caught:
        inflate(bomb, 1000)
    assert (caught.value.status, caught.value.code) == (413, "TOO_LARGE")


# Named by hand: a compressed text holds the time, and workers must agree on a test's name.
@pytest.mark.parametrize(
    "damaged",
    [b"", b"not gzip", gzip.compress(b"x" * 50)[:-3], gzip.compress(b"x") + b"tail"],
    ids=["empty", "text", "cut short", "with a tail"],
)
def test_damaged_gzip_is_refused(damaged: bytes) -> None:
    with pytest.raises(ChangeRefused) as caught:
        inflate(damaged, 1000)
    assert (caught.value.status, caught.value.code) == (400, "INVALID_JSON")


class Copies:
    """zlib's inflater, counting the bytes it was given and those it handed back."""

    taken = 0

    def __init__(self, window: int) -> None:
        self._inner = zlib.decompressobj(window)

    def decompress(self, data: bytes, most: int) -> bytes:
        Copies.taken += len(data)
        return self._inner.decompress(data, most)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data


@pytest.mark.parametrize("content", [b"", b"x" * 300, bytes(range(256)) * 40])
def test_many_members_are_copied_in_proportion_to_their_number(
    monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr(decoders, "zlib", SimpleNamespace(decompressobj=Copies, error=zlib.error))
    member = gzip.compress(content)
    for count in (100, 1000):
        Copies.taken = 0
        assert inflate(member * count, 1 << 30) == content * count
        assert Copies.taken <= count * 3 * max(len(member), 256)


def test_members_without_number_are_refused() -> None:
    with pytest.raises(ChangeRefused) as caught:
        inflate(gzip.compress(b"") * (decoders.MAX_MEMBERS + 1), 100)
    assert (caught.value.status, caught.value.code) == (400, "INVALID_JSON")
    assert inflate(gzip.compress(b"") * decoders.MAX_MEMBERS, 100) == b""


@pytest.mark.parametrize("size", [1, 255, 256, 257, 512, 768, 10_000])
def test_a_body_may_end_where_a_bite_does(size: int) -> None:
    content = random.Random(size).randbytes(size)
    body = gzip.compress(content)
    assert inflate(body, size) == content
    for missing in (1, 8, 9):
        with pytest.raises(ChangeRefused) as caught:
            inflate(body[:-missing], size)
        assert "ends early" in caught.value.message
