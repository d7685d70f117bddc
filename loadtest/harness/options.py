"""What the user asked for on the command line."""

from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).resolve().parent.parent / "results"


@dataclass(frozen=True)
class Options:
    """One run of one question. None means the question's own default."""

    question: str
    small: bool = False
    subscribers: int | None = None
    # On each connection: one that gets rows and silent ones, or all of them active.
    subscriptions: int = 5
    active: bool = False
    # Of measuring per case, set-up not included.
    seconds: float | None = None
    repeat: int = 1
    # A server already running; all three, or none.
    url: str | None = None
    token: str | None = None
    pid: int | None = None
    # The directory in which the tool's own servers keep their data; None: the system's.
    scratch: Path | None = None
    results: Path = RESULTS
    counts: tuple[int, ...] | None = None
    kinds: tuple[str, ...] | None = None
    scenarios: tuple[str, ...] | None = None
    minutes: float = 5
    seed: int | None = None
    # The checkout whose kalam_notify `paths` looks at, and `store` compares with; None: this one.
    source: Path | None = None
    verbose: bool = False
    quiet: bool = False
    # Other servers to measure in the same run.
    beside: tuple[str, ...] | None = None
    # Use the client in Python although a compiler is there.
    python_client: bool = False

    @property
    def silent(self) -> int:
        """Silent subscriptions on each connection."""
        return self.subscriptions - 1

    def many(self, full: int, small: int) -> int:
        """How many subscribers: as asked, else the question's own number."""
        return self.subscribers or (small if self.small else full)

    def sizes(self, full: tuple[int, ...], small: int) -> tuple[int, ...]:
        """The numbers of subscribers to try one after the other."""
        if self.subscribers:
            return (self.subscribers,)
        return (small,) if self.small else full

    def time(self, full: float, small: float = 0.5) -> float:
        """Seconds of measuring per case."""
        return self.seconds or (small if self.small else full)
