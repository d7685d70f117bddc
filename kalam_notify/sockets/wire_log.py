"""What websockets has to say about the wire goes to one logger, at warning level and above."""

import logging

WIRE_LOG = logging.getLogger("kalam_notify.wire")
WIRE_LOG.setLevel(logging.WARNING)
