"""What a worker answers over HTTP, and at which socket: routes, applications, listeners.

public     WebSocket, events, files, hooks, probes; and all of the rest, where there is no other
internal   ingest, hooks, probes, metrics, administration; where `server.internal_listen` is set
"""

import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp

from kalam_notify.administration.gathering import Gathering
from kalam_notify.auth import Authorize
from kalam_notify.budget import Budget
from kalam_notify.config import Config
from kalam_notify.delivery.service import NotificationService
from kalam_notify.http.administration import AdministrationEndpoints
from kalam_notify.http.administrators import Administrators
from kalam_notify.http.answers import ERROR_HANDLERS
from kalam_notify.http.console import Console, Mint, PublicAddress
from kalam_notify.http.hooks import create_hook_routes
from kalam_notify.http.ingest import Gate, create_ingest_routes, posts_first
from kalam_notify.http.openapi import openapi_route
from kalam_notify.http.operations import OpsEndpoints
from kalam_notify.http.revoking import Revoke, Revoking
from kalam_notify.http.static_files import static_routes
from kalam_notify.log import EventLog
from kalam_notify.metrics import Metrics
from kalam_notify.model import Identity
from kalam_notify.model.tables import Catalog
from kalam_notify.sockets.context import Shared
from kalam_notify.sockets.listeners import Listener
from kalam_notify.sockets.polls import event_routes
from kalam_notify.sockets.tls import Tls
from kalam_notify.sockets.upgrade import PATH as UPGRADE_PATH
from kalam_notify.sockets.upgrade import upgrade_required


class Sockets(NamedTuple):
    """Bound sockets to serve: the public one and, where configured, the internal one."""

    public: socket.socket
    internal: socket.socket | None


class Rooms(NamedTuple):
    """What requests are handed to. `config` gives the settings as they are by now."""

    log: EventLog
    catalog: Catalog
    budget: Budget
    metrics: Metrics
    gate: Gate
    shared: Shared
    service: NotificationService
    authorize: Authorize
    config: Callable[[], Config]


class Answers(NamedTuple):
    """What the worker itself answers. `mint` signs tokens, where anybody may have one."""

    ready: Callable[[], str | None]
    health: Callable[[], Mapping[str, Any]]
    metrics: Callable[[], Awaitable[bytes]]
    explain: Callable[[str, Identity, object], Awaitable[Mapping[str, Any]]]
    mint: Mint | None
    revoke: Revoke
    gathering: Gathering


class Endpoints:
    """The listeners of a worker, once it has sockets."""

    def __init__(self, rooms: Rooms, answers: Answers, tls: Tls | None, *, is_dev: bool) -> None:
        self._rooms, self._answers = rooms, answers
        self._tls = tls
        self._is_dev = is_dev

    def listeners(self, sockets: Sockets) -> list[Listener]:
        """One for each socket, not started yet."""
        shared, tls = self._rooms.shared, self._tls.context if self._tls else None
        ops, ingest, hooks = self._ops(), self._ingest(), self._hooks()
        administration = self._administration(sockets)
        public = [*self._open(ops), *hooks]
        if sockets.internal is None:
            admin = [*ops.admin_routes(internal=False), *administration]
            application = _application([*public, *admin], ingest)
            return [Listener(sockets.public, application, shared, websocket=True, tls=tls)]
        internal = [*hooks, *ops.open_routes(), *ops.admin_routes(internal=True), *administration]
        inside = _application(internal, ingest)
        return [
            Listener(sockets.public, _application(public), shared, websocket=True, tls=tls),
            Listener(sockets.internal, inside, shared, websocket=False, tls=None),
        ]

    def _ops(self) -> OpsEndpoints:
        answers, config = self._answers, self._rooms.config
        return OpsEndpoints(
            ready=answers.ready,
            health=answers.health,
            metrics=answers.metrics,
            explain=answers.explain,
            authorize=self._rooms.authorize,
            open_metrics=lambda: config().metrics.open,
        )

    def _open(self, ops: OpsEndpoints) -> Sequence[Route]:
        shared, service = self._rooms.shared, self._rooms.service
        return [
            Route(UPGRADE_PATH, upgrade_required(shared.admits_origin)),
            *ops.open_routes(),
            *static_routes(),
            *event_routes(shared, lambda: service.position, lambda: service.is_idle),
        ]

    def _ingest(self) -> Sequence[Route]:
        rooms = self._rooms
        return create_ingest_routes(
            rooms.log,
            rooms.catalog,
            rooms.authorize,
            rooms.config,
            rooms.budget,
            metrics=rooms.metrics,
            gate=rooms.gate,
        )

    def _hooks(self) -> Sequence[Route]:
        rooms = self._rooms
        return create_hook_routes(
            rooms.log,
            rooms.catalog,
            rooms.config,
            rooms.budget,
            metrics=rooms.metrics,
            gate=rooms.gate,
        )

    def _administration(self, sockets: Sockets) -> Sequence[Route]:
        answers, has_internal = self._answers, sockets.internal is not None
        administrators = Administrators(self._rooms.authorize, is_open=self._is_dev or has_internal)
        public = self._public_address(sockets.public) if has_internal else None
        return [
            *Console(administrators, answers.mint, public).routes(),
            *Revoking(answers.revoke, administrators).routes(),
            *AdministrationEndpoints(answers.gathering, administrators).routes(),
        ]

    def _public_address(self, public: socket.socket) -> PublicAddress:
        scheme = "http" if self._tls is None else "https"
        return PublicAddress(scheme, public.getsockname()[1])


def _application(routes: Sequence[Route], ingest: Sequence[Route] = ()) -> ASGIApp:
    """The HTTP application; `ingest` routes see to their own errors."""
    every = [*ingest, *routes]
    every.append(openapi_route(every))
    application = Starlette(routes=every, exception_handlers=dict(ERROR_HANDLERS))
    application.router.redirect_slashes = False
    return posts_first(ingest, application)
