"""/livez, /readyz, /health, /metrics and /v1/explain."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from kalam_notify.auth import Authorize
from kalam_notify.errors import ClientFault
from kalam_notify.http.answers import JsonAnswer, error_answer
from kalam_notify.model import Identity, Role


class OpsEndpoints:
    """The answers; what they tell comes from the callables they are given.

    `ready` answers None, or why the server should get no traffic. `open_metrics` tells whether
    /metrics wants no credentials.
    """

    def __init__(
        self,
        *,
        ready: Callable[[], str | None],
        health: Callable[[], Mapping[str, Any]],
        metrics: Callable[[], Awaitable[bytes]],
        explain: Callable[[str, Identity, object], Awaitable[Mapping[str, Any]]],
        authorize: Authorize,
        open_metrics: Callable[[], bool],
    ) -> None:
        self._ready = ready
        self._health = health
        self._metrics = metrics
        self._explain = explain
        self._authorize = authorize
        self._open_metrics = open_metrics

    def open_routes(self) -> list[Route]:
        """What anybody may ask."""
        return [
            Route("/livez", self.livez),
            Route("/readyz", self.readyz),
            Route("/health", self.health),
        ]

    def admin_routes(self, *, internal: bool) -> list[Route]:
        """What producers and operators may ask; `internal`: on the address meant for them."""
        metrics = self.metrics_internal if internal else self.metrics
        return [Route("/metrics", metrics), Route("/v1/explain", self.explain)]

    async def livez(self, request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(self, request: Request) -> Response:
        why_not = self._ready()
        if why_not is None:
            return PlainTextResponse("ready\n")
        return PlainTextResponse(f"{why_not}\n", status_code=503)

    async def health(self, request: Request) -> Response:
        body = self._health()
        return JsonAnswer(body, 200 if body["status"] == "ok" else 503)

    async def metrics(self, request: Request) -> Response:
        if not self._open_metrics():
            refusal = await self._refusal(request)
            if refusal is not None:
                return refusal
        return await self.metrics_internal(request)

    async def metrics_internal(self, request: Request) -> Response:
        try:
            text = await self._metrics()
        except TimeoutError:
            return error_answer(503, "the workers' counts could not be gathered in time")
        return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def explain(self, request: Request) -> Response:
        """`GET /v1/explain?sql=…&params=[…]`: which indexes a query would use, what it shares."""
        identity = await self._identify(request)
        if identity.role < Role.SERVICE:
            return error_answer(403, "explain takes the role service, dba or system")
        sql = request.query_params.get("sql")
        if sql is None:
            return error_answer(400, "give the query as ?sql=SELECT …", code="INVALID_REQUEST")
        try:
            params = orjson.loads(request.query_params.get("params") or "null")
        except ValueError:
            return error_answer(400, "params is JSON: a list of values", code="INVALID_REQUEST")
        try:
            return JsonAnswer(await self._explain(sql, identity, params))
        except ClientFault as fault:
            return error_answer(400, fault.message, code=fault.code)

    async def _identify(self, request: Request) -> Identity:
        headers = request.headers
        return await self._authorize(headers.get("authorization"), headers.get("x-api-key"))

    async def _refusal(self, request: Request) -> Response | None:
        identity = await self._identify(request)
        if identity.role < Role.SERVICE:
            return error_answer(403, "metrics take the role service, dba or system")
        return None
