"""One worker process: every room built, started in order, stopped in reverse.

log -> fan-out (NotificationService, Feeder) -> requests -> sockets and HTTP
"""

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple, Protocol

from kalam_notify.administration.finding import waiting_bytes
from kalam_notify.administration.gathering import Gathering
from kalam_notify.administration.listing import OWNER as ADMINISTRATION
from kalam_notify.administration.listing import Lists
from kalam_notify.administration.office import Office
from kalam_notify.administration.questions import Answer, Question
from kalam_notify.administration.standing import Standing
from kalam_notify.auth import Authenticator, TokenVerifier, sign
from kalam_notify.auth.revocation_file import FILE_NAME as REVOCATIONS
from kalam_notify.auth.revocation_file import RevocationFile
from kalam_notify.auth.tokens import Kind, Revocation, Revocations
from kalam_notify.budget import Budget
from kalam_notify.catchup.feeder import Feeder
from kalam_notify.config import Config, reload_differences, reloaded
from kalam_notify.delivery.ring import open_ring
from kalam_notify.delivery.service import SHARED_NOTIFY_CHUNK_SIZE, NotificationService
from kalam_notify.delivery.stats import FanoutStats
from kalam_notify.endpoints import Answers, Endpoints, Rooms, Sockets
from kalam_notify.errors import OperatorFault
from kalam_notify.garbage import collect_in_small_steps
from kalam_notify.http.ingest import Gate
from kalam_notify.log import Retention, open_log
from kalam_notify.logs import hide, set_level
from kalam_notify.metrics import Metrics, Pulse, StateCollector
from kalam_notify.model import SHARED, Identity, Role, TableDef, TableId
from kalam_notify.model.tables import Catalog
from kalam_notify.protocol import close
from kalam_notify.scrape import Scrape, exposition
from kalam_notify.sockets.context import Shared
from kalam_notify.sockets.ending import drain, end_all, end_revoked
from kalam_notify.sockets.listeners import Listener
from kalam_notify.sockets.tls import Tls, tls_of
from kalam_notify.sockets.wheel import Wheel
from kalam_notify.sources.keeper import Sources
from kalam_notify.sources.opening import open_sources
from kalam_notify.subscriptions.manager import ConnectionsManager
from kalam_notify.subscriptions.requests import SubscriptionRequests
from kalam_notify.version import __version__

_log = logging.getLogger("kalam_notify.worker")

_FIRST_COPIES = 3.0
"""Seconds that a start waits for sources that are new: small tables are there when it listens."""

_LEAVE_SECONDS = 1.0

_GRACE = 3.0
"""Seconds that requests in hand and closing handshakes get after the drain."""


class CrewView(NamedTuple):
    """Which worker this is (from 1), how many there should be, how many accept connections."""

    worker: int
    workers: int
    running: int


class Crew(Protocol):
    """All workers of this machine, as one of them sees them."""

    def view(self) -> CrewView: ...

    async def scrape(self) -> Scrape:
        """What all of them count, those that are no more included; raises TimeoutError."""

    async def ask(self, worker: int, question: Question) -> Answer | None:
        """What a worker (from 1) answers; None: there is none. Raises TimeoutError."""


class Worker:
    """Serves until `stop` is called. Without a `crew` it is the only one."""

    def __init__(
        self,
        config: Config,
        reload: Callable[[], Config],
        crew: Crew | None = None,
        *,
        dev: bool = False,
    ) -> None:
        self.config = config
        self._load_config = reload
        self._crew = crew
        self._is_dev = dev
        self._listening: Sequence[Listener] = ()
        self._stopping = asyncio.Event()
        self._tls: Tls | None = None
        self._ready = self._is_built = False
        self._started_at = time.time()
        retention = config.log.retention
        self.log = open_log(
            config.log.url,
            config.server.data_dir,
            config.log.durability,
            Retention(retention.max_age, retention.max_bytes),
            config.log.window_bytes,
            config.log.nats,
        )
        self.catalog = Catalog(
            config.tables.declared.values(),
            auto_create=config.tables.auto_create,
            max_tables=config.limits.max_tables,
            on_create=lambda table: self.log.declare([table]),
        )
        self.sources = Sources(
            open_sources(config.sources, config.server.data_dir),
            self.log,
            config.server.data_dir,
            self.catalog.declared,
            self._take_sourced,
            lambda table, changes: self.metrics.ingested(table, changes),
        )
        self.manager = ConnectionsManager()
        self.stats = FanoutStats()
        self.metrics = Metrics()
        self.gate = Gate()
        self.auth_failures: Counter[str] = Counter()
        # Bytes that wait for sockets, as of the last scrape.
        self._waiting_bytes = 0
        self.revocations = Revocations()
        self._revocation_file = RevocationFile(
            config.server.data_dir / REVOCATIONS, self.revocations
        )
        if crew is not None:
            # Others append to the file, too.
            self.revocations.look = self._revocation_file.look
        self._authenticator = Authenticator(config.auth, self._new_tokens(config))

    def stop(self) -> None:
        """Drain and end; callable from a signal handler of the loop."""
        self._stopping.set()

    async def cover(self, sockets: Mapping[int, Sockets]) -> None:
        """Accept from these sockets of other workers too, and from none that was named before."""
        for place, listener in enumerate(self._listening):
            theirs = ((number, pair[place]) for number, pair in sockets.items())
            await listener.cover({number: one for number, one in theirs if one is not None})

    def refuse_connections(self) -> None:
        """Close the listening sockets; connections go on."""
        for listener in self._listening:
            listener.close()

    async def serve(self, sockets: Sockets, announce: Callable[[], None]) -> None:
        """Run until stopped; `announce` is called once connections are accepted."""
        self._revocation_file.load()
        await self.log.start()
        try:
            await self.sources.load()
            self.log.declare(self.catalog.tables())
            async with asyncio.TaskGroup() as tasks:
                await self._serve(tasks, sockets, announce)
        finally:
            await self.log.close()

    async def _serve(
        self, tasks: asyncio.TaskGroup, sockets: Sockets, announce: Callable[[], None]
    ) -> None:
        self._tasks = tasks
        self._build(tasks)
        running = [
            tasks.create_task(self.service.run(), name="fan-out"),
            tasks.create_task(self.feeder.run(), name="feeder"),
            tasks.create_task(self.budget.run(), name="budget"),
            tasks.create_task(self.shared.wheel.run(), name="wheel"),
            tasks.create_task(collect_in_small_steps(), name="garbage"),
            tasks.create_task(self._revocation_file.watch(self._found_revoked), name="revocations"),
            tasks.create_task(self.pulse.run(), name="pulse"),
            tasks.create_task(self._send_away(), name="send away"),
            *self.sources.start(tasks),
        ]
        self._keep_keys_fresh()
        await self.sources.ready(_FIRST_COPIES)
        listeners = self._listeners(sockets)
        for listener in listeners:
            await listener.start()
        self._listening = listeners
        self._ready = True
        announce()
        await self._stopping.wait()
        await drain(self.shared, self.config.server.drain_seconds)
        self.gate.close()
        self._listening = ()
        for listener in listeners:
            await listener.stop(_GRACE)
        self._authenticator.tokens.close()
        for task in [*running, self._key_keeper]:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if self._ring is not None:
            self._ring.close()

    async def _send_away(self) -> None:
        """Close the connections while this server is cut off from its log, for others go on."""
        while True:
            await asyncio.sleep(_LEAVE_SECONDS)
            reason = self.log.why_leave()
            if reason is not None and self.manager.connections:
                _log.warning("%s: its clients are sent to another server", reason)
                await end_all(self.shared, close.CUT_OFF)

    def _build(self, tasks: asyncio.TaskGroup) -> None:
        config, clock = self.config, asyncio.get_running_loop().time
        self._ring = open_ring(config.server.io_uring, SHARED_NOTIFY_CHUNK_SIZE)
        self.service = NotificationService(
            self.log, self.manager, self.stats, clock=clock, ring=self._ring
        )
        self.budget = Budget(clock, gives_way_to=(self.log.waiting, self.service.under_way))
        self.feeder = Feeder(
            self.log,
            self.manager,
            self.stats,
            self.budget,
            position=partial(attrgetter("position"), self.service),
            is_quiet=self.service.is_quiet,
            waiters=self.service.waiters,
            batch_grace=lambda: self.config.websocket.batch_grace,
        )
        self.service.on_fallen = self.feeder.wake_all
        self.service.on_broken = self.feeder.disable
        self.requests = SubscriptionRequests(
            self.catalog, self.manager, self.feeder, self.log.newest_columns
        )
        self.requests.configure(config.websocket, config.limits.subscriptions_per_user)
        self.shared = Shared(
            config,
            self._authenticator.tokens,
            self.manager,
            self.requests,
            self.feeder,
            self.budget,
            clock=clock,
            wheel=Wheel(clock, _tick(config)),
            spawn=tasks.create_task,
            later=asyncio.get_running_loop().call_later,
        )
        self._measure(clock)
        self._office = self._open_office()
        self._is_built = True

    def _measure(self, clock: Callable[[], float]) -> None:
        metrics = self.metrics
        self.log.on_append, self.stats.observe_fanout = metrics.appended, metrics.fanned_out
        metrics.expect(self.log.steps)
        self.log.on_step = metrics.stepped
        self.pulse = Pulse(
            metrics.loop_lag_seconds,
            self.log,
            self.manager,
            lambda: self.service.position,
            clock=clock,
        )
        metrics.registry.register(
            StateCollector(
                metrics,
                self.log,
                self.manager,
                self.stats,
                self.shared.closes,
                self.auth_failures,
                lambda: self._waiting_bytes,
                lambda: self.pulse.slowest_seconds,
                self.sources.statuses,
            )
        )

    # HTTP

    def _listeners(self, sockets: Sockets) -> list[Listener]:
        self._tls = tls_of(self.config.server.tls)
        rooms = Rooms(
            self.log,
            self.catalog,
            self.budget,
            self.metrics,
            self.gate,
            self.shared,
            self.service,
            self._authenticator.authorize,
            partial(attrgetter("config"), self),
        )
        answers = Answers(
            ready=self._why_not_ready,
            health=self._health,
            metrics=self._exposition,
            explain=self._explain,
            mint=self._mint if self._is_dev else None,
            revoke=self.revoke,
            gathering=Gathering(self._ask, lambda: self._view().workers),
        )
        return Endpoints(rooms, answers, self._tls, is_dev=self._is_dev).listeners(sockets)

    def _new_tokens(self, config: Config, before: TokenVerifier | None = None) -> TokenVerifier:
        """Reads the files that the settings name; raises ConfigurationFault."""
        hide(*config.auth.jwt.secrets, *config.ingest.secrets, *config.log.secrets)
        return TokenVerifier(
            config.auth.jwt,
            before=before,
            revocations=self.revocations,
            failures=self.auth_failures,
        )

    # Administration

    def _open_office(self) -> Office:
        life = secrets.token_hex(3)
        standing = Standing(self.log, lambda: self.service.position, self.pulse.seconds_behind)
        lists = Lists(
            self.manager,
            self.catalog,
            standing,
            self.budget,
            worker=self._view().worker,
            life=life,
            newest_columns=self.log.newest_columns,
            ingested=self.metrics.changes_ingested.__getitem__,
        )
        return Office(
            life,
            lists,
            self.manager,
            self.catalog,
            self.log,
            self.budget,
            position=lambda: self.service.position,
            limits=self.requests.limits,
        )

    def _mint(self, user: str, role: Role, seconds: float, claims: Mapping[str, Any]) -> str:
        return sign(self.config.auth.jwt, user, role=role, ttl=seconds, claims=claims)

    async def _ask(self, worker: int, question: Question) -> Answer | None:
        if self._crew is None:
            return await self.answer(question)
        return await self._crew.ask(worker, question)

    async def answer(self, question: Question) -> Answer:
        """What this worker answers; raises LogUnavailable."""
        return await self._office.answer(question)

    def _view(self) -> CrewView:
        return CrewView(1, 1, int(self._ready)) if self._crew is None else self._crew.view()

    def _keep_keys_fresh(self) -> None:
        tokens = self._authenticator.tokens
        self._key_keeper = self._tasks.create_task(tokens.keep_fresh(), name="signing keys")

    async def revoke(self, kind: Kind, name: str, until: float | None) -> tuple[float, float]:
        """Let no token of this user, or not this token, hold any longer; from when, until when.

        It holds here at once, and everywhere and for good once it is answered. Raises OSError.
        """
        now = time.time()
        expiry = until or self.revocations.last_expiry(now)
        one = Revocation(kind, name, now, expiry)
        self.revocations.add([one])
        await asyncio.to_thread(self._revocation_file.append, one)
        await end_revoked(self.shared, self.revocations)
        _log.info("revoked: %s %r until %d", kind, name, expiry)
        return now, expiry

    def _found_revoked(self) -> None:
        """Another worker has revoked something."""
        self._tasks.create_task(end_revoked(self.shared, self.revocations), name="end revoked")

    def _why_not_ready(self) -> str | None:
        if self.shared.is_draining:
            return "draining"
        if not self._ready:
            return "starting"
        if self._authenticator.tokens.lacks_keys:
            return "no keys for tokens yet"
        return self.log.why_not_ready() or self.service.fault or self.feeder.faults.reason

    async def _exposition(self) -> bytes:
        if self._crew is not None:
            return exposition(await self._crew.scrape())
        await self.count_waiting()
        return self.metrics.render()

    async def count_waiting(self) -> None:
        """Before a scrape: a look at every connection, which is more than a turn may take."""
        steps = waiting_bytes(self.manager)
        self._waiting_bytes = await self.budget.do(steps, ADMINISTRATION)

    def _health(self) -> Mapping[str, Any]:
        why_not = self._why_not_ready()
        crew = self._view()
        return {
            "status": "ok" if why_not is None else why_not,
            "version": __version__,
            "api_version": "v1",
            "worker": crew.worker,
            "workers": crew.workers,
            "workers_running": crew.running,
            "uptime_seconds": round(time.time() - self._started_at, 3),
            "last_seq": self.log.last_seq,
            "position": self.service.position,
            **self.manager.statistics(),
            "lagging_subscriptions": self.manager.lagging_count,
            "ingest": self.gate.statistics(),
            "log": self.log.statistics(),
        }

    async def _explain(self, sql: str, identity: Identity, params: object) -> Mapping[str, Any]:
        steps = self.requests.explain(sql, identity, params)
        query, explanation = await self.budget.do(steps, identity.user_id)
        owner = SHARED if query.table.is_shared else identity.user_id
        path = await self.log.access_path(query.table, owner, query.filter.hints)
        return {**explanation, "snapshot": path}

    # Reload and drain

    def reload(self) -> bool:
        """Take what can be taken of the configuration as it is now; keep the old one if bad."""
        taken = self._reload()
        self.metrics.last_reload_successful = taken and self._renew_certificate()
        return taken

    def _reload(self) -> bool:
        try:
            new = self._load_config()
            differences = reload_differences(self.config, new)
            self._apply(reloaded(self.config, new))
        except OperatorFault as fault:
            _log.error("the configuration was not reloaded: %s", fault)
            return False
        _log.info("configuration reloaded; changed: %s", ", ".join(differences.applied) or "none")
        if differences.needs_restart:
            _log.warning("waits for a restart: %s", ", ".join(differences.needs_restart))
        return True

    def _renew_certificate(self) -> bool:
        if self._tls is None:
            return True
        try:
            self._tls.renew()
        except OperatorFault as fault:
            _log.error("the certificate was not renewed: %s", fault)
            return False
        return True

    def _take_sourced(self, tables: Sequence[TableDef]) -> None:
        """These are the tables of all sources from now on; raises StorageFault."""
        before = {table.id: table for table in self.catalog.tables()}
        self.log.declare(tables)
        self.catalog.set_sourced(tables)
        self._renew_subscriptions(before)

    def _renew_subscriptions(self, before: Mapping[TableId, TableDef]) -> None:
        """Those of tables that are not what they were begin afresh."""
        after = {table.id: table for table in self.catalog.tables()}
        # Also of those that are new: where tables are created on their first use, somebody may
        # have subscribed before.
        names = before.keys() | after.keys()
        changed = {name for name in names if before.get(name) != after.get(name)}
        if changed and self._is_built:
            self.budget.enter(self.requests.tables_changed(changed), "reload")

    def _apply(self, config: Config) -> None:
        before = {table.id: table for table in self.catalog.tables()}
        # Also where no setting has changed: the files and addresses that they name may have.
        tokens = self._new_tokens(config, self._authenticator.tokens)
        self.log.declare(
            one for one in config.tables.declared.values() if not self.catalog.is_sourced(one.id)
        )
        self.config = config
        self._authenticator.configure(config.auth, tokens)
        self.shared.verifier = tokens
        self._key_keeper.cancel()
        self._keep_keys_fresh()
        self.catalog.replace(
            config.tables.declared.values(),
            auto_create=config.tables.auto_create,
            max_tables=config.limits.max_tables,
        )
        self.log.retain(Retention(config.log.retention.max_age, config.log.retention.max_bytes))
        self.log.adjust(config.log.nats)
        self.requests.configure(config.websocket, config.limits.subscriptions_per_user)
        self.shared.configure(config)
        set_level(config.logging.level)
        self.sources.settings_changed()
        self._renew_subscriptions(before)


def _tick(config: Config) -> float:
    """The wheel's tick: fine enough for the shortest of the timeouts, a tenth of it."""
    settings = config.websocket
    shortest = min(
        settings.auth_timeout,
        settings.handshake_timeout,
        settings.ping_interval,
        settings.idle_timeout,
        settings.slow_reader_timeout,
    )
    return min(max(shortest / 10, 0.01), 0.25)
