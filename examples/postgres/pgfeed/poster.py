"""POST /v1/changes: one connection kept alive, repeated until the daemon has the batch."""

import http.client
import logging
import random
import threading
from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec

from pgfeed.faults import FeederFault, SetupFault, Stopping

_log = logging.getLogger("feeder.post")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_TIMEOUT = 60.0
_RETRIED = {408, 425, 429}


class Accepted(msgspec.Struct):
    """The daemon's answer: every change of the batch is durable, now or since an earlier post."""

    accepted: int
    duplicates: int


class Poster:
    """Posts batches of encoded changes; `headers` carry the credentials.

    Retrying is harmless because every change carries its own id. `stop` ends the waiting.
    """

    def __init__(self, url: str, headers: dict[str, str], stop: threading.Event) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SetupFault(f"--url {url}: expected http(s)://host:port")
        make = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        self._connection = make(parts.hostname, parts.port, timeout=_TIMEOUT)
        self._path = f"{parts.path.rstrip('/')}/v1/changes"
        self._headers = {"Content-Type": "application/json", **headers}
        self._stop = stop
        self.accepted = 0
        self.duplicates = 0

    def post(self, changes: Sequence[bytes]) -> None:
        """Return once all changes are durable in the daemon.

        A batch the daemon finds too large is posted in halves. Raises FeederFault for a refusal
        that repeating cannot mend, Stopping when asked to end meanwhile.
        """
        if not changes:
            return
        if self._stop.is_set():
            raise Stopping
        status, body = self._insist(b"[%b]" % b",".join(changes))
        if status == 413 and len(changes) > 1:
            middle = len(changes) // 2
            self.post(changes[:middle])
            self.post(changes[middle:])
            return
        if status != 200:
            raise FeederFault(_refusal(status, body, changes))
        self._count(body, len(changes))

    def close(self) -> None:
        self._connection.close()

    def _insist(self, body: bytes) -> tuple[int, bytes]:
        pause = _FIRST_PAUSE
        while True:
            kept_alive = self._connection.sock is not None
            status, answer, wait = self._attempt(body)
            if status is not None and status < 500 and status not in _RETRIED:
                return status, answer
            if status is None and kept_alive:
                # The daemon may close an idle connection; that says nothing about the daemon.
                continue
            _log.warning("not accepted, trying again: %s", answer.decode(errors="replace")[:200])
            if self._stop.wait(max(wait, pause * random.uniform(0.5, 1.0))):
                raise Stopping
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _attempt(self, body: bytes) -> tuple[int | None, bytes, float]:
        """Status, body and how long the daemon asks to wait; status None: no answer."""
        try:
            self._connection.request("POST", self._path, body, self._headers)
            response = self._connection.getresponse()
            wait = response.headers.get("Retry-After", "0")
            return response.status, response.read(), float(wait) if wait.isdigit() else 0.0
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            return None, f"{type(error).__name__}: {error}".encode(), 0.0

    def _count(self, body: bytes, posted: int) -> None:
        try:
            answer = msgspec.json.decode(body, type=Accepted)
        except msgspec.DecodeError as error:
            raise FeederFault(f"the daemon's answer is not understood: {error}") from error
        if answer.accepted + answer.duplicates != posted:
            raise FeederFault(f"{posted} changes posted, but answered for: {answer}")
        self.accepted += answer.accepted
        self.duplicates += answer.duplicates


def _refusal(status: int, body: bytes, changes: Sequence[bytes]) -> str:
    """One line that names the change the daemon refused, where it says which."""
    text = body.decode(errors="replace")
    try:
        index = msgspec.json.decode(body)["error"].get("index")
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        index = 0 if len(changes) == 1 else None
    culprit = ""
    if isinstance(index, int) and 0 <= index < len(changes):
        culprit = f"; the change: {changes[index][:300].decode(errors='replace')}"
    return f"the daemon refused a batch with {status}: {text}{culprit}"
