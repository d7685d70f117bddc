"""What can go wrong between a node and its stream.

LogFault
├── NewerFormat          a message that only a later release understands
└── StreamFault
    ├── NoAnswer         nobody answered, or cannot at the moment: ask again later
    ├── NoStream         there is no stream of this name
    ├── WrongLast        published on a condition that does not hold: another was first
    ├── TooLarge         more than the servers take in a message
    ├── Refused          any other no of a server
    ├── Trimmed          the stream begins behind what was to be read next
    ├── Astray           the stream did not give what follows, time and again
    └── CopyFault
        ├── NoPeer       no node offers its file
        └── CopyFailed   a copy that was begun came to nothing
StorageFault
└── WrongStream          the stream is made for something else: the start is refused
"""

from typing import Any

from kalam_notify.errors import LogFault, StorageFault


class NewerFormat(LogFault):
    """A message of a format that only a later release understands: this node goes no further."""

    def __init__(self, number: str) -> None:
        super().__init__(
            f"the stream holds messages of format {number}, which this release does not read:"
            " upgrade this node"
        )


class StreamFault(LogFault):
    """Something about the stream or the servers that keep it."""


class NoAnswer(StreamFault):
    """No answer now. `was_sent`: what was asked may have been done all the same."""

    def __init__(self, reason: str, *, was_sent: bool = True) -> None:
        super().__init__(reason)
        self.was_sent = was_sent


class NoStream(StreamFault):
    """The servers have no stream of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the NATS servers have no stream {name}")


class WrongLast(StreamFault):
    """The stream ends elsewhere than was expected: at `last_seq`, where the server tells it."""

    def __init__(self, last_seq: int | None) -> None:
        super().__init__(f"the stream ends at {last_seq}")
        self.last_seq = last_seq


class TooLarge(StreamFault):
    """A message of `size` bytes, headers included, of which the servers take `max_payload`."""

    def __init__(self, size: int, max_payload: int) -> None:
        super().__init__(f"a message of {size} bytes exceeds max_payload ({max_payload} bytes)")
        self.size = size
        self.max_payload = max_payload


class Refused(StreamFault):
    """What a server answers that no other class of these stands for; `code` is its err_code."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"{description} (NATS error {code})")
        self.code = code
        self.description = description


class Trimmed(StreamFault):
    """What was to be read next has left the stream, which begins at `first_seq` now."""

    def __init__(self, first_seq: int) -> None:
        super().__init__(f"the stream has been trimmed and begins at {first_seq}")
        self.first_seq = first_seq


class Astray(StreamFault):
    """The stream did not give what must follow on the sequence read last."""


class CopyFault(StreamFault):
    """A node's file that could not be had from another node."""


class NoPeer(CopyFault):
    """No node offers its file at the moment."""


class CopyFailed(CopyFault):
    """A copy that broke off, or is not what was offered; nothing of it is left."""


class WrongStream(StorageFault):
    """The stream was made for something else: its `field` is `found` where `wanted` is needed."""

    def __init__(self, name: str, field: str, found: Any, wanted: Any) -> None:
        super().__init__(
            f"stream {name} cannot hold a log: its {field} is {found!r}, not {wanted!r}."
            " Change it (nats stream edit), or name another stream in log.url"
        )
        self.field = field
        self.found = found
        self.wanted = wanted
