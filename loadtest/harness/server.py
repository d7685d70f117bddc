"""The server under test: the tool's own, started for one case, or one that already runs."""

import asyncio
import contextlib
import resource
import secrets
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import jwt
import yaml

from loadtest.harness.cpu import Cores, CpuMeter, resident_bytes
from loadtest.harness.faults import LoadTestFault
from loadtest.harness.http import HttpConnection
from loadtest.harness.options import Options

TABLE = "load.rows"
FLOOD = "load.flood"
KEYED = "load.keyed"
SMALL, BIG = "load.small", "load.big"
"""Tables with a key, of few rows and of many."""
POLICED = "load.policed"
MOST_TABLES = 20
ACTIVE = [TABLE, *(f"load.rows{n}" for n in range(1, MOST_TABLES))]
"""Tables that rows are shared out to, where every connection subscribes to several."""
SILENT = [f"load.silent{n}" for n in range(MOST_TABLES)]
"""Tables that nobody writes."""

KALAM_NOTIFY = (sys.executable, "-m", "kalam_notify")

RAISED = (
    "own server: websocket.messages_per_second, message_burst and max_subscriptions_per_connection "
    "are raised, max_connections follows the limit of open files; all else is at its default"
)


def configuration(
    data_dir: Path,
    secret: str,
    tables: Mapping[str, Any],
    sources: Mapping[str, Any] | None = None,
    log: Mapping[str, Any] | None = None,
    **websocket: Any,
) -> dict[str, Any]:
    """The configuration of a server of the tool's own: the defaults, rates and tables apart."""
    rates = {"messages_per_second": 1_000_000, "message_burst": 1_000_000}
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = {"max_connections": min(25_000, files - 500)} if files > 1000 else {}
    shared = {"type": "shared", "access": "public"}
    return {
        "server": {"listen": "127.0.0.1:0", "data_dir": str(data_dir)},
        "websocket": {"max_subscriptions_per_connection": 1000, **rates, **most, **websocket},
        "auth": {"jwt": {"secret": secret}},
        "tables": {
            "declared": {
                **dict.fromkeys((*ACTIVE, *SILENT, FLOOD), shared),
                **{table: {**shared, "primary_key": "id"} for table in (KEYED, SMALL, BIG)},
                POLICED: {**shared, "policy": "tenant = CLAIM('tenant')"},
                **tables,
            }
        },
        "sources": dict(sources or {}),
        "log": dict(log or {}),
        # All clients come from one address.
        "limits": {"connections_per_address": 0},
        "logging": {"level": "warning"},
        "metrics": {"open": True},
    }


class Server:
    """A running server: where it is, what it costs, and what it counts."""

    def __init__(self, base: str, pid: int | None, token: str, secret: str | None) -> None:
        self.base = base
        self.pid = pid
        self.producer_token = token
        self._secret = secret
        self._process: Process | None = None

    @classmethod
    def running(cls, options: Options) -> Self:
        """The server that the user pointed at."""
        assert options.url is not None
        base = options.url.replace("ws://", "http://").rstrip("/")
        if not base.startswith("http://"):
            raise LoadTestFault("--url must be http://HOST:PORT (TLS is not measured)")
        return cls(base, options.pid, options.token or "", None)

    @classmethod
    async def start(
        cls,
        directory: Path,
        cores: frozenset[int],
        workers: int = 1,
        *,
        command: Sequence[str] = KALAM_NOTIFY,
        environment: Mapping[str, str] | None = None,
        tables: Mapping[str, Any] | None = None,
        sources: Mapping[str, Any] | None = None,
        log: Mapping[str, Any] | None = None,
        **websocket: Any,
    ) -> Self:
        """Start one on a free port with its data below `directory`."""
        secret = secrets.token_hex(32)
        config = directory / "config.yaml"
        config.write_text(
            yaml.safe_dump(
                configuration(directory / "data", secret, tables or {}, sources, log, **websocket)
            )
        )
        arguments = ("serve", "--config", str(config), "--workers", str(workers))
        with Cores.inherit(cores):
            process = await asyncio.create_subprocess_exec(
                *command, *arguments, stdin=PIPE, stdout=PIPE, limit=1 << 24, env=environment
            )
        base = await _listening(process)
        server = cls(base, process.pid, "", secret)
        server.producer_token = server.token_for("producer", "service")
        server._process = process
        return server

    def token_for(self, user: str, role: str = "user", **claims: str) -> str:
        """A token for a subscriber; of a server not our own the one that was given."""
        if self._secret is None:
            return self.producer_token
        payload = {"sub": user, "role": role, "exp": int(time.time()) + 86400, **claims}
        return jwt.encode(payload, self._secret, "HS256")

    @property
    def own_process(self) -> Process:
        """Of a server that `start` made."""
        assert self._process is not None
        return self._process

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.base.removeprefix("http://").partition(":")
        return ("127.0.0.1" if host == "localhost" else host), int(port or 80)

    def meter(self) -> CpuMeter:
        """CPU time of all its processes; needs its pid."""
        return CpuMeter(self._known_pid())

    def resident_bytes(self) -> int:
        return resident_bytes(self._known_pid())

    def _known_pid(self) -> int:
        if self.pid is None:
            raise LoadTestFault("this question measures the server's CPU or memory: give --pid")
        return self.pid

    async def metric(self, name: str) -> float:
        """The sum over all labels of one of the server's metrics; 0 when it tells none."""
        connection = HttpConnection(self.base)
        status, text = await connection.request("GET", "/metrics", self.producer_token)
        connection.close()
        if status != 200:
            raise LoadTestFault(f"/metrics answered {status}")
        full = f"kalam_notify_{name}"
        lines = (line for line in text.decode().splitlines() if line.startswith(full))
        return sum(float(line.split()[-1]) for line in lines if line[len(full)] in " {")

    async def close(self) -> int:
        """End the tool's own server and return its exit code; one that was there before stays."""
        if self._process is None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), 20)
        except TimeoutError:
            self._process.kill()
        return await self._process.wait()


async def _listening(process: Process) -> str:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(120):  # a guard: a busy machine takes its time
            async for line in process.stdout:
                if line.startswith(b"listening on "):
                    return line.split()[-1].decode()
    except TimeoutError:
        process.kill()
    raise LoadTestFault(f"the server did not start (exit code {await process.wait()})")


@contextlib.contextmanager
def scratch_directory(options: Options) -> Iterator[Path]:
    """A directory for one server's data, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="kalam-load-", dir=options.scratch) as path:
        yield Path(path)
