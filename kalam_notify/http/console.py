"""`GET /`: the console, a static page of hand-written modules on top of the JavaScript client.

The page holds no secret and does nothing by itself: everything it shows it asks for, with the token
of whoever uses it. A browser cannot send a token when an address is typed into it. So the page
comes to everybody, with the status that tells what is wanted: 200 under `--dev`, on the internal
address and to a token of role dba; else 401 or 403, and the page then shows a form for a token,
which it keeps for its tab (sessionStorage) and sends along with all it asks for.

`POST /v1/admin/token` mints tokens, under `--dev` alone, so that one can try what a user would see.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kalam_notify.errors import AuthenticationFailed, KeysUnavailable
from kalam_notify.http.administrators import Administrators
from kalam_notify.http.answers import JsonAnswer, error_answer
from kalam_notify.http.static_files import STATIC, answer, load
from kalam_notify.model import Role
from kalam_notify.version import __version__

DIRECTORY: Final = "console"
PAGE: Final = f"{DIRECTORY}/index.html"
TOKEN_SECONDS: Final = 24 * 3600.0
_LARGEST_BODY: Final = 64 * 1024
_HOST: Final = re.compile(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?")

# By name, so that no path is ever made of what a client sends.
_FILES: Final = {
    path.name: f"{DIRECTORY}/{path.name}"
    for path in sorted((STATIC / DIRECTORY).iterdir())
    if path.suffix in (".js", ".css", ".svg")
} | {"client.js": "client.js"}


class Mint(Protocol):
    """Signs a token. Raises ValueError for what no token may say."""

    def __call__(self, user: str, role: Role, seconds: float, claims: Mapping[str, Any]) -> str: ...


class PublicAddress(NamedTuple):
    """Where the WebSocket is, where that is not where the console is."""

    scheme: str
    port: int


class _Wanted(msgspec.Struct, frozen=True):
    user: str = "dev"
    role: str = "service"
    claims: dict[str, Any] = {}


_decode = msgspec.json.Decoder(_Wanted).decode


class Console:
    """The page, its files, and tokens for it. `mint` is None but under `--dev`."""

    def __init__(
        self,
        administrators: Administrators,
        mint: Mint | None,
        public: PublicAddress | None = None,
    ) -> None:
        self._administrators = administrators
        self._mint = mint
        self._public = public

    def routes(self) -> list[Route]:
        return [
            Route("/", self.page, methods=["GET"]),
            Route("/console/{name}", self.file, methods=["GET"]),
            Route("/v1/admin/console", self.settings, methods=["GET"]),
            Route("/v1/admin/token", self.token, methods=["POST"]),
        ]

    async def page(self, request: Request) -> Response:
        status = await self._status(request)
        if status == 200:
            page = answer(load(PAGE), request)
        else:
            # 304 would tell a browser nothing of what is wanted.
            page = answer(load(PAGE), _without_tags(request))
            page.status_code = status
        if status == 401:
            page.headers["WWW-Authenticate"] = "Bearer"
        return self._guarded(page, request)

    async def _status(self, request: Request) -> int:
        try:
            refusal = await self._administrators.refusal(request, "the console")
        except AuthenticationFailed:
            return 401
        except KeysUnavailable:
            return 503
        return 200 if refusal is None else refusal.status_code

    async def file(self, request: Request) -> Response:
        name = _FILES.get(request.path_params["name"])
        if name is None:
            return error_answer(404, "the console has no such file")
        return self._guarded(answer(load(name), request), request)

    def _guarded(self, response: Response, request: Request) -> Response:
        headers = response.headers
        if "Access-Control-Allow-Origin" in headers:
            del headers["Access-Control-Allow-Origin"]
        headers["Content-Security-Policy"] = policy(self._server(request))
        headers["Referrer-Policy"] = "no-referrer"
        headers["Cross-Origin-Opener-Policy"] = "same-origin"
        headers["Cross-Origin-Resource-Policy"] = "same-origin"
        headers["X-Frame-Options"] = "DENY"
        return response

    def _server(self, request: Request) -> str | None:
        """The address of the WebSocket as this browser would know it; None: the page's own."""
        if self._public is None:
            return None
        match = _HOST.fullmatch(request.headers.get("host", ""))
        host = "127.0.0.1" if match is None else match[1]
        return f"{self._public.scheme}://{host}:{self._public.port}"

    async def settings(self, request: Request) -> Response:
        """What the page must know of the server it is of."""
        refusal = await self._administrators.refusal(request, "the console")
        if refusal is not None:
            return refusal
        return JsonAnswer(
            {
                "version": __version__,
                "mints_tokens": self._mint is not None,
                "is_open": self._administrators.is_open,
                "server": self._server(request),
            }
        )

    async def token(self, request: Request) -> Response:
        refusal = await self._administrators.refusal(request, "a token")
        if refusal is not None:
            return refusal
        if self._mint is None:
            return error_answer(403, "tokens are minted under --dev only; see kalam-notify token")
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > _LARGEST_BODY:
                return error_answer(413, f"this takes at most {_LARGEST_BODY} bytes")
        try:
            wanted = _decode(body or b"{}")
            role = Role.parse(wanted.role)
            if role is None:
                raise ValueError("role is user, service, dba or system")
            token = self._mint(wanted.user, role, TOKEN_SECONDS, wanted.claims)
        except (ValueError, RecursionError) as fault:
            # msgspec's faults of decoding are ValueErrors, too.
            return error_answer(400, str(fault), code="INVALID_REQUEST")
        issued = {"token": token, "user": wanted.user, "role": role.label, "seconds": TOKEN_SECONDS}
        return JsonAnswer(issued)


def policy(server: str | None) -> str:
    """The Content-Security-Policy: nothing but files of this address, and no text made code."""
    sources = "'self'"
    if server is not None:
        sources += f" {server.replace('http', 'ws', 1)}"
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        f"connect-src {sources}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _without_tags(request: Request) -> Request:
    headers = [one for one in request.scope["headers"] if one[0] != b"if-none-match"]
    return Request({**request.scope, "headers": headers})
