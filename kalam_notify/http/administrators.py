"""Who may do what administrators do: role dba and above, or anybody where nobody is asked.

Nobody is asked on an address of its own (`server.internal_listen`) and under `--dev`. There a page
of somebody else's must not have its reader's browser speak to us: a request that a browser sends
for another origin's page says so, and needs credentials as it would elsewhere.
"""

from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from kalam_notify.auth import Authorize
from kalam_notify.http.answers import error_answer
from kalam_notify.model import Role


class Administrators:
    """`is_open`: nobody is asked for credentials here."""

    def __init__(self, authorize: Authorize, *, is_open: bool) -> None:
        self._authorize = authorize
        self.is_open = is_open

    async def refusal(self, request: Request, what: str) -> Response | None:
        """None for one who may do `what`, else the answer; raises AuthenticationFailed."""
        headers = request.headers
        if self.is_open and is_same_origin(headers.get("origin"), headers.get("host")):
            return None
        identity = await self._authorize(headers.get("authorization"), headers.get("x-api-key"))
        if identity.role < Role.DBA:
            return error_answer(403, f"{what} takes the role dba or system")
        return None


def is_same_origin(origin: str | None, host: str | None) -> bool:
    """Whether a request is of no page, or of one of this address."""
    return origin is None or urlsplit(origin).netloc == host
