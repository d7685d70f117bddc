"""The listening sockets that a worker inherits, and shares with everybody else."""

import os
import socket

from kalam_notify.supervision.child import _duplicate, _sockets
from kalam_notify.supervision.messages import Listening


def test_a_shared_socket_is_never_made_to_block() -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        bound.setblocking(False)
        inherited = _sockets(Listening(os.dup(bound.fileno()), os.dup(bound.fileno())))
        copies = _duplicate(inherited)
        # All of them are one open file, so each says what holds for the others.
        assert not os.get_blocking(bound.fileno())
        for pair in (inherited, copies):
            for listener in pair:
                assert listener is not None
                # What `dup` gives its copy; None would have it block.
                assert listener.gettimeout() == 0
                listener.close()
