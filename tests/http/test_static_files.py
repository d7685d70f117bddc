"""The client that the daemon serves: what browsers are told, and that it is its source, built."""

import gzip
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import Response

from kalam_notify.http.static_files import STATIC, answer, load
from kalam_notify.version import __version__

SOURCE = Path(__file__).parents[2] / "clients" / "js"
FILE = load("client.js")


def asked(**headers: str) -> Response:
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return answer(FILE, Request({"type": "http", "method": "GET", "headers": named}))


@pytest.mark.parametrize(
    "accepted", ["gzip", "gzip, deflate, br", "br;q=1.0, gzip;q=0.8", "*", "GZIP"]
)
def test_who_takes_gzip_gets_gzip(accepted: str) -> None:
    response = asked(accept_encoding=accepted)
    assert response.headers["content-encoding"] == "gzip"
    assert gzip.decompress(response.body) == FILE.body
    assert len(response.body) <= 8 * 1024


@pytest.mark.parametrize("accepted", ["", "identity", "br", "gzip;q=0", "gzip; q=0.000", "*;q=0"])
def test_who_does_not_gets_it_as_it_is(accepted: str) -> None:
    response = asked(accept_encoding=accepted)
    assert "content-encoding" not in response.headers
    assert response.body == FILE.body


def test_the_two_forms_have_two_tags_and_either_holds() -> None:
    plain, zipped = asked().headers["etag"], asked(accept_encoding="gzip").headers["etag"]
    assert plain != zipped
    for tags in (plain, zipped, f"W/{plain}", f'"other", {zipped}', "*"):
        assert asked(if_none_match=tags).status_code == 304
    assert asked(if_none_match='"other"').status_code == 200


def test_it_is_of_this_release() -> None:
    assert f"kalam-notify {__version__}," in FILE.body.decode()


def test_it_is_built_from_its_source() -> None:
    """Rebuilt where Node and the build's packages are, as they are on CI."""
    node = shutil.which("node")
    if node is None or not (SOURCE / "node_modules" / "esbuild").exists():
        missing = "the client cannot be rebuilt: install Node, and run `npm ci` in clients/js"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    built = subprocess.run(
        [node, "build.mjs", "--stdout"], cwd=SOURCE, stdout=subprocess.PIPE, check=True, timeout=120
    )
    assert built.stdout == (STATIC / "client.js").read_bytes(), "run `npm run build` in clients/js"
