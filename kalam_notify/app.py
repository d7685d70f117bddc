"""The daemon: from a configuration to a served address, and from a signal to a clean end."""

import asyncio
import logging
import os
import resource
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import uvloop

from kalam_notify.config import (
    Config,
    Override,
    dev_config,
    load_config,
    parse_address,
    require_authentication,
)
from kalam_notify.errors import ConfigurationFault, Fault
from kalam_notify.logs import configure_logging
from kalam_notify.sockets.listeners import bind, url_of
from kalam_notify.worker import Sockets, Worker

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
    _make_data_dir(config)
    _raise_file_limit(config.websocket.max_connections)
    sockets = _bind(config)
    worker = Worker(config, _reloader(config, dev, config_file, overrides))
    uvloop.run(_serve(worker, sockets))
    return 0


async def _serve(worker: Worker, sockets: Sockets) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stop)
    loop.add_signal_handler(signal.SIGHUP, worker.reload)
    await worker.serve(sockets, lambda: _announce(worker.config, sockets))


def _announce(config: Config, sockets: Sockets) -> None:
    tls = config.server.tls.cert is not None
    print(f"listening on {url_of(sockets.public, tls)}", flush=True)
    if sockets.internal is not None:
        _log.info("internal address: %s", url_of(sockets.internal, tls=False))


def _bind(config: Config) -> Sockets:
    server = config.server
    public = parse_address(server.listen)
    assert public is not None
    internal = None
    if server.internal_listen is not None:
        address = parse_address(server.internal_listen)
        assert address is not None
        internal = bind(address, key="server.internal_listen")
    return Sockets(bind(public), internal)


def _reloader(
    config: Config, dev: bool, config_file: Path | None, overrides: Sequence[Override]
) -> Callable[[], Config]:
    def reload() -> Config:
        fresh = load_config(config_file, os.environ, overrides)
        if dev:
            fresh = dev_config(
                fresh, data_dir=config.server.data_dir, secret=config.auth.jwt.secret
            )
        else:
            require_authentication(fresh, str(config_file or "reload"))
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
