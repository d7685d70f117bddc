"""The helper that all whole-server tests stand on: asked by any thread at any moment."""

import threading
from collections.abc import Callable

import yaml
from helpers.server import Server, insert


def test_others_sign_and_post_while_the_server_is_configured_and_started_again(
    start_server: Callable[..., Server],
) -> None:
    server = start_server()
    enough = threading.Event()
    signed: list[str] = []
    faults: list[BaseException] = []

    def sign() -> None:
        try:
            while not enough.is_set():
                signed.append(server.token())
        except BaseException as fault:
            faults.append(fault)

    signers = [threading.Thread(target=sign) for _ in range(2)]
    for signer in signers:
        signer.start()
    try:
        for _ in range(200):
            server.configure(yaml.safe_dump(server.settings))
        server.kill()
        server.start()
    finally:
        enough.set()
        for signer in signers:
            signer.join()
    assert faults == []
    assert signed
    assert server.post(insert("app.orders", {"id": 1}))["accepted"] == 1


def test_a_server_that_is_started_again_keeps_its_address(
    start_server: Callable[..., Server],
) -> None:
    server = start_server(server={"workers": 2})
    first = server.url
    server.kill()
    assert server.start().url == first
