"""What HTTP clients are answered: JSON, and one shape for every error."""

import http
from collections.abc import Mapping

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ExceptionHandler

from kalam_notify.errors import AuthenticationFailed, ChangeRefused, ClientFault, KeysUnavailable

_CODES = {
    401: "UNAUTHORIZED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    408: "REQUEST_TIMEOUT",
    413: "TOO_LARGE",
    429: "RATE_LIMITED",
    500: "INTERNAL",
    503: "OVERLOADED",
}


class JsonAnswer(Response):
    """A response whose content goes out as JSON."""

    media_type = "application/json"
    render = staticmethod(orjson.dumps)  # type: ignore[assignment]  # which has more options


def error_answer(
    status: int,
    message: str,
    *,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
    **where: int | str | None,
) -> Response:
    """`{"error": {"code", "message", "index"?, "field"?}}`."""
    error: dict[str, object] = {"code": code or _CODES.get(status, "ERROR"), "message": message}
    error.update((name, value) for name, value in where.items() if value is not None)
    return JsonAnswer({"error": error}, status, headers)


def fault_answer(fault: ClientFault | KeysUnavailable) -> Response:
    """The answer to a client's own fault, or where it cannot be known whether there is one."""
    if isinstance(fault, KeysUnavailable):
        return error_answer(503, str(fault), headers={"Retry-After": str(fault.retry_after)})
    if isinstance(fault, ChangeRefused):
        wait = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
        return error_answer(
            fault.status,
            fault.message,
            code=fault.code,
            headers=wait,
            index=fault.index,
            field=fault.field,
        )
    if isinstance(fault, AuthenticationFailed):
        return error_answer(401, fault.message, headers={"WWW-Authenticate": "Bearer"})
    return error_answer(400, fault.message, code=fault.code)


async def _http_exception(request: Request, fault: Exception) -> Response:
    assert isinstance(fault, HTTPException)
    message = fault.detail
    if message == http.HTTPStatus(fault.status_code).phrase:
        # Not request.url, which decodes the whole target and raises where that is not UTF-8.
        message = f"{message}: {request.method} {request.scope['path']}"
    return error_answer(fault.status_code, message, headers=fault.headers)


async def _client_fault(request: Request, fault: Exception) -> Response:
    assert isinstance(fault, ClientFault | KeysUnavailable)
    return fault_answer(fault)


ERROR_HANDLERS: dict[type[Exception] | int, ExceptionHandler] = {
    HTTPException: _http_exception,
    ClientFault: _client_fault,
    KeysUnavailable: _client_fault,
}
"""For `Starlette(exception_handlers=...)`: 404, 405 and client faults in the one error shape."""
