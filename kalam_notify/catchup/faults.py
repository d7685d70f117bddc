"""A log that cannot be read for a while: everybody who reads it waits, longer each time."""

import logging

from kalam_notify.errors import LogUnavailable

_FIRST_WAIT = 0.05
_LONGEST_WAIT = 5.0
_log = logging.getLogger("kalam_notify.catchup")


class ReadFaults:
    """What has gone wrong since a read last succeeded."""

    def __init__(self) -> None:
        self._wait = 0.0
        # Why the log cannot be read at the moment; None: it can, for all that is known.
        self.reason: str | None = None

    def met(self, fault: LogUnavailable) -> float:
        """A read has failed; the seconds to wait before the next attempt."""
        if self.reason is None:
            _log.error("%s; catching up waits for it", fault)
        self.reason = str(fault)
        self._wait = min(max(2 * self._wait, _FIRST_WAIT), _LONGEST_WAIT)
        return self._wait

    def over(self) -> None:
        """A read has succeeded."""
        if self.reason is not None:
            _log.warning("the log can be read again")
            self.reason, self._wait = None, 0.0
