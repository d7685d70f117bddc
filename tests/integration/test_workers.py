"""Several worker processes behind one address: alike, exact, replaceable."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.processes import is_alive, until
from helpers.server import BASE, SECRET, Server, insert, merged, running_server, update
from helpers.views import View
from helpers.wire import Wire, wire
from websockets.exceptions import ConnectionClosed, WebSocketException
from workers_kit import (
    Door,
    all_run,
    command_line,
    door,
    doors,
    kill_worker,
    replaced,
    wire_to,
    worker_pids,
)

StartServer = Callable[..., Server]
SERVE = (sys.executable, "-m", "kalam_notify", "serve")
WORKERS = {"server": {"workers": 3}}
EVERY = (1, 2, 3)


@pytest.fixture(scope="module")
def crew(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of three workers that the tests leave as they found it."""
    settings = {**WORKERS, "tables": {"auto_create": True}}
    with running_server(tmp_path_factory.mktemp("crew"), settings) as server:
        yield server


@pytest.fixture
def crew_of_its_own(start_server: StartServer) -> Server:
    """A server of three workers, to be maltreated."""
    return start_server(**WORKERS)


# Alike


def test_every_worker_answers_on_the_one_port(crew: Server) -> None:
    with doors(crew) as each:
        assert [door.worker for door in each] == [1, 2, 3]
        for door in each:
            health = door.get("/health").json
            assert (health["workers"], health["workers_running"]) == (3, 3)
    assert len(worker_pids(crew)) == 3


def test_one_worker_is_one_process(start_server: StartServer) -> None:
    server = start_server(server={"workers": 1})
    assert worker_pids(server) == {}
    health = server.request("GET", "/health").json
    assert (health["worker"], health["workers"], health["workers_running"]) == (1, 1, 1)


def test_the_secret_is_in_no_command_line_and_no_environment(crew: Server) -> None:
    for pid in worker_pids(crew).values():
        assert SECRET not in " ".join(command_line(pid))
        assert SECRET.encode() not in Path(f"/proc/{pid}/environ").read_bytes()


def test_a_development_server_signs_for_all_its_workers(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*SERVE, "--dev", "--listen", "127.0.0.1:0", "--workers", "3"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    with process:
        assert process.stdout is not None
        token = process.stdout.readline().removeprefix("token: ").strip()
        server = Server(tmp_path)
        server.url = process.stdout.readline().removeprefix("listening on ").strip()
        headers = {"Authorization": f"Bearer {token}", "Content_Type": "application/json"}
        body = json.dumps(insert("app.any", {"id": 1})).encode()
        accepted = [
            server.request("POST", "/v1/changes", body, **headers).status for _ in range(20)
        ]
        process.send_signal(signal.SIGTERM)
        # Announced once: nothing but the two lines was printed.
        assert process.stdout.read() == ""
    assert accepted == [200] * 20
    assert process.returncode == 0
    assert list(tmp_path.iterdir()) == []


# Exact


async def hear_until_end(client: Wire) -> dict[Any, int]:
    """What a view of `id` and `n` holds when the row called end has come."""
    view = View()
    while "end" not in view.rows:
        view.apply(await client.hear(60))
    del view.rows["end"]
    return {key: row["n"] for key, row in view.rows.items()}


async def test_changes_posted_at_any_worker_reach_subscribers_at_all_in_order(
    crew: Server,
) -> None:
    table, token = "crew.ordered", crew.token()
    query = f"SELECT * FROM {table} WHERE id = 'end' OR n % 2 = 0"

    def produce(door: Door) -> None:
        for number in range(40):
            row = {"id": number % 5, "n": number, "by": door.worker}
            door.post(insert(table, row), update(table, {**row, "n": number + 1}))

    async with AsyncExitStack() as stack:
        hearing = []
        for worker in EVERY:
            for _ in range(2):
                client = await stack.enter_async_context(wire_to(crew, worker, token))
                await client.subscribe("s", query, {})
                hearing.append(asyncio.create_task(hear_until_end(client)))
        with doors(crew) as each:
            await asyncio.gather(*(asyncio.to_thread(produce, door) for door in each))
            each[0].post(insert(table, {"id": "end", "n": 1}))
        views = await asyncio.gather(*hearing)
        late = await stack.enter_async_context(wire(crew.ws_url, token))
        await late.subscribe("s", query, {})
        expected = await hear_until_end(late)
    assert views == [expected] * 6


def test_an_id_is_known_to_every_worker(crew: Server) -> None:
    with doors(crew) as each:
        answers = [door.post(insert("crew.ids", {"id": 1}, id="crew-1")) for door in each]
        batches = [door.post(insert("crew.ids", {"id": 2}), key="crew-batch") for door in each]
    assert [answer["duplicates"] for answer in answers] == [0, 1, 1]
    assert [answer["accepted"] for answer in batches] == [1, 0, 0]


def test_an_id_posted_to_all_workers_at_once_is_stored_once(crew: Server) -> None:
    def post(door: Door) -> list[int]:
        return [
            door.post(insert("crew.race", {"id": n, "by": door.worker}, id=f"race-{n}"))["accepted"]
            for n in range(30)
        ]

    with doors(crew) as each, ThreadPoolExecutor(3) as threads:
        accepted = list(threads.map(post, each))
    assert [sum(one) for one in zip(*accepted, strict=True)] == [1] * 30


@asynccontextmanager
async def desks(server: Server) -> AsyncIterator[tuple[list[Door], list[Wire]]]:
    """For each worker a connection to post over and one to subscribe over, ready for use.

    What is posted at one worker is asked for at the next one as fast as can be, so that it has
    seldom come around by itself.
    """
    async with AsyncExitStack() as stack:
        each = stack.enter_context(doors(server))
        wires = [await stack.enter_async_context(wire_to(server, n, server.token())) for n in EVERY]
        yield each, wires


async def test_what_was_acknowledged_at_one_worker_is_in_a_snapshot_at_another(
    crew: Server,
) -> None:
    table, token = "crew.own_writes", crew.token()
    query = f"SELECT id FROM {table}"
    async with desks(crew) as (each, wires), AsyncExitStack() as stack:
        # Somebody always holds the same query, so that pages of it may be shared.
        for worker in EVERY:
            holder = await stack.enter_async_context(wire_to(crew, worker, token, max_queue=None))
            await holder.live("held", query, {"last_rows": 0})
        for number in range(90):
            # Ten in a row at the same worker, which has just read the page before.
            client = wires[(number // 10 + 1) % 3]
            options = {"last_rows": 1} if number % 4 == 3 else {"batch_size": 1000}
            posted = each[number // 10 % 3].post(insert(table, {"id": number}))
            for name in ("first", "second"):
                await client.subscribe(name, query, options)
                await client.hear_type("subscription_ack")
                batch = await client.hear_type("initial_data_batch")
                assert batch["rows"][-1] == {"id": number, "_seq": str(posted["last_seq"])}
                await client.say(type="unsubscribe", subscription_id=name)
            await client.settled(token)


async def test_a_seq_of_one_worker_resumes_at_another(crew: Server) -> None:
    table, token = "crew.resume", crew.token()
    async with desks(crew) as (each, wires):
        for number in range(60):
            client = wires[(number + 1) % 3]
            here = each[number % 3].post(insert(table, {"id": number}))["last_seq"]
            ack = await client.live("s", f"SELECT * FROM {table}", {"from": here})
            assert ack["resumed"] is True
            each[number % 3].post(insert(table, {"id": -1 - number}))
            change = await client.hear_type("change")
            assert [row["id"] for row in change["rows"]] == [-1 - number]
            await client.say(type="unsubscribe", subscription_id="s")
            await client.settled(token)


async def test_live_only_begins_behind_what_was_acknowledged_anywhere(crew: Server) -> None:
    table, token = "crew.live_only", crew.token()
    async with desks(crew) as (each, wires):
        for number in range(60):
            client = wires[(number + 1) % 3]
            each[number % 3].post(insert(table, {"id": number}))
            await client.live("s", f"SELECT * FROM {table}")
            each[number % 3].post(insert(table, {"id": -1 - number}))
            change = await client.hear_type("change")
            assert [row["id"] for row in change["rows"]] == [-1 - number]
            await client.say(type="unsubscribe", subscription_id="s")
            await client.settled(token)


async def test_a_seq_beyond_the_log_gets_a_snapshot(crew: Server) -> None:
    for worker in EVERY:
        async with wire_to(crew, worker, crew.token()) as client:
            ack = await client.live(
                "s", "SELECT * FROM app.orders", {"from": 2**50, "on_gap": "snapshot"}
            )
            assert ack["resumed"] is False


# Replaceable


class Follower:
    """A client that comes again whenever it is dropped, and resumes."""

    def __init__(self, server: Server, query: str) -> None:
        self._server = server
        self._query = query
        self.view = View()
        self.returns = 0

    async def follow(self) -> dict[Any, int]:
        options: dict[str, int] = {}
        while True:
            try:
                async with wire(self._server.ws_url, self._server.token()) as client:
                    await client.subscribe("s", self._query, options)
                    while "end" not in self.view.rows:
                        self.view.apply(await client.hear(60))
                        options = {"from": self.view.last_seq}
                    return {key: row["v"] for key, row in self.view.rows.items()}
            except (OSError, EOFError, WebSocketException):
                self.returns += 1


def post_surely(server: Server, change: dict[str, Any]) -> None:
    """Post until it is acknowledged: a worker may be killed with the post in its hands."""
    while True:
        try:
            answer = server.post(change)
        except (OSError, EOFError) as dropped:
            refused = getattr(dropped, "reason", dropped)
            assert not isinstance(refused, ConnectionRefusedError), "the port was closed"
            continue
        assert answer["accepted"] + answer["duplicates"] == 1
        return


async def test_killed_workers_are_replaced_and_nobody_misses_a_change(
    crew_of_its_own: Server,
) -> None:
    server = crew_of_its_own
    followers = [Follower(server, "SELECT * FROM app.orders WHERE v >= 0") for _ in range(9)]
    following = [asyncio.create_task(follower.follow()) for follower in followers]
    expected: dict[Any, int] = {}
    written = asyncio.Event()

    async def write() -> None:
        for number in range(120):
            row = {"id": number % 7, "v": number * 7 % 5 - 1}
            await asyncio.to_thread(
                post_surely, server, insert("app.orders", row, id=f"evt-{number}")
            )
            expected[row["id"]] = row["v"]
        written.set()

    async def kill() -> None:
        for worker in EVERY:
            pid = kill_worker(server, worker)
            await asyncio.to_thread(replaced, server, worker, pid)
            await asyncio.to_thread(all_run, server)

    before = worker_pids(server)
    await asyncio.gather(write(), kill())
    await asyncio.to_thread(
        post_surely, server, insert("app.orders", {"id": "end", "v": 0}, id="end")
    )
    views = await asyncio.gather(*following)
    expected = {key: v for key, v in {**expected, "end": 0}.items() if v >= 0}
    assert views == [expected] * 9
    assert sum(follower.returns for follower in followers) > 0
    assert not set(before.values()) & set(worker_pids(server).values())
    assert server.process is not None
    assert server.process.poll() is None


def ask(server: Server) -> socket.socket:
    """A connection with a request on it."""
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    asked = socket.create_connection((host, int(port)), timeout=60)
    asked.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    return asked


def answered(asked: socket.socket) -> bool:
    with closing(asked):
        return asked.recv(100).startswith(b"HTTP/1.1 200")


def test_connections_that_wait_for_a_dead_worker_are_served_by_the_others(
    crew_of_its_own: Server,
) -> None:
    server = crew_of_its_own
    first = worker_pids(server)[1]
    os.kill(first, signal.SIGSTOP)
    waiting = [ask(server) for _ in range(40)]
    os.kill(first, signal.SIGKILL)
    # Its replacement is kept from starting, so that nobody but the others can have answered.
    second = replaced(server, 1, first)
    os.kill(second, signal.SIGSTOP)
    assert all(answered(asked) for asked in waiting)
    assert all(answered(ask(server)) for _ in range(40))
    workers = {server.request("GET", "/health").json["worker"] for _ in range(40)}
    assert 1 not in workers
    assert server.request("GET", "/health").json["workers_running"] == 2
    os.kill(second, signal.SIGCONT)
    all_run(server)
    with doors(server) as each:
        assert [door.worker for door in each] == [1, 2, 3]


def test_a_worker_that_dies_again_and_again_is_replaced_each_time(crew_of_its_own: Server) -> None:
    server = crew_of_its_own
    for _ in range(4):
        pid = kill_worker(server, 2)
        replaced(server, 2, pid)
    all_run(server)
    assert server.errors.count("worker 2 is started again in 0.00 s") == 1
    assert "worker 2 is started again in 0.50 s" in server.errors
    assert server.metric("worker_restarts_total") == 4


@pytest.mark.long
async def test_a_frozen_worker_is_killed_and_replaced_and_its_clients_come_back(
    crew_of_its_own: Server,
) -> None:
    server = crew_of_its_own
    pids = worker_pids(server)
    async with wire_to(server, 2, server.token()) as client:
        os.kill(pids[2], signal.SIGSTOP)
        with pytest.raises(ConnectionClosed):
            await client.hear(60)
    replaced(server, 2, pids[2])
    all_run(server)
    assert "is frozen: it is killed" in server.errors
    now = worker_pids(server)
    assert (now[1], now[3]) == (pids[1], pids[3])


# Signals


def test_sighup_reaches_all_workers_and_those_that_come_later(crew_of_its_own: Server) -> None:
    server = crew_of_its_own
    server.configure("tables: [nonsense")
    server.signal(signal.SIGHUP)
    until(lambda: "not reloaded" in server.errors, "the bad configuration is refused")
    assert server.metric("config_last_reload_successful") == 0
    fresh = merged(server.settings, {"tables": {"declared": {"app.fresh": {"type": "shared"}}}})
    server.configure(yaml.safe_dump(fresh))
    server.signal(signal.SIGHUP)
    until(lambda: server.errors.count("configuration reloaded") == 3, "all have reloaded")
    assert server.metric("config_last_reload_successful") == 1
    # What was loaded last, not what the file says by now, is what a new worker gets.
    server.configure("tables: [nonsense")
    replaced(server, 3, kill_worker(server, 3))
    all_run(server)
    server.configure(yaml.safe_dump(fresh))
    with doors(server) as each:
        for door in each:
            assert door.post(insert("app.fresh", {"a": 1}))["accepted"] == 1


def test_a_worker_that_was_being_started_at_the_reload_hears_of_it(
    crew_of_its_own: Server,
) -> None:
    server = crew_of_its_own
    late = replaced(server, 2, kill_worker(server, 2))
    os.kill(late, signal.SIGSTOP)
    fresh = merged(server.settings, {"tables": {"declared": {"app.fresh": {"type": "shared"}}}})
    server.configure(yaml.safe_dump(fresh))
    server.signal(signal.SIGHUP)
    until(lambda: server.errors.count("configuration reloaded") == 2, "the others have reloaded")
    os.kill(late, signal.SIGCONT)
    all_run(server)
    with closing(door(server, 2)) as straggler:
        until(lambda: server.errors.count("configuration reloaded") == 3, "all have reloaded")
        assert straggler.post(insert("app.fresh", {"a": 1}))["accepted"] == 1


async def test_sigterm_drains_all_workers_and_exits_0(start_server: StartServer) -> None:
    server = start_server(server={"workers": 3, "drain_seconds": 5})
    pids = worker_pids(server)
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(wire_to(server, worker, server.token()))
            for worker in (*EVERY, *EVERY)
        ]
        server.signal(signal.SIGTERM)
        # The first client of each: every worker drains now, and has a second one to close.
        await asyncio.gather(*(client.closed() for client in clients[:3]))
        assert server.request("GET", "/readyz").status == 503
        codes = await asyncio.gather(*(client.closed() for client in clients))
        assert [code for code, _ in codes] == [1001] * 6
    assert server.process is not None
    assert await asyncio.to_thread(server.process.wait, 60) == 0
    assert not any(is_alive(pid) for pid in pids.values())


def test_an_interrupt_of_the_whole_terminal_is_one_stop(crew_of_its_own: Server) -> None:
    server = crew_of_its_own
    server.signal(signal.SIGINT)
    assert server.process is not None
    assert server.process.wait(60) == 0


def test_a_worker_that_does_not_end_is_killed(start_server: StartServer) -> None:
    server = start_server(server={"workers": 2, "drain_seconds": 0})
    stuck = worker_pids(server)[1]
    os.kill(stuck, signal.SIGSTOP)
    assert server.stop() == 1
    assert not is_alive(stuck)
    assert "have not ended" in server.errors


async def test_workers_end_when_their_supervisor_is_killed(start_server: StartServer) -> None:
    server = start_server(**WORKERS)
    pids = worker_pids(server)
    follower = Follower(server, "SELECT * FROM app.orders")
    following = asyncio.create_task(follower.follow())
    await asyncio.to_thread(server.post, insert("app.orders", {"id": 1, "v": 1}))
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    await asyncio.to_thread(server.post, insert("app.orders", {"id": "end", "v": 2}))
    assert await following == {1: 1, "end": 2}
    await asyncio.to_thread(
        until, lambda: not any(map(is_alive, pids.values())), "the old workers end"
    )
    assert len(worker_pids(server)) == 3


# Metrics


def sample(text: str, name: str) -> list[float]:
    lines = [line for line in text.splitlines() if line.startswith(f"kalam_notify_{name} ")]
    return [float(line.split()[-1]) for line in lines]


async def test_one_scrape_tells_of_all_workers_whoever_is_asked(crew_of_its_own: Server) -> None:
    server = crew_of_its_own
    async with AsyncExitStack() as stack:
        with doors(server) as each:
            for worker in (*EVERY, *EVERY):
                client = await stack.enter_async_context(wire_to(server, worker, server.token()))
                await client.live("s", "SELECT * FROM app.orders")
                stack.push_async_callback(client.hear_type, "change")
            each[0].post(*[insert("app.orders", {"id": n}) for n in range(4)])
            each[1].post(insert("app.vault", {"id": 1}))
            last = each[2].post(insert("app.vault", {"id": 2}))["last_seq"]
            until(lambda: server.metric("log_last_seq") == last, "the changes have come around")
            texts = [door.get("/metrics").body.decode() for door in each]
    for text in texts:
        assert sample(text, "connections") == [6]
        assert sample(text, 'subscriptions{scope="shared"}') == [6]
        assert sample(text, 'changes_ingested_total{table="app.orders"}') == [4]
        assert sample(text, 'changes_ingested_total{table="app.vault"}') == [2]
        assert sample(text, 'ingest_requests_total{status="200"}') == [3]
        assert sample(text, "log_append_seconds_count") == [3]
        assert sample(text, 'log_append_seconds_bucket{le="+Inf"}') == [3]
        assert sample(text, "log_last_seq") == [last]
        assert text.count("kalam_notify_build_info{version=") == 1
        assert text.count("# TYPE kalam_notify_connections gauge") == 1
        assert sample(text, "config_last_reload_successful") == [1]
        assert 0 < sample(text, "log_bytes")[0] < 1000
        assert sample(text, "slowest_subscription_seconds")[0] < 60
    until(lambda: server.metric("loop_lag_seconds_count") > 0, "the loop's lag has been measured")


def test_what_a_dead_worker_had_counted_stays(crew_of_its_own: Server) -> None:
    server = crew_of_its_own
    with doors(server) as each:
        for door in each:
            door.post(insert("app.orders", {"id": door.worker}))
    assert server.metric("changes_ingested_total", table="app.orders") == 3
    for worker in EVERY:
        replaced(server, worker, kill_worker(server, worker))
        all_run(server)
        assert server.metric("changes_ingested_total", table="app.orders") == 3
    assert server.metric("worker_restarts_total") == 3


# Starts that fail


def run_serve(file: Path, *flags: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*SERVE, "--config", str(file), *flags],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_an_address_taken_by_another_crew_is_not_shared_with_it(
    crew: Server, tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(merged(BASE, {"server": {"data_dir": str(tmp_path)}})))
    taken = crew.url.removeprefix("http://")
    done = run_serve(file, "--listen", taken, "--workers", "2")
    assert done.returncode == 2
    assert taken in done.stderr


def test_data_that_no_worker_may_touch_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "kalam.db").write_bytes(b"not a database" * 100)
    settings = {"server": {"data_dir": str(tmp_path / "data"), "workers": 3}}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(merged(BASE, settings)))
    done = run_serve(file)
    assert (done.returncode, done.stdout) == (1, "")
    assert Counter("kalam.db" in line for line in done.stderr.splitlines())[True] == 1


def test_internal_addresses_are_shared_too(start_server: StartServer, kept_port: int) -> None:
    server = start_server(server={"workers": 2, "internal_listen": f"127.0.0.1:{kept_port}"})
    assert server.post_raw(b"[]").status == 404
    server.url = f"http://127.0.0.1:{kept_port}"
    with doors(server, 2) as each:
        assert [door.post(insert("app.orders", {"id": 1}))["accepted"] for door in each] == [1, 1]
