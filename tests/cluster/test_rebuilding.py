"""An operator decides which rows stand: on real servers, files and streams that came apart."""

import asyncio
import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cluster.nats_kit import NatsServer
from cluster.nodes import all_equal, contents, level, new_node, started, stopped_for
from log.log_kit import ORDERS, TABLES, gone, put

from kalam_notify.errors import StorageFault
from kalam_notify.log import reaches
from kalam_notify.log.nats.link import Link, NatsPlace
from kalam_notify.log.nats.nats_log import NatsLog
from kalam_notify.log.nats.rebuilding import Way, alone, carry_out, look

Start = Callable[..., Awaitable[NatsLog]]


@pytest.fixture
async def nodes(nats_server: NatsServer, stream: str, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts nodes by name; `waits` until they have caught up."""
    running: list[NatsLog] = []

    async def start(name: str, *, waits: bool = True, **options: Any) -> NatsLog:
        node = new_node(nats_server.url, stream, tmp_path / name, **{"begin": None, **options})
        node.declare(TABLES)
        await node.start()
        running.append(node)
        if waits:
            await level(node)
        return node

    yield start
    for one in running:
        await one.close()


async def rebuild(server: NatsServer, stream: str, path: Path, way: Way) -> str:
    """The decision, as the command carries it out; what was told before it."""
    link = Link(NatsPlace((server.url,), stream))
    with alone(path.parent):
        await link.start()
        try:
            found = await look(link, path)
            carry_out(found, way)
            return found.described(way)
        finally:
            await link.close()


def rows(node: NatsLog) -> list[Any]:
    return [(key, row) for _, _, key, _, row in contents(node)["rows"]]


async def test_a_stream_was_removed_and_the_rows_of_one_node_stand(
    nodes: Start, nats_server: NatsServer, stream: str
) -> None:
    a, b = await nodes("a"), await nodes("b")
    for n in range(20):
        await a.append([put(n), put(n + 100, id=f"id {n}")], f"key {n}")
    await all_equal(a, b)
    before, last_seq = rows(a), a.last_seq
    nats_server.delete_stream(stream)
    await stopped_for(a, "has applied it up to message")
    await stopped_for(b, "has applied it up to message")
    await a.close()
    told = await rebuild(nats_server, stream, a._path, Way.KEEP_ROWS)
    assert "40 rows" in told
    assert "the stream holds 0 messages" in told
    a = await nodes("a")
    await level(b)
    await all_equal(a, b)
    assert rows(b) == before
    # Every client begins anew; no seq is given twice; what was accepted is known still.
    assert not reaches(b, last_seq, b.last_seq, ORDERS.id)
    answer = await b.append([put(1, n=1)])
    assert (answer.first_seq or 0) > last_seq
    assert (await b.append([put(0)], "key 0")).duplicates == 1
    assert (await a.append([put(0, id="id 3")])).duplicates == 1
    await all_equal(a, b)


async def test_others_had_begun_with_a_stream_made_anew_and_have_to_give_way(
    nodes: Start, nats_server: NatsServer, stream: str
) -> None:
    a = await nodes("a")
    await a.append([put(n) for n in range(20)])
    await a.close()
    nats_server.delete_stream(stream)
    other = await nodes("other")
    await other.append([put(500, n=5), gone(3)])
    await rebuild(nats_server, stream, a._path, Way.KEEP_ROWS)
    a = await nodes("a")
    # What was posted to the new stream is applied to the rows that stand.
    assert {key for key, _ in rows(a)} == {f"[{n}]" for n in (*range(20), 500)} - {"[3]"}
    await a.latest()
    async with until_copied(other):
        await level(other)
    await all_equal(a, other)
    await other.append([put(7, n=7)])
    await all_equal(a, other)


@contextlib.asynccontextmanager
async def until_copied(node: NatsLog) -> AsyncIterator[None]:
    async with asyncio.timeout(30):
        while not node.statistics()["snapshot_bytes_received"]:
            await asyncio.sleep(0.01)
        yield


async def test_a_stream_whose_beginning_is_gone_is_begun_with(
    nodes: Start, nats_server: NatsServer, stream: str
) -> None:
    a = await nodes("a")
    for n in range(30):
        await a.append([put(n)])
    last_seq = a.last_seq
    await a.close()
    config = nats_server.api(f"STREAM.INFO.{stream}")["config"]
    nats_server.api(f"STREAM.UPDATE.{stream}", {**config, "max_msgs": 10})
    # All disks are lost, and no node is left to copy.
    shutil.rmtree(a._path.parent)
    b = await nodes("b", waits=False)
    await stopped_for(b, "has nothing of what came before")
    await b.close()
    told = await rebuild(nats_server, stream, b._path, Way.FROM_STREAM)
    assert "the stream holds 10 messages, from 22 to 31" in told
    b = await nodes("b")
    assert {key for key, _ in rows(b)} == {f"[{n}]" for n in range(20, 30)}
    assert not reaches(b, last_seq, b.last_seq, ORDERS.id)
    assert ((await b.append([put(1)])).first_seq or 0) > last_seq
    # Whoever joins copies it.
    c = await nodes("c")
    await all_equal(b, c)


async def test_a_stream_that_is_trimmed_between_the_decision_and_the_start(
    nodes: Start, nats_server: NatsServer, stream: str
) -> None:
    a = await nodes("a")
    for n in range(30):
        await a.append([put(n)])
    await a.close()
    config = nats_server.api(f"STREAM.INFO.{stream}")["config"]
    nats_server.api(f"STREAM.UPDATE.{stream}", {**config, "max_msgs": 10})
    await rebuild(nats_server, stream, a._path, Way.FROM_STREAM)
    nats_server.api(f"STREAM.UPDATE.{stream}", {**config, "max_msgs": 5})
    a = await nodes("a")
    assert {key for key, _ in rows(a)} == {f"[{n}]" for n in range(25, 30)}


async def test_the_file_that_is_given_up_is_kept_aside(
    nodes: Start, nats_server: NatsServer, stream: str
) -> None:
    a = await nodes("a")
    await a.append([put(1)])
    await a.close()
    for _ in range(2):
        await rebuild(nats_server, stream, a._path, Way.FROM_STREAM)
    found = sorted(a._path.parent.glob("node.db.before-*"))
    kept = [file for file in found if not file.name.endswith(("-wal", "-shm"))]
    assert len(kept) == 2
    with contextlib.closing(sqlite3.connect(kept[0])) as connection:
        assert connection.execute("SELECT count(*) FROM rows").fetchone() == (1,)
    a = await nodes("a")
    assert [key for key, _ in rows(a)] == ["[1]"]


async def test_two_nodes_differ_and_one_of_them_stands(
    nodes: Start, nats_server: NatsServer, stream: str
) -> None:
    a, b = await nodes("a"), await nodes("b")
    await a.append([put(n) for n in range(10)])
    await all_equal(a, b)
    for node in (a, b):
        await node.close()
    with contextlib.closing(sqlite3.connect(b._path)) as connection, connection:
        connection.execute("UPDATE log SET row = '{\"id\":9,\"bad\":1}' WHERE row LIKE '%:9%'")
        connection.execute("UPDATE stream SET digest = digest + 1")
        connection.execute("UPDATE messages SET digest = digest + 1")
    b = await nodes("b")
    await rebuild(nats_server, stream, a._path, Way.KEEP_ROWS)
    a = await nodes("a")
    async with until_copied(b):
        await level(b)
    await all_equal(a, b)
    assert not any("bad" in row for _, row in rows(b))


async def test_the_end_that_a_stream_has_lost_stands_where_it_was_applied(
    own_server: NatsServer, tmp_path: Path
) -> None:
    a = await started(own_server.url, "LOST", tmp_path / "a", begin=None)
    await a.append([put(n) for n in range(5)])
    own_server.stop()
    backup = tmp_path / "backup"
    shutil.copytree(own_server.store, backup)
    own_server.start()
    await a.append([put(5), put(6)], "acknowledged")
    last_seq = a.last_seq
    await a.close()
    own_server.stop()
    shutil.rmtree(own_server.store)
    shutil.copytree(backup, own_server.store)
    own_server.start()
    await rebuild(own_server, "LOST", a._path, Way.KEEP_ROWS)
    a = await started(own_server.url, "LOST", tmp_path / "a", begin=None)
    b = await started(own_server.url, "LOST", tmp_path / "b", begin=None)
    await all_equal(a, b)
    assert [key for key, _ in rows(b)] == [f"[{n}]" for n in range(7)]
    assert (await b.append([put(5)], "acknowledged")).duplicates == 1
    assert ((await b.append([put(9)])).first_seq or 0) > last_seq
    for node in (a, b):
        await node.close()


async def test_what_a_stream_out_of_a_backup_has_taken_since_is_applied_to_the_rows_that_stand(
    own_server: NatsServer, tmp_path: Path
) -> None:
    a = await started(own_server.url, "PARTED", tmp_path / "a", begin=None)
    for n in range(10):
        await a.append([put(n)])
    own_server.stop()
    shutil.copytree(own_server.store, tmp_path / "backup")
    own_server.start()
    for n in range(10, 17):
        await a.append([put(n)])
    await a.close()
    own_server.stop()
    shutil.rmtree(own_server.store)
    shutil.copytree(tmp_path / "backup", own_server.store)
    own_server.start()
    b = await started(own_server.url, "PARTED", tmp_path / "b", begin=None)
    for n in range(30):
        await b.append([put(100 + n), gone(n % 4)])
    # The stream has other messages by now where this node's last ones were.
    link = Link(NatsPlace((own_server.url,), "PARTED"))
    await link.start()
    found = await look(link, a._path)
    await link.close()
    assert found.common == 11
    await rebuild(own_server, "PARTED", a._path, Way.KEEP_ROWS)
    a = await started(own_server.url, "PARTED", tmp_path / "a", begin=None)
    async with until_copied(b):
        await level(b)
    await all_equal(a, b)
    assert {key for key, _ in rows(b)} == {f"[{n}]" for n in (*range(4, 17), *range(100, 130))}
    for node in (a, b):
        await node.close()


async def test_it_is_refused_while_the_node_runs(
    nodes: Start, nats_server: NatsServer, stream: str
) -> None:
    a = await nodes("a")
    with pytest.raises(StorageFault, match="a server is running on it"):
        await rebuild(nats_server, stream, a._path, Way.KEEP_ROWS)


async def test_rows_that_are_none_cannot_stand(
    nats_server: NatsServer, stream: str, tmp_path: Path
) -> None:
    with pytest.raises(StorageFault, match="no rows here"):
        await rebuild(nats_server, stream, tmp_path / "node.db", Way.KEEP_ROWS)


async def said(*command: str, answer: str = "", **more: Any) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run, command, input=answer, capture_output=True, text=True, check=False, **more
    )


def command(server: NatsServer, stream: str, directory: Path, *more: str) -> list[str]:
    config = directory / "config.yaml"
    config.write_text(
        f"server: {{data_dir: {directory / 'data'}}}\n"
        f"log: {{url: 'nats://127.0.0.1:{server.port}/{stream}', nats: {{replicas: 1}}}}\n"
    )
    program = [sys.executable, "-m", "kalam_notify", "rebuild", "--config", str(config)]
    return [*program, *more]


async def test_the_command_asks_first_and_does_what_it_was_told(
    nodes: Start, nats_server: NatsServer, stream: str, tmp_path: Path
) -> None:
    directory = tmp_path / "data"
    a = await nodes("data")
    await a.append([put(1)])
    await a.close()
    (directory / "node.db").rename(directory / f"node-{stream}.db")
    keep = command(nats_server, stream, tmp_path, "--keep-rows")
    asked = await said(*keep, answer="n\n")
    assert asked.returncode == 1, asked.stderr
    assert asked.stdout.splitlines()[0].endswith("1 tables, 1 rows, last seq " + str(a.last_seq))
    assert asked.stdout.endswith("nothing was changed\n")
    done = await said(*keep, "--yes")
    assert done.returncode == 0, done.stderr
    assert "the rows of this node stand" in done.stdout
    (directory / f"node-{stream}.db").rename(directory / "node.db")
    a = await nodes("data")
    assert a.statistics()["epoch"] == 2


@pytest.mark.parametrize("kill_after", range(6))
async def test_a_command_that_is_killed_can_be_said_again(
    nodes: Start, nats_server: NatsServer, stream: str, tmp_path: Path, kill_after: int
) -> None:
    a = await nodes("data")
    await a.append([put(1)])
    await a.close()
    directory = tmp_path / "data"
    (directory / "node.db").rename(directory / f"node-{stream}.db")
    # Killed behind so many renames, commits and removals.
    script = tmp_path / "killed.py"
    script.write_text(
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from kalam_notify.log.nats import rebuilding\n"
        "left = [int(sys.argv.pop(1))]\n"
        "def counted(work):\n"
        "    def counting(*given, **named):\n"
        "        if left[0] == 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        left[0] -= 1\n"
        "        return work(*given, **named)\n"
        "    return counting\n"
        "Path.rename = counted(Path.rename)\n"
        "for name in ('prepare', 'replace', 'remove'):\n"
        "    module = rebuilding.node_file\n"
        "    setattr(module, name, counted(getattr(module, name)))\n"
        "rebuilding.go_on_behind = counted(rebuilding.go_on_behind)\n"
        "from kalam_notify.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    give_up = command(nats_server, stream, tmp_path, "--from-stream", "--yes")
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    program = (sys.executable, str(script), str(kill_after))
    killed = await said(*program, *give_up[3:], env=environment)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    again = await said(*give_up)
    assert again.returncode == 0, again.stderr
    (directory / f"node-{stream}.db").rename(directory / "node.db")
    a = await nodes("data")
    assert [key for key, _ in rows(a)] == ["[1]"]
