"""Three machines with a network between them, whose cables are pulled.

Each machine is a network namespace with a NATS server and a node in it, on a bridge in a fourth.
The namespaces are those of processes, so nothing is left of them when these have ended.
"""

import asyncio
import contextlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from cluster.nats_kit import program
from faults.kit import drawn_seed
from helpers.processes import until

NUMBERS = (1, 2, 3)
SCRIPT = Path(__file__).with_name("remote_node.py")


def _can_make_namespaces() -> bool:
    tools = all(map(shutil.which, ("unshare", "nsenter", "ip")))
    if os.geteuid() or not tools:
        return False
    make = "ip link add br0 type bridge && ip link add p0 type veth peer name p1"
    return not subprocess.run(["unshare", "-n", "sh", "-c", make], check=False).returncode


pytestmark = pytest.mark.skipif(
    not _can_make_namespaces(), reason="only root can make network namespaces, with iproute2"
)


class Network:
    """The namespaces, and the cable of each machine."""

    def __init__(self) -> None:
        self._own = Path("/proc/self/ns/net").readlink()
        self._holders: dict[str, subprocess.Popen[bytes]] = {}

    def make(self) -> None:
        for name in ("hub", *(f"m{n}" for n in NUMBERS)):
            self._holders[name] = subprocess.Popen(["unshare", "-n", "sleep", "infinity"])
        until(lambda: all(map(self._is_apart, self._holders.values())), "namespaces are there")
        self._do("hub", "ip link add br0 type bridge")
        self._do("hub", "ip link set br0 up")
        for n in NUMBERS:
            inside = self._holders[f"m{n}"].pid
            self._do("hub", f"ip link add p{n} type veth peer name eth0 netns {inside}")
            self._do("hub", f"ip link set p{n} master br0 up")
            self._do(f"m{n}", f"ip address add {address(n)}/24 dev eth0")
            self._do(f"m{n}", "ip link set eth0 up")
            self._do(f"m{n}", "ip link set lo up")

    def _is_apart(self, holder: subprocess.Popen[bytes]) -> bool:
        assert holder.poll() is None
        return Path(f"/proc/{holder.pid}/ns/net").readlink() != self._own

    def _do(self, name: str, command: str) -> None:
        subprocess.run([*self.inside(name), *command.split()], check=True)

    def inside(self, name: str) -> list[str]:
        """What a command is to begin with to be run there."""
        return ["nsenter", "-t", str(self._holders[name].pid), "-n"]

    def pull(self, n: int) -> None:
        self._do("hub", f"ip link set p{n} down")

    def plug_in(self, n: int) -> None:
        self._do("hub", f"ip link set p{n} up")

    def close(self) -> None:
        for holder in self._holders.values():
            holder.kill()
            holder.wait()


def address(n: int) -> str:
    return f"10.0.0.{n}"


class Machine:
    """A NATS server and a node."""

    def __init__(self, network: Network, n: int, directory: Path) -> None:
        self.n = n
        self.directory = directory
        self._inside = network.inside(f"m{n}")
        self._numbers = count(1)
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._nats: subprocess.Popen[bytes] | None = None
        self._node: Process | None = None
        self._reading: asyncio.Task[None] | None = None

    def run_nats(self) -> None:
        self.directory.mkdir()
        routes = ", ".join(f'"nats://{address(n)}:6222"' for n in NUMBERS)
        (self.directory / "server.conf").write_text(
            f"server_name: n{self.n}\nlisten: {address(self.n)}:4222\n"
            f'jetstream {{ store_dir: "{self.directory / "store"}", max_file: 1GB }}\n'
            f"cluster {{ name: kit, listen: {address(self.n)}:6222, routes: [{routes}] }}\n"
        )
        command = [*self._inside, program(), "-c", str(self.directory / "server.conf")]
        with (self.directory / "output.txt").open("ab") as output:
            self._nats = subprocess.Popen(command, stdout=output, stderr=output)

    async def run_node(self) -> None:
        urls = ",".join(f"nats://{address(n)}:4222" for n in NUMBERS)
        self._node = await asyncio.create_subprocess_exec(
            *(*self._inside, sys.executable, str(SCRIPT), urls, "KALAM", str(self.directory)),
            stdin=PIPE,
            stdout=PIPE,
        )
        self._reading = asyncio.create_task(self._read(self._node))

    async def _read(self, node: Process) -> None:
        assert node.stdout is not None
        async for line in node.stdout:
            answer = json.loads(line)
            self._asked.pop(answer["id"]).set_result(answer)

    async def ask(self, do: str, **more: Any) -> dict[str, Any]:
        assert self._node is not None
        assert self._node.stdin is not None
        number = next(self._numbers)
        future = self._asked[number] = asyncio.get_running_loop().create_future()
        self._node.stdin.write(json.dumps({"id": number, "do": do, **more}).encode() + b"\n")
        return await asyncio.wait_for(future, 60)

    async def ready(self) -> None:
        async with asyncio.timeout(60):
            while (await self.ask("ready"))["why"] is not None:
                await asyncio.sleep(0.02)

    async def stopped_for(self, words: str) -> None:
        async with asyncio.timeout(60):
            while words not in ((await self.ask("ready"))["why"] or ""):
                await asyncio.sleep(0.02)

    def contents(self) -> tuple[list[Any], list[Any]]:
        """Where the file stands; the log."""
        with contextlib.closing(sqlite3.connect(self.directory / "node.db")) as connection:
            state = connection.execute(
                "SELECT applied, digest, epoch, last_seq FROM stream, state"
            ).fetchall()
            log = connection.execute("SELECT seq, row FROM log ORDER BY seq").fetchall()
        return state, log

    async def close(self) -> None:
        if self._node is not None:
            assert self._node.stdin is not None
            self._node.stdin.close()
            try:
                await asyncio.wait_for(self._node.wait(), 10)
            except TimeoutError:
                self._node.kill()
                await self._node.wait()
        if self._reading is not None:
            await self._reading
        if self._nats is not None:
            self._nats.kill()
            self._nats.wait()


@pytest.fixture
def network() -> Iterator[Network]:
    made = Network()
    try:
        made.make()
        yield made
    finally:
        made.close()


@pytest.fixture
async def machines(network: Network, tmp_path: Path) -> AsyncIterator[dict[int, Machine]]:
    made = {n: Machine(network, n, tmp_path / f"m{n}") for n in NUMBERS}
    try:
        for machine in made.values():
            machine.run_nats()
        for machine in made.values():
            await machine.run_node()
        for machine in made.values():
            await machine.ready()
        yield made
    finally:
        for machine in made.values():
            await machine.close()


class Producer:
    """Posts batches of three rows under a key of their own, each until somebody has stored it."""

    def __init__(self, machines: dict[int, Machine], rng: random.Random) -> None:
        self._machines, self._rng = machines, rng
        self.accepted: Counter[int] = Counter()
        self.faults: Counter[str] = Counter()
        self.posted = 0
        self.goes_on = True

    async def run(self, number: int) -> None:
        while self.goes_on:
            self.posted += 1
            n = self.posted
            rows = [{"id": self._rng.randint(0, 50), "n": n, "by": number} for _ in range(3)]
            while True:
                at = self._machines[self._rng.choice(NUMBERS)]
                stored = await at.ask("append", key=f"key {n}", rows=rows)
                if "fault" not in stored:
                    # Stored before, where an earlier answer was lost.
                    self.accepted[n] += stored["accepted"] + stored["duplicates"]
                    break
                self.faults[stored["fault"]] += 1


@pytest.mark.long
async def test_cables_are_pulled_and_nothing_is_lost_or_doubled(
    network: Network, machines: dict[int, Machine]
) -> None:
    rng = random.Random(drawn_seed())
    producer = Producer(machines, rng)
    async with asyncio.TaskGroup() as group:
        for number in range(6):
            group.create_task(producer.run(number))
        for n in rng.sample(NUMBERS, 2):
            others = [machine for number, machine in machines.items() if number != n]
            network.pull(n)
            # It knows that it is alone; the majority goes on, with a new leader if need be.
            await machines[n].stopped_for("the stream has not been reached")
            for other in others:
                await other.ready()
            stored: dict[str, Any] = {"fault": ""}
            while "fault" in stored:
                stored = await others[0].ask("append", key=f"while {n}", rows=[{"id": 99}])
            network.plug_in(n)
            await machines[n].ready()
        # Two of three: nobody can store anything, and everybody says so.
        pulled = rng.sample(NUMBERS, 2)
        for n in pulled:
            network.pull(n)
        for machine in machines.values():
            await machine.stopped_for("the stream has not been reached")
        for n in pulled:
            network.plug_in(n)
        for machine in machines.values():
            await machine.ready()
        producer.goes_on = False
    assert producer.faults, "cables were pulled, and nobody noticed"
    head = max(machine.contents()[0][0][0] for machine in machines.values())
    async with asyncio.timeout(60):
        while any(machine.contents()[0][0][0] < head for machine in machines.values()):
            await asyncio.sleep(0.05)
    states = [machine.contents() for machine in machines.values()]
    assert states[0] == states[1] == states[2]
    _, log = states[0]
    seen = Counter(json.loads(row).get("n") for _, row in log)
    seen.pop(None)
    assert seen == dict.fromkeys(range(1, producer.posted + 1), 3)
    assert set(producer.accepted.values()) == {3}
    assert [seq for seq, _ in log] == list(range(log[0][0], log[0][0] + len(log)))
