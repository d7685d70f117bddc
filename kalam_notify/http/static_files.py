"""The files that browsers are given: built beforehand, read once, the same for everybody.

A browser keeps a file and asks whether it still holds, by its ETag; one of an older release is
never used unasked. Where the client takes gzip it gets what was compressed when the file was read.
Pages of other hosts may import the client: a module is fetched across origins only where its server
says so, and there is nothing secret in it.
"""

import gzip
import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

STATIC = Path(__file__).parent / "static"
_KINDS = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".svg": "image/svg+xml",
}


class StaticFile(NamedTuple):
    """A file, as it is and compressed."""

    body: bytes
    compressed: bytes
    etag: str
    kind: str


@cache
def load(name: str) -> StaticFile:
    """The file `name` of the package."""
    path = STATIC / name
    body = path.read_bytes()
    digest = hashlib.sha256(body).hexdigest()[:20]
    return StaticFile(body, gzip.compress(body, 9, mtime=0), digest, _KINDS[path.suffix])


def static_routes() -> list[Route]:
    """`GET /client.js`, open to everybody."""
    return [Route("/client.js", _client)]


async def _client(request: Request) -> Response:
    return answer(load("client.js"), request)


def answer(file: StaticFile, request: Request) -> Response:
    """The file, or that the one the browser has still holds."""
    is_gzip = _takes_gzip(request.headers.get("accept-encoding", ""))
    etag = f'"{file.etag}-gzip"' if is_gzip else f'"{file.etag}"'
    headers = {
        "ETag": etag,
        "Cache-Control": "no-cache",
        "Vary": "Accept-Encoding",
        "Access-Control-Allow-Origin": "*",
        "X-Content-Type-Options": "nosniff",
    }
    if _names(request.headers.get("if-none-match", ""), file.etag):
        return Response(status_code=304, headers=headers)
    headers["Content-Type"] = file.kind
    if is_gzip:
        headers["Content-Encoding"] = "gzip"
    return Response(file.compressed if is_gzip else file.body, headers=headers)


def _takes_gzip(accepted: str) -> bool:
    """Whether an Accept-Encoding has gzip in it, not at a weight of nothing."""
    for item in accepted.lower().split(","):
        name, _, weight = item.partition(";")
        if name.strip() in ("gzip", "*"):
            return weight.replace(" ", "").rstrip("0") not in ("q=", "q=0.")
    return False


def _names(if_none_match: str, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/").strip('"') for tag in if_none_match.split(",")]
    return "*" in tags or etag in tags or f"{etag}-gzip" in tags
