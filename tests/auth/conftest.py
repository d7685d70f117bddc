"""Fixtures of tests/auth; what they are made of is in auth_helpers."""

import threading
from collections.abc import Iterator

import pytest
from auth_helpers import Issuer, KeySetServer


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def key_set_server() -> Iterator[KeySetServer]:
    served = KeySetServer()
    thread = threading.Thread(target=served.server.serve_forever, args=(0.01,))
    thread.start()
    yield served
    served.server.shutdown()
    thread.join()
    served.server.server_close()
