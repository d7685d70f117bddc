"""Doorbells: everybody else is rung, the dead are cleared away."""

import asyncio
import os
from pathlib import Path

from log_kit import files

from kalam_notify.log.following import Doorbell


async def test_a_ring_reaches_everybody_else(tmp_path: Path) -> None:
    bells = [Doorbell(tmp_path) for _ in range(3)]
    rung = [asyncio.Event() for _ in bells]
    for bell, event in zip(bells, rung, strict=True):
        bell.hang(event.set)
    assert bells[0].ring_others() == 2
    async with asyncio.timeout(30):
        await asyncio.gather(rung[1].wait(), rung[2].wait())
    assert not rung[0].is_set()
    for bell in bells:
        bell.take_down()
    assert files(tmp_path) == []


async def test_a_bell_that_is_hung_or_taken_down_later_is_known(tmp_path: Path) -> None:
    ringer, first, second = Doorbell(tmp_path), Doorbell(tmp_path), Doorbell(tmp_path)
    for count, change in enumerate(
        (lambda: None, lambda: first.hang(print), lambda: second.hang(print))
    ):
        change()
        # However long nothing has come or gone.
        os.utime(tmp_path, (count, count))
        assert ringer.ring_others() == ringer.ring_others() == count
    first.take_down()
    assert ringer.ring_others() == 1
    second.take_down()
    assert ringer.ring_others() == 0


async def test_a_full_pipe_is_rung_enough(tmp_path: Path) -> None:
    ringer, sleeper = Doorbell(tmp_path), Doorbell(tmp_path)
    sleeper.hang(lambda: None)
    pipe = os.open(tmp_path / files(tmp_path)[0], os.O_WRONLY | os.O_NONBLOCK)
    try:
        while True:
            os.write(pipe, b"!" * 4096)
    except BlockingIOError:
        os.close(pipe)
    assert ringer.ring_others() == 1
    sleeper.take_down()


async def test_the_pipe_of_a_dead_process_is_removed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "doorbell-1-dead")
    (tmp_path / "kalam.db").touch()
    assert Doorbell(tmp_path).ring_others() == 0
    assert files(tmp_path) == ["kalam.db"]


async def test_a_bell_taken_down_twice_or_never_hung_is_no_fault(tmp_path: Path) -> None:
    bell = Doorbell(tmp_path)
    bell.take_down()
    bell.hang(lambda: None)
    bell.take_down()
    bell.take_down()
