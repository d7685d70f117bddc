"""The scheduler on a clock that moves by what steps say they took."""

from typing import Any

import pytest

from kalam_notify.budget import Scheduler, Steps, Work, at_once

QUANTUM = 1.0


class Bench:
    """A scheduler, and works whose steps take the time they are told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self.scheduler = Scheduler(lambda: self.now, QUANTUM)
        self.log: list[str] = []

    def work(self, name: str, owner: str, steps: list[float], lane: str | None = None) -> Work[str]:
        return self.scheduler.put(self._steps(name, steps), owner, lane, self._over)

    def begin(
        self, name: str, owner: str, steps: list[float], seconds: float = QUANTUM
    ) -> tuple[Work[str], float]:
        return self.scheduler.put_and_begin(
            self._steps(name, steps), owner, None, self._over, seconds
        )

    def _steps(self, name: str, steps: list[float]) -> Steps[str]:
        for number, seconds in enumerate(steps):
            if number:
                yield
            self.now += seconds
            self.log.append(name)
        return name

    def _over(self, work: Work[str]) -> None:
        self.log.append(f"{work.result} over" if work.error is None else f"{work.error}")

    def serve(self, slices: int = 1) -> list[str]:
        """What was done in so many slices."""
        self.log.clear()
        for _ in range(slices):
            self.scheduler.serve()
        return [*self.log]

    def done_until(self, name: str) -> list[str]:
        """Serve until `name` is over; what was done before."""
        self.log.clear()
        while f"{name} over" not in self.log:
            assert self.scheduler
            self.scheduler.serve()
        return self.log[: self.log.index(f"{name} over")]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_slice_ends_when_its_time_is_used(bench: Bench) -> None:
    bench.work("a", "x", [0.25] * 10)
    assert bench.serve() == ["a"] * 4
    assert bench.now == 1.0


def test_a_slice_goes_on_with_the_next_owner_while_there_is_time(bench: Bench) -> None:
    bench.work("a", "x", [0.25])
    bench.work("b", "y", [0.25])
    assert bench.serve() == ["a", "a over", "b", "b over"]
    assert not bench.scheduler


def test_one_step_longer_than_a_slice_is_done_whole(bench: Bench) -> None:
    bench.work("a", "x", [7.0, 1.0])
    assert bench.serve() == ["a"]
    assert bench.now == 7.0


def test_an_owner_with_a_thousand_works_keeps_another_waiting_one_quantum_at_most(
    bench: Bench,
) -> None:
    for number in range(1000):
        bench.work(f"a{number}", "many", [0.5, 0.5])
    bench.serve(3)
    began = bench.now
    bench.work("b", "few", [0.1])
    bench.done_until("b")
    assert bench.now - began <= 2 * QUANTUM


def test_two_who_ask_for_much_get_the_same_time(bench: Bench) -> None:
    bench.work("a", "x", [0.1] * 1000)
    bench.work("b", "y", [0.3] * 1000)
    done = bench.serve(60)
    assert abs(done.count("a") * 0.1 - done.count("b") * 0.3) <= 2 * QUANTUM


def test_many_works_of_one_owner_are_no_claim_to_more_time(bench: Bench) -> None:
    for number in range(99):
        bench.work(f"a{number}", "x", [0.2] * 100, lane=str(number))
    bench.work("b", "y", [0.2] * 1000)
    done = bench.serve(80)
    assert abs(done.count("b") - len(done) / 2) <= 2 * QUANTUM / 0.2


def test_who_has_used_more_than_a_quantum_is_passed_over_until_it_is_repaid(
    bench: Bench,
) -> None:
    bench.work("long", "x", [10.0, 0.5, 0.5])
    bench.work("b", "y", [0.5] * 100)
    done = bench.serve(20)
    first, second, *_ = (place for place, name in enumerate(done) if name == "long")
    # Nine quanta beyond its own, in steps of half a quantum.
    assert 16 <= second - first <= 22


def test_a_debt_outlives_the_work_it_came_from(bench: Bench) -> None:
    bench.work("long", "x", [10.0])
    bench.work("b", "y", [0.5] * 100)
    bench.serve()
    bench.work("again", "x", [0.5])
    assert bench.done_until("again").count("b") >= 14


def test_a_debt_is_repaid_by_time(bench: Bench) -> None:
    bench.work("long", "x", [10.0])
    bench.serve()
    bench.now += 10
    bench.work("b", "y", [0.5] * 100)
    bench.work("again", "x", [0.5])
    assert len(bench.done_until("again")) <= 4


def test_debts_keep_nobody_from_working_while_nobody_else_has_work(bench: Bench) -> None:
    bench.work("a", "x", [50.0, 50.0, 0.1])
    bench.work("b", "y", [30.0, 30.0, 0.1])
    done = bench.serve(6)
    assert done.count("a over") == done.count("b over") == 1


def test_who_comes_anew_is_served_before_those_who_stand_in_line(bench: Bench) -> None:
    for owner in "abcdefgh":
        bench.work(owner, owner, [0.5] * 100)
    bench.serve(20)
    bench.work("new", "z", [0.5])
    assert len(bench.done_until("new")) <= 4


def test_newcomers_without_end_leave_the_others_a_quarter(bench: Bench) -> None:
    bench.work("old", "x", [1.0] * 100)
    bench.serve(2)
    done = []
    for number in range(100):
        bench.work("new", f"o{number}", [1.0])
        done += bench.serve()
    assert done.count("old") >= 20


def test_lanes_of_one_owner_take_turns(bench: Bench) -> None:
    bench.work("a", "x", [1.0] * 9, lane="one")
    bench.work("b", "x", [1.0] * 9, lane="one")
    bench.work("c", "x", [1.0] * 9, lane="two")
    assert bench.serve(8) == ["a", "c", "b", "c", "a", "c", "b", "c"]


def test_a_result_and_an_error_reach_who_handed_the_work_in(bench: Bench) -> None:
    def fails() -> Steps[None]:
        yield
        raise ValueError("no")

    told: list[Work[Any]] = []
    bad = bench.scheduler.put(fails(), "x", None, told.append)
    good = bench.work("b", "x", [0.1])
    bench.serve()
    assert told == [bad]
    assert isinstance(bad.error, ValueError)
    assert (good.result, good.error) == ("b", None)


def test_who_fails_at_being_told_harms_nobody(bench: Bench) -> None:
    def fail(work: Work[None]) -> None:
        raise RuntimeError("told badly")

    def nothing() -> Steps[None]:
        yield

    bench.scheduler.put(nothing(), "x", None, fail)
    bench.work("b", "x", [0.1])
    assert bench.serve() == ["b", "b over"]


def test_cancelled_work_is_not_done_and_leaves_no_place_behind(bench: Bench) -> None:
    first, second = bench.work("a", "x", [0.5] * 9), bench.work("b", "x", [0.5] * 9)
    bench.serve()
    first.cancel()
    second.cancel()
    second.cancel()
    assert not bench.scheduler
    assert bench.serve() == []
    assert bench.scheduler.owners == 0


def test_cancelled_work_runs_its_finally_at_once(bench: Bench) -> None:
    ended: list[bool] = []

    def steps() -> Steps[None]:
        try:
            while True:
                yield
                bench.now += 1
        finally:
            ended.append(True)

    work = bench.scheduler.put(steps(), "x")
    bench.serve()
    work.cancel()
    assert ended == [True]


def test_work_may_cancel_itself_and_others(bench: Bench) -> None:
    works: list[Work[None]] = []
    ended: list[bool] = []

    def steps() -> Steps[None]:
        try:
            works[0].cancel()
            other.cancel()
            yield
        finally:
            ended.append(True)

    works.append(bench.scheduler.put(steps(), "x"))
    other = bench.work("b", "y", [0.1])
    assert bench.serve() == []
    assert ended == [True]
    assert not bench.scheduler
    assert works[0].is_cancelled


def test_work_may_hand_in_work(bench: Bench) -> None:
    def steps() -> Steps[None]:
        bench.work("inner", "x", [0.1])
        yield

    bench.scheduler.put(steps(), "x", None, lambda _: bench.work("after", "x", [0.1]) and None)
    assert sorted(bench.serve()) == ["after", "after over", "inner", "inner over"]


def test_what_comes_while_nothing_waits_is_over_before_it_stands_in_line(bench: Bench) -> None:
    work, used = bench.begin("a", "x", [0.25] * 3)
    assert (work.result, used) == ("a", 0.75)
    assert bench.log == ["a"] * 3 + ["a over"]
    assert not bench.scheduler
    assert bench.scheduler.owners == 0


def test_what_does_not_end_in_its_time_stands_in_line_with_what_it_has_left(bench: Bench) -> None:
    work, used = bench.begin("a", "x", [0.25] * 9, seconds=0.5)
    assert (work.is_over, used) == (False, 0.5)
    bench.work("b", "y", [0.5] * 4)
    # Half a quantum, then its turn is over.
    assert bench.serve(2) == ["a", "a", "b", "b", "a", "a"]


@pytest.mark.parametrize("steps", [[10.0], [10.0, 0.5]])
def test_a_debt_is_made_by_what_is_begun_at_once_as_well(bench: Bench, steps: list[float]) -> None:
    bench.begin("long", "x", steps)
    bench.work("b", "y", [0.5] * 100)
    bench.work("again", "x", [0.5])
    assert bench.done_until("again").count("b") >= 14


@pytest.mark.parametrize("turn", range(4))
def test_a_debt_is_repaid_by_quanta_whoever_comes_anew_meanwhile(bench: Bench, turn: int) -> None:
    for number in range(turn):
        bench.work(f"before {number}", f"z{number}", [0.5])
        bench.serve()
    bench.begin("long", "x", [10.0, 0.5])
    bench.work("new", "y", [0.5] * 2)
    slices = 0
    while "long" not in bench.serve():
        slices += 1
        bench.work("new", f"y{slices}", [0.5] * 2)
    # Nine quanta beyond its own, of which those who stand in line get one in four.
    assert slices >= 30


def test_work_begun_at_once_may_fail_cancel_itself_and_hand_in_more(bench: Bench) -> None:
    def fails() -> Steps[str]:
        yield
        raise ValueError("no")

    def hands_in() -> Steps[str]:
        bench.work("inner", "x", [0.1])
        yield
        works[0].cancel()
        yield
        return "cancelled"

    bench.scheduler.put_and_begin(fails(), "x", None, bench._over, QUANTUM)
    assert bench.log == ["no"]
    works: list[Work[str]] = []
    work, _ = bench.scheduler.put_and_begin(hands_in(), "x", None, bench._over, 0.0)
    works.append(work)
    assert bench.serve(2) == ["inner", "inner over"]
    assert work.is_cancelled
    assert bench.scheduler.owners == 0


def test_at_once_gives_the_result() -> None:
    def steps() -> Steps[int]:
        yield
        return 7

    assert at_once(steps()) == 7


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_everything_is_done_and_time_is_shared(seed: int) -> None:
    import random

    rng = random.Random(seed)
    bench = Bench()
    names = []
    for number in range(200):
        name = f"w{number}"
        steps = [rng.choice([0.01, 0.3, 3.0]) for _ in range(rng.randint(0, 6))]
        work = bench.work(name, rng.choice("abcd"), steps, rng.choice("12"))
        if rng.random() < 0.1:
            work.cancel()
        else:
            names.append(name)
        if rng.random() < 0.5:
            bench.scheduler.serve()
    while bench.scheduler:
        bench.scheduler.serve()
    bench.scheduler.serve()
    assert sorted(entry for entry in bench.log if entry.endswith(" over")) == sorted(
        f"{name} over" for name in names
    )
    assert bench.scheduler.owners == 0
