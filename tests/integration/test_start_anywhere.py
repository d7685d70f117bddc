"""A whole server where the system grants less than usual."""

import asyncio
import socket
from pathlib import Path

import pytest
from helpers.server import Server, insert
from helpers.wire import wire

SECONDS = 30.0
KILL, REFUSE = 0x80000000, 0x00050001  # SECCOMP_RET_KILL_PROCESS; SECCOMP_RET_ERRNO, EPERM
SETUP, ENTER, REGISTER = 425, 426, 427

FILTER = """
import ctypes, os, struct, sys
action, *numbers = map(int, sys.argv[1].split(","))
# BPF: the number of the system call; some get the action, all others are allowed.
program = [(0x20, 0, 0, 0)]
program += [(0x15, len(numbers) - place, 0, n) for place, n in enumerate(numbers)]
program += [(6, 0, 0, 0x7FFF0000), (6, 0, 0, action)]
held = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in program))
filter = ctypes.create_string_buffer(
    struct.pack("HxxxxxxQ", len(program), ctypes.addressof(held))
)
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, filter) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


def filtered(action: int, *numbers: int) -> list[str]:
    """What to put before a command of Python for a seccomp filter to be in force."""
    return ["-c", FILTER, ",".join(map(str, (action, *numbers)))]


async def it_works(server: Server) -> None:
    """One change goes from a post to a subscriber, and the server ends as it should."""
    async with wire(server.ws_url, server.token()) as client:
        await client.live("s", "SELECT * FROM app.orders")
        server.post(insert("app.orders", {"id": 1}))
        assert (await client.hear_type("change"))["rows"][0]["id"] == 1
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("action", "calls", "workers", "io_uring"),
    [
        (KILL, (SETUP, ENTER, REGISTER), 1, True),
        (KILL, (SETUP, ENTER, REGISTER), 1, False),
        (KILL, (SETUP, ENTER, REGISTER), 2, "auto"),
        (KILL, (ENTER,), 1, "auto"),
        (REFUSE, (SETUP, ENTER, REGISTER), 1, "auto"),
    ],
)
async def test_under_a_filter_against_io_uring(
    tmp_path: Path, action: int, calls: tuple[int, ...], workers: int, io_uring: object
) -> None:
    settings = {"server": {"workers": workers, "io_uring": io_uring}}
    server = Server(tmp_path, settings, python=filtered(action, *calls))
    try:
        await it_works(server.start())
    finally:
        server.close()


FEW = 100
LIMITED = f"""
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, ({FEW}, {FEW}))
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@pytest.mark.parametrize(
    "python",
    [["-c", LIMITED], ["-c", LIMITED, *filtered(KILL, SETUP, ENTER, REGISTER)]],
    ids=["uvloop", "asyncio"],
)
async def test_when_descriptors_run_out_newcomers_are_turned_away_and_one_line_tells(
    tmp_path: Path, python: list[str]
) -> None:
    server = Server(tmp_path, python=python)
    host, port = "127.0.0.1", 0
    try:
        server.start()
        port = int(server.url.rpartition(":")[2])
        async with wire(server.ws_url, server.token()) as client:
            await client.live("s", "SELECT * FROM app.orders")
            crowd = [socket.create_connection((host, port)) for _ in range(3 * FEW)]
            while "descriptors have run out" not in server.errors:
                await asyncio.sleep(0.05)
            for one in crowd:
                one.close()
            async with asyncio.timeout(SECONDS):
                while await asyncio.to_thread(is_full, server):
                    await asyncio.sleep(0.05)
            server.post(insert("app.orders", {"id": 1}))
            assert (await client.hear_type("change"))["rows"][0]["id"] == 1
        errors = [line for line in server.errors.splitlines() if " ERROR " in line]
        assert len(errors) == 1, errors
        assert server.stop() == 0
    finally:
        server.close()


def is_full(server: Server) -> bool:
    try:
        return server.request("GET", "/livez").status != 200
    except OSError:
        return True
