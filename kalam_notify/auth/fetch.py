"""Fetching a published key set. Blocking: for a thread, never for the event loop."""

import json
import time
import urllib.error
import urllib.request
from http.client import HTTPException, HTTPMessage
from typing import IO

from kalam_notify.auth.keys import PublishedKey, parse_key_set

# A shutdown waits for a fetch under way, so both bounds stay well below a drain.
TIMEOUT_SECONDS = 3.0
TOTAL_SECONDS = 5.0
LARGEST_DOCUMENT = 1 << 20


class FetchFailed(Exception):
    """The key set could not be had. Its text says why, without anything secret."""


class _HttpOnly(urllib.request.HTTPRedirectHandler):
    """Follows a redirect within http and https, never from https to http."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        allowed = ("https:",) if req.full_url.startswith("https:") else ("http:", "https:")
        if not newurl.startswith(allowed):
            raise FetchFailed("redirected to an address that is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch_key_set(
    url: str,
    *,
    timeout: float = TIMEOUT_SECONDS,
    total: float = TOTAL_SECONDS,
    limit: int = LARGEST_DOCUMENT,
) -> tuple[PublishedKey, ...]:
    """The usable keys published at `url`; raises FetchFailed.

    Bounded in time (`timeout` seconds for each wait, about `total` for all) and in size (`limit`
    bytes).
    """
    deadline = time.monotonic() + total
    opener = urllib.request.build_opener(_HttpOnly)
    request = urllib.request.Request(url, headers={"Accept": "application/json"})
    try:
        with opener.open(request, timeout=timeout) as response:
            body = _read(response, deadline, limit)
        return parse_key_set(json.loads(body))
    except urllib.error.HTTPError as error:
        raise FetchFailed(f"HTTP status {error.code}") from None
    except (OSError, HTTPException, ValueError, RecursionError) as error:
        raise FetchFailed(str(error) or type(error).__name__) from None


def _read(response: IO[bytes], deadline: float, limit: int) -> bytes:
    # read1: hand over what has arrived, so that the deadline is looked at even when a server
    # sends one byte at a time.
    read = getattr(response, "read1", response.read)
    body = b""
    while chunk := read(65536):
        body += chunk
        if len(body) > limit:
            raise FetchFailed(f"the document is larger than {limit} bytes")
        if time.monotonic() > deadline:
            raise FetchFailed("the document takes too long to arrive")
    return body
