"""POST /v1/hooks/NAME: changes from senders that sign, or bring a secret, instead of a token.

What comes is taken as a post to /v1/changes is (`ingest`), into the tables and in the format that
the settings say. What can be judged by the headers is, before a byte of the body is taken in; a
signature is over the body as it was before it was compressed.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope

from kalam_notify.auth.webhooks import Webhook
from kalam_notify.budget import Budget
from kalam_notify.config.hooks import HookSettings
from kalam_notify.errors import AuthenticationFailed
from kalam_notify.http.answers import error_answer
from kalam_notify.http.foreign import Foreign, format_named
from kalam_notify.http.ingest import (
    ChangesEndpoint,
    Gate,
    IngestConfig,
    IngestMetrics,
    NoMetrics,
    first_of_each,
)
from kalam_notify.log.base import EventLog
from kalam_notify.model import Identity
from kalam_notify.model.tables import Catalog

PATH = "/v1/hooks/{name}"


class _Hook(NamedTuple):
    settings: HookSettings
    webhook: Webhook


class HooksEndpoint(ChangesEndpoint):
    """The ASGI application behind POST /v1/hooks/NAME. `clock` gives Unix time in seconds."""

    def __init__(
        self,
        log: EventLog,
        catalog: Catalog,
        config: Callable[[], IngestConfig],
        budget: Budget | None,
        metrics: IngestMetrics,
        gate: Gate,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(log, catalog, _nobody, config, budget, metrics, gate)
        self._clock = clock
        self._hooks: dict[str, _Hook] = {}

    async def _post(self, scope: Scope, receive: Receive) -> Response:
        name = scope["path_params"]["name"]
        hook = self._hook(name)
        if hook is None:
            return error_answer(404, f"there is no hook {name}: see ingest.hooks")
        headers = first_of_each(scope)
        is_known = hook.webhook.judge_headers(headers)
        settings = hook.settings
        foreign = Foreign(
            self._config().ingest.tables, format_named(settings.format), settings.tables
        )
        judge = None if is_known else partial(hook.webhook.judge_body, headers)
        return await self._take(scope, receive, headers, foreign, f"hook {name}", judge)

    def _hook(self, name: str) -> _Hook | None:
        """The hook as it is configured now: a reload puts others in its place."""
        settings = self._config().ingest.hooks.get(name)
        if settings is None:
            return None
        hook = self._hooks.get(name)
        if hook is None or hook.settings is not settings:
            hook = _Hook(settings, Webhook(settings.every_secret, self._clock))
            self._hooks[name] = hook
        return hook


async def _nobody(authorization: str | None, api_key: str | None) -> Identity:
    raise AuthenticationFailed("a hook knows no tokens")


def create_hook_routes(
    log: EventLog,
    catalog: Catalog,
    config: Callable[[], IngestConfig],
    budget: Budget | None = None,
    *,
    metrics: IngestMetrics | None = None,
    gate: Gate | None = None,
    clock: Callable[[], float] = time.time,
) -> list[Route]:
    """The route of the hooks; the arguments are those of `ingest.create_ingest_routes`."""
    endpoint = HooksEndpoint(
        log,
        catalog,
        config,
        budget,
        metrics or NoMetrics(),
        gate or Gate(),
        clock,
    )
    return [Route(PATH, endpoint)]
