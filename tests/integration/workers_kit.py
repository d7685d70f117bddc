"""Speaking to one chosen worker of a server that has several.

The kernel chooses who gets a connection, but a connection keeps its worker: one is asked who it
reached (`/health`), and used further when that is the one wanted.
"""

import asyncio
import http.client
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from helpers.processes import SECONDS, until
from helpers.server import Answer, Server
from helpers.wire import Wire, wire


class Door:
    """A kept HTTP connection, and the worker (from 1) behind it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        host, _, port = server.url.removeprefix("http://").rpartition(":")
        self._http = http.client.HTTPConnection(host, int(port), timeout=SECONDS)
        self._token = f"Bearer {server.token('feeder', 'service')}"
        self.worker: int = self.get("/health").json["worker"]

    def close(self) -> None:
        self._http.close()

    def detach(self) -> socket.socket:
        """The connection's socket, to go on with in another protocol."""
        taken = self._http.sock.dup()
        self._http.close()
        return taken

    def get(self, path: str) -> Answer:
        self._http.request("GET", path, headers={"Authorization": self._token})
        return self._answer()

    def post(self, *changes: Mapping[str, Any], key: str | None = None) -> Any:
        """The accepted answer of this worker."""
        headers = {"Authorization": self._token, "Content-Type": "application/json"}
        if key is not None:
            headers["Idempotency-Key"] = key
        self._http.request("POST", "/v1/changes", json.dumps(changes), headers)
        answer = self._answer()
        assert answer.status == 200, answer.body
        return answer.json

    def _answer(self) -> Answer:
        response = self._http.getresponse()
        return Answer(response.status, dict(response.headers), response.read())


def door(server: Server, worker: int) -> Door:
    """A connection to this worker."""
    give_up = time.monotonic() + SECONDS
    while time.monotonic() < give_up:
        found = Door(server)
        if found.worker == worker:
            return found
        found.close()
    raise AssertionError(f"no connection ever reached worker {worker}")


@contextmanager
def doors(server: Server, count: int = 3) -> Iterator[list[Door]]:
    """A connection to each worker, the first to worker 1."""
    opened = [door(server, number + 1) for number in range(count)]
    yield opened
    for each in opened:
        each.close()


@asynccontextmanager
async def wire_to(server: Server, worker: int, token: str, **options: Any) -> AsyncIterator[Wire]:
    """A WebSocket at this worker."""
    taken = (await asyncio.to_thread(door, server, worker)).detach()
    async with wire(server.ws_url, token, sock=taken, **options) as client:
        yield client


def worker_pids(server: Server) -> dict[int, int]:
    """Worker number -> process id, of the workers there are now."""
    assert server.process is not None
    parent = server.process.pid
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    found = {}
    for pid in map(int, children):
        command = command_line(pid)
        if "kalam_notify.supervision.child" in command:
            found[int(command[-2])] = pid
    return found


def command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    except OSError:
        return []


def replaced(server: Server, worker: int, pid: int) -> int:
    """Wait until another process has the place of `pid`; its id."""
    until(lambda: worker_pids(server).get(worker, pid) != pid, f"worker {worker} is replaced")
    return worker_pids(server)[worker]


def all_run(server: Server, count: int = 3) -> None:
    """Wait until every worker accepts connections, as a worker sees it."""
    until(
        lambda: server.request("GET", "/health").json["workers_running"] == count,
        f"{count} workers run",
    )


def kill_worker(server: Server, worker: int) -> int:
    """SIGKILL; the process id that was."""
    pid = worker_pids(server)[worker]
    os.kill(pid, signal.SIGKILL)
    return pid
