"""What ends a client or one of its queries for good. Everything else is answered by reconnecting.

A token that does not hold raises `AuthenticationFailed`, a refused subscription
`SubscriptionRefused`, a refused post `ChangeRefused` (all from kalam_notify.errors, and told on by
kalam_notify.client), and the rest one of these.
"""

from kalam_notify.errors import KalamNotifyError


class ConnectionLost(KalamNotifyError):
    """The server does not want this client again. `code` is the close code or HTTP status."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"the server closed the connection for good: {code} {reason}".strip())
        self.code = code
        self.reason = reason


class ConnectTimeout(KalamNotifyError, TimeoutError):
    """No connection came up within `connect_timeout`."""


class Closed(KalamNotifyError):
    """The connection, or the live query, was closed by this program itself."""


class RowMismatch(KalamNotifyError):
    """A row that is not of the `row_type` that was asked for; the text names row and field."""


class Unreachable(KalamNotifyError):
    """The server could not be asked, after as many tries as are worth it."""
