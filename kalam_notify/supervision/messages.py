"""What supervisor and workers say to each other, as frozen values.

A configuration travels pickled, as multiprocessing sends what a new process is to start with: both
ends are this program, and nobody else holds the socket pair.
"""

import pickle
from typing import Self

import msgspec

from kalam_notify.administration.questions import Answer, Question
from kalam_notify.config import Config
from kalam_notify.scrape import Scrape


class Listening(msgspec.Struct, frozen=True):
    """A worker's slot: the descriptors of its listening sockets, the same in every process."""

    public: int
    internal: int | None


class _Configured(msgspec.Struct, frozen=True, tag=True):
    pickled: bytes

    def config(self) -> Config:
        config: Config = pickle.loads(self.pickled)
        return config


class Launch(_Configured, frozen=True, tag=True):
    """To a new worker: who it is (from 0), everybody's sockets, and what to run with."""

    number: int
    listening: list[Listening]
    # Whether the server runs with --dev.
    dev: bool

    @classmethod
    def of(cls, config: Config, number: int, listening: list[Listening], dev: bool) -> Self:
        return cls(pickle.dumps(config), number, listening, dev)


class Reload(_Configured, frozen=True, tag=True):
    """To a worker: take this configuration; answered by Reloaded."""

    @classmethod
    def of(cls, config: Config) -> Self:
        return cls(pickle.dumps(config))


class Crew(msgspec.Struct, frozen=True, tag=True):
    """To a worker, whenever it changes: which slots (numbers) have no worker that is ready."""

    vacant: list[int]


class Measure(msgspec.Struct, frozen=True, tag=True):
    """To a worker: tell what you have counted; answered by Measured."""

    request: int


class Ping(msgspec.Struct, frozen=True, tag=True):
    """To a worker, now and then: is your loop turning? Answered by Pong."""


class Gathered(msgspec.Struct, frozen=True, tag=True):
    """To a worker: the answer to its Gather."""

    request: int
    scrape: Scrape


class Asked(msgspec.Struct, frozen=True, tag=True):
    """To a worker: a question of one of you; answered by Replied."""

    request: int
    question: Question


class Answered(msgspec.Struct, frozen=True, tag=True):
    """To a worker: the answer to its Ask; None: there is no such worker, or it failed."""

    request: int
    answer: Answer | None


class Ready(msgspec.Struct, frozen=True, tag=True):
    """From a worker: it accepts connections."""


class Refused(msgspec.Struct, frozen=True, tag=True):
    """From a worker, its last word: an operator's fault keeps it from starting."""

    why: str
    # Whether that is damage of the data, and no setting's fault.
    is_damage: bool = False


class Reloaded(msgspec.Struct, frozen=True, tag=True):
    """From a worker: whether it has taken the configuration."""

    taken: bool


class Gather(msgspec.Struct, frozen=True, tag=True):
    """From a worker: what have all of us counted? Answered by Gathered."""

    request: int


class Measured(msgspec.Struct, frozen=True, tag=True):
    """From a worker: what it has counted so far."""

    request: int
    scrape: Scrape


class Ask(msgspec.Struct, frozen=True, tag=True):
    """From a worker: a question to the worker in a slot (from 0). Answered by Answered."""

    request: int
    number: int
    question: Question


class Replied(msgspec.Struct, frozen=True, tag=True):
    """From a worker: the answer to an Asked; None: it failed."""

    request: int
    answer: Answer | None


class Pong(msgspec.Struct, frozen=True, tag=True):
    """From a worker: it is."""


ToWorker = Launch | Reload | Crew | Measure | Ping | Gathered | Asked | Answered
FromWorker = Ready | Refused | Reloaded | Gather | Measured | Pong | Ask | Replied
