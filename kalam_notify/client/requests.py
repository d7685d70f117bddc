"""Plain HTTP to a server, over one kept-alive connection; the standard library suffices."""

import http.client
import time
from collections.abc import Callable, Mapping
from ssl import SSLContext
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import orjson

from kalam_notify.client.address import http_url, without_password
from kalam_notify.client.credentials import clean
from kalam_notify.client.faults import Unreachable

TIMEOUT_SECONDS: Final = 60.0
MAX_TRIES: Final = 8
_TRY_AGAIN = (429, 503)
_LONGEST_WAIT_SECONDS: Final = 30.0


class Answer(NamedTuple):
    """An HTTP answer; `body` is its JSON, or None when it is none; `text` what came."""

    status: int
    headers: Mapping[str, str]
    body: Any
    text: str = ""

    @property
    def fault(self) -> str:
        """The server's error in one line."""
        error = self.body.get("error") if isinstance(self.body, dict) else None
        if not isinstance(error, dict):
            return f"HTTP {self.status}"
        where = [f"{name} {error[name]}" for name in ("index", "field") if name in error]
        place = f" ({', '.join(where)})" if where else ""
        return f"{error.get('code')}: {error.get('message')}{place}"


class Server:
    """A server to be asked over HTTP. `wait` sleeps, or is a test's own.

    Raises BadAddress, and BadCredential for a token or key that no header can carry.
    """

    def __init__(
        self,
        base: str,
        token: str | None,
        wait: Callable[[float], None] = time.sleep,
        *,
        api_key: str | None = None,
        ssl: SSLContext | None = None,
    ) -> None:
        url = urlsplit(http_url(base, ""))
        host, port = url.hostname or "", url.port
        self._connection = (
            http.client.HTTPSConnection(host, port, timeout=TIMEOUT_SECONDS, context=ssl)
            if url.scheme == "https"
            else http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
        )
        self._base = without_password(base)
        self._root = url.path
        self._headers = (
            {} if token is None else {"Authorization": f"Bearer {clean(token, 'token')}"}
        )
        if api_key is not None:
            self._headers["X-API-Key"] = clean(api_key, "API key")
        self._wait = wait

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask, and ask again while the server says 429 or 503 or cannot be reached.

        Only for requests that are harmless when repeated. Raises Unreachable.
        """
        for number in range(1, MAX_TRIES + 1):
            try:
                answer = self.once(method, path, body, headers or {})
            except (OSError, http.client.HTTPException) as fault:
                self._connection.close()
                if number == MAX_TRIES or isinstance(fault, ConnectionRefusedError):
                    raise Unreachable(f"cannot reach {self._base}: {fault}") from fault
                self._wait(min(0.1 * 2.0**number, _LONGEST_WAIT_SECONDS))
                continue
            if answer.status not in _TRY_AGAIN or number == MAX_TRIES:
                break
            self._wait(retry_after(answer))
        return answer

    def close(self) -> None:
        self._connection.close()

    def once(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        *,
        timeout: float = TIMEOUT_SECONDS,
    ) -> Answer:
        """Ask once. `timeout` is in seconds without a byte from the server.

        Raises OSError or http.client.HTTPException where there is no answer.
        """
        self._connection.timeout = timeout
        if self._connection.sock is not None:
            self._connection.sock.settimeout(timeout)
        self._connection.request(method, self._root + path, body, {**self._headers, **headers})
        response = self._connection.getresponse()
        text = response.read()
        names = {name.lower(): value for name, value in response.getheaders()}
        try:
            return Answer(response.status, names, orjson.loads(text))
        except orjson.JSONDecodeError:
            return Answer(response.status, names, None, text.decode(errors="replace"))


def retry_after(answer: Answer) -> float:
    """How many seconds to wait before the next try, as far as is worth it."""
    seconds = answer.headers.get("retry-after", "1")
    return min(float(seconds), _LONGEST_WAIT_SECONDS) if seconds.isdecimal() else 1.0
