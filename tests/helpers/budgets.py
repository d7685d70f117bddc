"""Budgets that do everything at once, or when told to: for tests of what is handed in."""

from types import SimpleNamespace
from typing import Any

from kalam_notify.budget import Work


class AtOnce:
    def enter(self, steps: Any, owner: Any, lane: Any = None, done: Any = None) -> Any:
        work = SimpleNamespace(is_over=True, error=None, cancel=lambda: None)
        try:
            for _ in steps:
                pass
        except Exception as error:
            work.error = error
        if done is not None:
            done(work)
        return work


class Later:
    """Does nothing until told to."""

    def __init__(self) -> None:
        self.works: list[Work[Any]] = []
        # Of all that was ever handed in.
        self.owners: list[Any] = []

    def enter(self, steps: Any, owner: Any, lane: Any = None, done: Any = None) -> Work[Any]:
        self.owners.append(owner)
        work: Work[Any] = Work(steps, done)
        self.works.append(work)
        return work

    def do(self) -> None:
        """Do everything, and what that leads to."""
        while self.works:
            work = self.works.pop(0)
            while not work.is_over:
                work._step()
