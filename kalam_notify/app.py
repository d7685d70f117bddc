"""The daemon: from a configuration to a served address, and from a signal to a clean end."""

import asyncio
import logging
import os
import resource
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from kalam_notify.config import (
    Address,
    Config,
    Override,
    dev_config,
    load_config,
    parse_address,
)
from kalam_notify.endpoints import Sockets
from kalam_notify.errors import ConfigurationFault, Fault
from kalam_notify.logs import configure_logging, hide
from kalam_notify.loops import run as run_loop
from kalam_notify.sockets.listeners import bind, bind_all, url_of
from kalam_notify.sources.opening import examine
from kalam_notify.supervision.messages import Listening
from kalam_notify.supervision.supervisor import Supervisor
from kalam_notify.worker import Worker

_log = logging.getLogger("kalam_notify.app")


def run(
    config: Config,
    *,
    dev: bool = False,
    config_file: Path | None = None,
    overrides: Sequence[Override] = (),
) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. Raises OperatorFault when nothing can start.

    `config_file` and `overrides` are what a SIGHUP reads the configuration from again.
    """
    configure_logging(config.logging)
    hide(*config.auth.jwt.secrets, *config.ingest.secrets, *config.log.secrets)
    for source in config.sources.values():
        hide(source.password or "")
    examine(config)
    _make_data_dir(config)
    _raise_file_limit(config.websocket.max_connections)
    reload = _reloader(config, dev, config_file, overrides)
    if config.server.workers == 1:
        run_loop(_serve(Worker(config, reload, dev=dev), _bind(config)))
        return 0
    return asyncio.run(_supervise(config, reload, dev))


async def _serve(worker: Worker, sockets: Sockets) -> None:
    _on_signals(worker.stop, worker.reload)
    await worker.serve(sockets, lambda: _announce(worker.config, sockets))


async def _supervise(config: Config, reload: Callable[[], Config], dev: bool) -> int:
    # Held here for as long as there is a supervisor: whatever becomes of the workers, the address
    # stays taken and its backlogs stay open.
    crew = _bind_for_each(config)
    listening = [
        Listening(public.fileno(), internal.fileno() if internal else None)
        for public, internal in crew
    ]
    supervisor = Supervisor(config, reload, listening, lambda: _announce(config, crew[0]), dev=dev)
    _on_signals(supervisor.stop, supervisor.reload)
    return await supervisor.run()


def _on_signals(stop: Callable[[], object], reload: Callable[[], object]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, reload)


def _announce(config: Config, sockets: Sockets) -> None:
    tls = config.server.tls.cert is not None
    print(f"listening on {url_of(sockets.public, tls)}", flush=True)
    if sockets.internal is not None:
        _log.info("internal address: %s", url_of(sockets.internal, tls=False))


def _bind(config: Config) -> Sockets:
    public, internal = _addresses(config)
    if internal is None:
        return Sockets(bind(public), None)
    return Sockets(bind(public), bind(internal, key="server.internal_listen"))


def _bind_for_each(config: Config) -> list[Sockets]:
    """Sockets on the same addresses for every worker."""
    public, internal = _addresses(config)
    count = config.server.workers
    publics = bind_all(public, count)
    if internal is None:
        return [Sockets(listener, None) for listener in publics]
    internals = bind_all(internal, count, key="server.internal_listen")
    return list(map(Sockets, publics, internals))


def _addresses(config: Config) -> tuple[Address, Address | None]:
    public = parse_address(config.server.listen)
    assert public is not None
    internal = config.server.internal_listen
    return public, None if internal is None else parse_address(internal)


def _reloader(
    config: Config, dev: bool, config_file: Path | None, overrides: Sequence[Override]
) -> Callable[[], Config]:
    def reload() -> Config:
        fresh = load_config(config_file, os.environ, overrides, serving=not dev, renewing=True)
        if dev:
            fresh = dev_config(
                fresh, data_dir=config.server.data_dir, secret=config.auth.jwt.secret
            )
        return fresh

    return reload


def _make_data_dir(config: Config) -> None:
    directory = config.server.data_dir
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        cure = f"name a directory that can be written to ({error.strerror})"
        fault = Fault("data directory", "server.data_dir", str(directory), cure)
        raise ConfigurationFault([fault]) from error


def _raise_file_limit(max_connections: int) -> None:
    """As many open files as the system allows; a warning where that is too few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < max_connections:
        _log.warning(
            "the limit of open files is %d, below websocket.max_connections (%d); raise it with "
            "ulimit -Hn or LimitNOFILE",
            hard,
            max_connections,
        )
