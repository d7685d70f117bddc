"""An address that cannot be listened on is told with what to do."""

import errno
import socket

import pytest

from kalam_notify.config import Address
from kalam_notify.errors import ConfigurationFault
from kalam_notify.sockets.listeners import bind


def refusal(address: Address) -> str:
    with pytest.raises(ConfigurationFault) as refused:
        bind(address, key="server.internal_listen").close()
    return str(refused.value)


def test_an_address_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = refusal(Address("127.0.0.1", port))
    assert told.startswith(f"address: server.internal_listen: 127.0.0.1:{port}: cannot listen")
    assert "end the program that listens there" in told


def test_an_address_of_another_machine() -> None:
    # https://www.rfc-editor.org/rfc/rfc5737: nobody has this one.
    assert "an address that this machine has" in refusal(Address("192.0.2.7", 0))


def test_a_port_that_wants_a_right(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, where: object) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    assert "CAP_NET_BIND_SERVICE" in refusal(Address("127.0.0.1", 80))


def test_any_other_fault_has_a_cure_as_well() -> None:
    assert "give another address" in refusal(Address("no such host.invalid", 1))
