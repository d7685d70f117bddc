"""A client process: many subscribers, each with a socket of its own.

    python -m loadtest.rehearsal.subscribers SETUP.json

It prints `ready` when every subscription is live, answers a line `report FILE` on stdin by writing
all views to the file and printing `reported`, and ends with its stdin. With `keep` in its setup it
saves views and positions as it goes and takes them up when it is started again.
"""

import asyncio
import random
import sys
from pathlib import Path

import msgspec
import uvloop
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from loadtest.rehearsal.questions import Question
from loadtest.rehearsal.views import View

_SAVE_SECONDS = 2.0
_decode = msgspec.json.Decoder().decode


class Setup(msgspec.Struct):
    url: str
    token: str
    questions: list[Question]
    # Where views are saved; None: a process that is killed starts over with snapshots.
    keep: str | None = None
    # Begin at this position of the log instead of with a snapshot.
    begin: int | None = None


class Crowd:
    """All subscribers of one process."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._views = _load(setup)
        self._waiting = set(range(len(self._views)))

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._follow(number, view))
                for number, view in enumerate(self._views)
            ]
            if self._setup.keep is not None:
                tasks.append(group.create_task(self._keep_saving(Path(self._setup.keep))))
            await self._obey()
            for task in tasks:
                task.cancel()

    async def _follow(self, number: int, view: View) -> None:
        """One subscriber's life: connect, take up where the view stands, apply, again."""
        headers = {"Authorization": f"Bearer {self._setup.token}"}
        while True:
            try:
                async with connect(
                    self._setup.url,
                    additional_headers=headers,
                    compression=None,
                    ping_interval=None,
                    max_size=None,
                    open_timeout=60,
                ) as socket:
                    await self._listen(socket, number, view)
            except (OSError, TimeoutError, WebSocketException):
                pass
            await asyncio.sleep(random.uniform(0.05, 0.5))

    async def _listen(self, socket: ClientConnection, number: int, view: View) -> None:
        await _send(socket, view.subscribe())
        async for frame in socket:
            if view.apply(_decode(frame)):
                await _send(socket, {"type": "next_batch", "subscription_id": "view"})
            if view.ready and number in self._waiting:
                self._waiting.discard(number)
                if not self._waiting:
                    print("ready", flush=True)

    async def _keep_saving(self, path: Path) -> None:
        while True:
            await asyncio.sleep(_SAVE_SECONDS)
            self._save(path)

    async def _obey(self) -> None:
        lines = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
        )
        async for line in lines:
            command, _, argument = line.decode().strip().partition(" ")
            if command == "report":
                self._save(Path(argument))
                print("reported", flush=True)

    def _save(self, path: Path) -> None:
        """Every view with its position, at one moment of this process, replaced at one stroke."""
        scratch = path.with_suffix(".part")
        scratch.write_bytes(msgspec.msgpack.encode(self._views))
        scratch.replace(path)


def load_views(path: Path) -> list[View]:
    return msgspec.msgpack.decode(path.read_bytes(), type=list[View])


def _load(setup: Setup) -> list[View]:
    if setup.keep is not None and Path(setup.keep).exists():
        return load_views(Path(setup.keep))
    return [View(question, position=setup.begin, began=setup.begin) for question in setup.questions]


async def _send(socket: ClientConnection, message: object) -> None:
    await socket.send(msgspec.json.encode(message).decode())


if __name__ == "__main__":
    uvloop.run(Crowd(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Setup)).run())
