"""Every fault this package raises, by the side that caused it.

    KalamNotifyError
    ├── ClientFault              the peer's doing: answered to that peer, never logged as ours
    │   ├── ChangeRefused        a post to /v1/changes: HTTP status, code, index, field
    │   ├── AuthenticationFailed a token or key that does not hold
    │   └── SubscriptionRefused  a subscribe or next_batch: one of the codes of the protocol
    │       └── SqlRefused       the SQL of a subscribe, with line and column
    ├── KeysUnavailable          whether a token holds cannot be known now: no answer is a "no"
    ├── OperatorFault            configuration or data on disk: the start is refused, exit code 2
    │   ├── ConfigurationFault   a list of faults, each with file, key path, value, cure
    │   └── StorageFault         files of an unknown version, tables that changed their key
    │       └── DamagedFile      ... or damaged ones: nobody's setting, exit code 1
    └── LogFault                 an edge of the event log
        ├── Compacted            the position asked for has been trimmed by retention
        ├── SourceOvertaken      somebody else has told the log of this source meanwhile
        └── LogUnavailable       the log cannot take or give changes now (disk full, closed)
            └── OutcomeUnknown   ... and may have taken what it was given all the same

A module that needs a finer kind subclasses one of these leaves; nothing outside the tree is raised
on purpose.
"""

from collections.abc import Sequence
from typing import NamedTuple


class KalamNotifyError(Exception):
    """Base of everything this package raises on purpose."""


class ClientFault(KalamNotifyError):
    """The peer's doing. `code` is the name the peer is told."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class ChangeRefused(ClientFault):
    """A batch of changes that is not stored, none of it.

    `status` is the HTTP status; `index` counts from 0 within the batch; `field` is a dotted path
    into the change; `retry_after` is in seconds and goes with 429 and 503.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        index: int | None = None,
        field: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(code, message)
        self.status = status
        self.index = index
        self.field = field
        self.retry_after = retry_after


class AuthenticationFailed(ClientFault):
    """A token or an API key that does not hold; `message` may be shown to the peer.

    `reason` is one word, for the metric that counts them.
    """

    def __init__(self, message: str, *, reason: str = "malformed") -> None:
        super().__init__("UNAUTHORIZED", message)
        self.reason = reason


class SubscriptionRefused(ClientFault):
    """A request about one subscription that is answered with an `error` message.

    `code` is one of the error codes listed in docs/protocol.md; the connection stays open.
    """


class SqlRefused(SubscriptionRefused):
    """SQL that is not accepted. `line` and `column` count from 1; None where there is no place."""

    def __init__(self, message: str, *, line: int | None = None, column: int | None = None) -> None:
        if line is not None and column is not None:
            message = f"{message} (line {line}, column {column})"
        super().__init__("INVALID_SQL", message)
        self.line = line
        self.column = column


class KeysUnavailable(KalamNotifyError):
    """The keys that a token could be verified with cannot be had at the moment: ask again later.

    `retry_after` is in seconds.
    """

    def __init__(self, retry_after: int = 2) -> None:
        super().__init__("the keys that tokens are verified with cannot be had at the moment")
        self.retry_after = retry_after


class OperatorFault(KalamNotifyError):
    """What an operator has to mend before the server can start."""


class Fault(NamedTuple):
    """One thing wrong in a configuration: where, what, and what to do about it."""

    source: str
    key: str
    value: str
    cure: str

    def __str__(self) -> str:
        return f"{self.source}: {self.key}: {self.value}: {self.cure}"


class ConfigurationFault(OperatorFault):
    """A configuration that starts nothing. One line per fault."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self.faults = list(faults)


class StorageFault(OperatorFault):
    """Data on disk that this release must not touch."""


class DamagedFile(StorageFault):
    """A file that is no sound database, told with path and cure."""


class LogFault(KalamNotifyError):
    """An edge of the event log that a caller can meet in ordinary operation."""


class Compacted(LogFault):
    """Retention has passed the position asked for; the log reads completely after `horizon`."""

    def __init__(self, horizon: int) -> None:
        super().__init__(f"the log has been trimmed up to seq {horizon}")
        self.horizon = horizon


class SourceOvertaken(LogFault):
    """A batch of a source that does not follow on the last one: nothing of it was stored."""


class LogUnavailable(LogFault):
    """The log cannot take or give changes now. The batch in hand was not stored."""


class OutcomeUnknown(LogUnavailable):
    """The batch in hand may have been stored, or may not: post it again with the same key."""
