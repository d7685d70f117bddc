"""What must survive a crash and is not in the slot: how far the first copy has come."""

import os
from pathlib import Path
from typing import Literal

import msgspec

from pgfeed.faults import SetupFault

Phase = Literal["starting", "copying", "streaming"]


class State(msgspec.Struct, frozen=True):
    """One line of the story in `pgfeed`, as it stands on disk.

    Invariant: the slot's changes are posted only in `streaming`, spooled rows only in `copying`;
    nothing is posted in `starting`.
    """

    slot: str
    # PostgreSQL's system identifier and database: a slot name alone does not say whose it is.
    system: str
    database: str
    # In the order given. Positions within a transaction count the changes of these tables only,
    # so the ids hold for this very set.
    tables: tuple[str, ...]
    numeric: str
    # Random, part of every id: a second start from nothing never meets the ids of the first.
    generation: str
    phase: Phase = "starting"
    # Byte offset in the spool before which every row has been acknowledged.
    posted: int = 0

    @property
    def id_prefix(self) -> str:
        return f"{self.slot}.{self.generation}"

    def require_same(self, other: "State") -> None:
        """Refuse to go on under options that would change the meaning of the ids."""
        for name in ("slot", "system", "database", "numeric"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise SetupFault(
                    f"the state directory belongs to {name} {mine!r}, not {theirs!r}: "
                    "give each feeder its own --state-dir"
                )
        if set(self.tables) != set(other.tables):
            raise SetupFault(
                f"this slot was started for the tables {', '.join(self.tables)}: "
                "feed other tables through another --slot and --state-dir"
            )


class StateDirectory:
    """The directory of `state.json`, the spool of the copy, and the key lists of truncations."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spool = path / "copy.ndjson"
        self._file = path / "state.json"

    def load(self) -> State | None:
        """The state left by an earlier run, None for a first start."""
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=State)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise SetupFault(f"{self._file}: not a state of this feeder: {error}") from error

    def save(self, state: State) -> State:
        self.path.mkdir(parents=True, exist_ok=True)
        write_durably(self._file, msgspec.json.encode(state))
        return state

    def truncation(self, label: str) -> Path:
        """Where the keys that one TRUNCATE removes are listed."""
        return self.path / f"truncate-{label}.ndjson"

    def forget_truncations(self) -> None:
        """To be called once the slot has passed them."""
        for path in self.path.glob("truncate-*.ndjson"):
            path.unlink()


def write_durably(path: Path, content: bytes) -> None:
    """Replace a file's content at one stroke; after a power cut it is the old or the new one."""
    scratch = path.with_suffix(".part")
    with scratch.open("wb") as file:
        file.write(content)
        flush_to_disk(file.fileno())
    settle(scratch, path)


def settle(scratch: Path, path: Path) -> None:
    """Give a finished scratch file its name, and have the name on disk."""
    scratch.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def flush_to_disk(descriptor: int) -> None:
    os.fsync(descriptor)
