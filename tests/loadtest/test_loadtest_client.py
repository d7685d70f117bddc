"""The client must notice every way in which a server can fail to deliver."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from loadtest_scripted import ScriptedServer, change, row, scripted

from loadtest.client import Client, ClientPlan
from loadtest.floor import Floor
from loadtest.harness.cpu import Cores
from loadtest.harness.faults import DeliveryFault, LoadTestFault
from loadtest.harness.native import compiler
from loadtest.harness.rows import RowMaker, change_payload

NATIVE = pytest.param(
    False, id="c", marks=pytest.mark.skipif(compiler() is None, reason="no C compiler")
)
both_clients = pytest.mark.parametrize("python", [NATIVE, pytest.param(True, id="python")])


@asynccontextmanager
async def subscribed(
    server: ScriptedServer | Floor, directory: Path, python: bool, **plan: Any
) -> AsyncIterator[Client]:
    wanted = ClientPlan(**{"connections": 1, "sql": ['SELECT "a" FROM x.y'], **plan})
    client = await Client.start(
        wanted, server.address, directory, Cores().all, lambda event: None, python=python
    )
    try:
        await client.ready(30)
        yield client
    finally:
        await client.process.close()


async def fault_of(server: ScriptedServer, client: Client, *texts: str) -> str:
    """What the client complains of after these messages."""
    client.expect(1_000_000)
    for text in texts:
        server.say(text)
    with pytest.raises(DeliveryFault) as raised:
        await client.arrived(30)
    return str(raised.value)


@both_clients
async def test_rows_are_counted_and_summed(tmp_path: Path, python: bool) -> None:
    async with scripted() as server, subscribed(server, tmp_path, python) as client:
        client.expect(3)
        server.say(change(row(7, 70), row(8, 71)))
        server.say(change(row(9, 90)))
        await client.arrived(30)
        report = await client.report()
        assert (report.rows, report.sum, report.placed) == (3, 24, 24)
        assert report.delay.count == 3
        report.require_each(3, 24)
        with pytest.raises(DeliveryFault):
            report.require_each(3, 25)
        assert server.subscribes == [{"id": "live", "sql": 'SELECT "a" FROM x.y', "options": None}]


@both_clients
async def test_a_row_that_comes_twice_is_a_fault(tmp_path: Path, python: bool) -> None:
    async with scripted() as server, subscribed(server, tmp_path, python) as client:
        fault = await fault_of(server, client, change(row(1, 10)), change(row(1, 10)))
        assert "_seq 10 came after 10" in fault


@both_clients
async def test_a_lost_row_is_a_fault_where_all_are_due(tmp_path: Path, python: bool) -> None:
    async with (
        scripted() as server,
        subscribed(server, tmp_path, python, contiguous=True) as client,
    ):
        fault = await fault_of(server, client, change(row(1, 10)), change(row(3, 30)))
        assert "row 3 came after row 1" in fault


@both_clients
async def test_altered_content_is_a_fault(tmp_path: Path, python: bool) -> None:
    async with scripted() as server, subscribed(server, tmp_path, python) as client:
        altered = change(row(1, 10)).replace("0000000001000", "0000000001001")
        assert "content is not what was posted" in await fault_of(server, client, altered)


@both_clients
async def test_a_row_without_a_seq_is_a_fault(tmp_path: Path, python: bool) -> None:
    async with scripted() as server, subscribed(server, tmp_path, python) as client:
        bare = {name: value for name, value in row(1, 10).items() if name != "_seq"}
        assert "1 rows with 0 seqs" in await fault_of(server, client, change(bare))


@both_clients
async def test_a_message_for_a_stranger_is_a_fault(tmp_path: Path, python: bool) -> None:
    async with scripted() as server, subscribed(server, tmp_path, python) as client:
        stray = change(row(1, 10), subscription_id="live7")
        assert "was told" in await fault_of(server, client, stray)


@both_clients
async def test_an_error_message_is_a_fault(tmp_path: Path, python: bool) -> None:
    async with scripted() as server, subscribed(server, tmp_path, python) as client:
        text = '{"type":"error","subscription_id":"live","code":"INVALID_SQL","message":"no"}'
        assert "INVALID_SQL" in await fault_of(server, client, text)


@both_clients
async def test_a_close_is_a_fault(tmp_path: Path, python: bool) -> None:
    async with scripted() as server, subscribed(server, tmp_path, python) as client:
        server.ws.send_close(1013, "too slow")
        server.flush()
        assert "1013" in await fault_of(server, client)


@both_clients
async def test_old_values_are_not_counted_as_rows(tmp_path: Path, python: bool) -> None:
    async with scripted() as server, subscribed(server, tmp_path, python) as client:
        client.expect(2)
        server.say(change(row(1, 10), change_type="update", old_values=[row(1, 2)]))
        server.say(change(row(2, 20)))
        await client.arrived(30)
        (await client.report()).require_each(2, 3)


@both_clients
async def test_a_message_cut_anywhere_is_read_whole(tmp_path: Path, python: bool) -> None:
    async with scripted() as server, subscribed(server, tmp_path, python) as client:
        client.expect(3)
        server.ws.send_text(change(row(1, 10), row(2, 20)).encode())
        server.ws.send_text(change(row(3, 30)).encode())
        whole = server.taken()
        assert server.writer is not None
        for at in range(len(whole)):
            server.raw(whole[at : at + 1])
            await server.writer.drain()
        await client.arrived(30)
        (await client.report()).require_each(3, 6)


@both_clients
async def test_messages_of_every_length_and_fragments_are_read(
    tmp_path: Path, python: bool
) -> None:
    async with scripted() as server, subscribed(server, tmp_path, python) as client:
        client.expect(3)
        server.say(change(row(1, 10)))
        server.say(change(row(2, 20, filler="x" * 500_000)))
        text = change(row(3, 30)).encode()
        server.ws.send_text(text[:50], fin=False)
        server.ws.send_continuation(text[50:60], fin=False)
        server.ws.send_continuation(text[60:], fin=True)
        server.flush()
        await client.arrived(30)
        (await client.report()).require_each(3, 6)


@both_clients
async def test_a_ping_is_answered(tmp_path: Path, python: bool) -> None:
    async with scripted() as server, subscribed(server, tmp_path, python):
        server.ws.send_ping(b"still there?")
        server.flush()
        assert await server.pongs.get() == b"still there?"


@both_clients
@pytest.mark.parametrize("window", [True, False])
async def test_compressed_messages_are_read(tmp_path: Path, python: bool, window: bool) -> None:
    async with (
        scripted(window) as server,
        subscribed(server, tmp_path, python, deflate=True) as client,
    ):
        client.expect(50)
        for n in range(1, 51):
            server.say(change(row(n, n * 10, filler="much the same " * 10)))
        await client.arrived(30)
        report = await client.report()
        report.require_each(50, 1275)
        assert report.bytes < 50 * 200


@both_clients
async def test_after_a_drop_the_client_resumes_where_it_was(tmp_path: Path, python: bool) -> None:
    async with scripted() as server, subscribed(server, tmp_path, python) as client:
        client.expect(1)
        server.say(change(row(1, 10)))
        await client.arrived(30)
        await client.command("drop")
        await client.command("return")
        await client.ready(30)
        assert server.subscribes[-1]["options"] == {"from": 10}
        assert (await client.report()).not_resumed == 0


@both_clients
async def test_an_empty_batch_after_a_live_only_ack_is_taken_as_such(
    tmp_path: Path, python: bool
) -> None:
    async with scripted() as server:
        server.follows_up = True
        async with subscribed(server, tmp_path, python, beside=["SELECT 1"]) as client:
            client.expect(1)
            server.say(change(row(1, 10), subscription_id="live0"))
            await client.arrived(30)
            (await client.report()).require_each(1, 1)


@both_clients
async def test_a_connection_holds_active_and_silent_subscriptions(
    tmp_path: Path, python: bool
) -> None:
    plan = {"sql": ["S a.x"], "tables": ["a.x", "a.y"], "beside": ["S b.z WHERE g = {n}"]}
    async with scripted() as server, subscribed(server, tmp_path, python, **plan) as client:
        asked = [(told["id"], told["sql"]) for told in server.subscribes]
        assert asked == [("live0", "S a.x"), ("live1", "S a.y"), ("live2", "S b.z WHERE g = 0")]
        client.expect(2)
        server.say(change(row(1, 10), subscription_id="live0"))
        server.say(change(row(2, 20), subscription_id="live1"))
        await client.arrived(30)
        report = await client.report()
        report.require_each(2, 3)
        report.require_placed(1 * 1 + 2 * 2)
        stray = change(row(3, 30), subscription_id="live2")
        assert "silent" in await fault_of(server, client, stray)


@both_clients
async def test_a_reset_counts_from_zero(tmp_path: Path, python: bool) -> None:
    async with scripted() as server, subscribed(server, tmp_path, python) as client:
        client.expect(1)
        server.say(change(row(1, 10)))
        await client.arrived(30)
        await client.command("reset")
        client.expect(1)
        server.say(change(row(2, 20)))
        await client.arrived(30)
        (await client.report()).require_each(1, 2)


@both_clients
async def test_a_refused_connection_is_told(tmp_path: Path, python: bool) -> None:
    async with scripted() as server:
        address = server.address
    gone = ScriptedServer(None)
    gone.address = address
    with pytest.raises(LoadTestFault):
        async with subscribed(gone, tmp_path, python):
            pass


@both_clients
@pytest.mark.skipif(shutil.which("cc") is None, reason="the floor is a C program")
async def test_the_floor_sends_what_it_says(tmp_path: Path, python: bool) -> None:
    maker = RowMaker()
    payload = change_payload([maker.row() for _ in range(3)])
    floor = await Floor.start(payload, tmp_path, Cores().all)
    assert floor is not None
    try:
        async with subscribed(floor, tmp_path, python, connections=4, contiguous=True) as client:
            client.expect(4 * 5 * 3)
            walk = await floor.send(5, 100)
            await client.arrived(30)
            assert (walk.sends, walk.first_n, walk.last_n) == (20, 1, 15)
            assert walk.cpu_ns > 0
            (await client.report()).require_each(15, 120)
    finally:
        await floor.process.close()
