"""Where a worker, and a position, stand on the log."""

from collections.abc import Callable

from kalam_notify.log import EventLog


class Standing:
    """`position` tells how far the fan-out is, `seconds_behind` how old what comes after one is."""

    def __init__(
        self,
        log: EventLog,
        position: Callable[[], int],
        seconds_behind: Callable[[int], float],
    ) -> None:
        self._log = log
        self._position = position
        # The age of the oldest change after a position; 0 at the end of the log.
        self.seconds_behind = seconds_behind

    @property
    def position(self) -> int:
        """How far the fan-out is."""
        return self._position()

    def bytes_behind(self, position: int) -> int:
        """About how many bytes of changes there are after a position: its share of the log."""
        log = self._log
        held = log.last_seq + 1 - log.first_seq
        if position >= log.last_seq or held <= 0:
            return 0
        share = min((log.last_seq - position) / held, 1.0)
        return round(share * log.statistics()["log_bytes"])
