"""The limits ingest asks for: the `limits` section of the configuration fits."""

from typing import Protocol


class IngestLimits(Protocol):
    """Sizes in bytes; `max_depth` counts the row itself as 1."""

    @property
    def max_body_bytes(self) -> int: ...

    @property
    def max_batch_changes(self) -> int: ...

    @property
    def max_row_bytes(self) -> int: ...

    @property
    def max_depth(self) -> int: ...

    @property
    def ingest_queue_bytes(self) -> int: ...
