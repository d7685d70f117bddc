"""A whole server where the system grants less than usual."""

import asyncio
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
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


READ_ONLY = """
import os, sys
data, *command = sys.argv[1:]
script = (
    'mount --make-rprivate / && for at in /tmp /var/tmp /dev/shm; do'
    ' mount --bind $at $at && mount -o remount,ro,bind $at || exit 97; done;'
    ' if [ -n "$0" ]; then mount --bind "$0" "$0" && mount -o remount,rw,bind "$0" || exit 97; fi;'
    ' mount -o remount,ro,bind / || mount --bind / / && mount -o remount,ro,bind / || exit 97;'
    ' exec "$@"'
)
os.execvp("unshare", ["unshare", "-m", "sh", "-c", script, data, sys.executable, *command])
"""


@pytest.fixture
def may_mount() -> None:
    asked = subprocess.run(
        [sys.executable, "-c", READ_ONLY, "", "-c", "pass"], capture_output=True, text=True
    )
    if asked.returncode:
        pytest.skip(f"no mounts of its own here: {asked.stderr.strip()[:200] or asked.returncode}")


@pytest.mark.usefixtures("may_mount")
@pytest.mark.parametrize("workers", [1, 2])
async def test_on_a_read_only_root_with_a_data_directory_that_is_not(
    tmp_path: Path, workers: int
) -> None:
    (tmp_path / "data").mkdir()
    python = ["-c", READ_ONLY, str(tmp_path / "data")]
    server = Server(tmp_path, {"server": {"workers": workers}}, python=python)
    try:
        await it_works(server.start())
        assert " ERROR " not in server.errors
    finally:
        server.close()


@pytest.mark.usefixtures("may_mount")
@pytest.mark.parametrize(
    "verb", [["--dev"], ["--dev", "--data-dir", "DATA"], ["--config", "config.yaml"]]
)
def test_where_nothing_can_be_written_the_refusal_has_path_and_cure(
    tmp_path: Path, verb: list[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    settings = {
        "server": {"listen": "127.0.0.1:0", "data_dir": str(data)},
        "auth": {"anonymous": True},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    flags = [str(data) if word == "DATA" else word for word in verb]
    done = subprocess.run(
        [sys.executable, "-c", READ_ONLY, "", "-m", "kalam_notify", "serve", *flags],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode in (1, 2)
    told = done.stderr.strip().splitlines()
    assert "Traceback" not in done.stderr
    if "DATA" in verb or "--config" in verb:
        assert str(data) in told[-1]
        assert "is read-only" in told[-1]
    assert re.search("--data-dir|another data_dir", told[-1])
