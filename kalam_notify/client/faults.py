"""What ends a client for good. Everything else is answered by reconnecting.

A token that does not hold raises `AuthenticationFailed`, a refused subscription
`SubscriptionRefused` (both from kalam_notify.errors), and the rest `ConnectionLost`.
"""

from kalam_notify.errors import KalamNotifyError


class ConnectionLost(KalamNotifyError):
    """The server does not want this client again. `code` is the close code or HTTP status."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"the server closed the connection for good: {code} {reason}".strip())
        self.code = code
        self.reason = reason
