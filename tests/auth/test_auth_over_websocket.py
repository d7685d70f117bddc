"""Tokens whose key is not there yet, as a connection meets them."""

import threading
from pathlib import Path

import pytest
from auth_helpers import Issuer, KeySetServer
from helpers.server import running_server
from helpers.wire import wire


class HeldIssuer(Issuer):
    """Publishes its keys once the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.published = threading.Event()

    def key_set(self) -> bytes:
        self.published.wait(20)
        return super().key_set()


@pytest.mark.parametrize("known", [True, False])
async def test_what_is_said_while_the_keys_are_fetched_is_heard_afterwards_in_order(
    key_set_server: KeySetServer, tmp_path: Path, known: bool
) -> None:
    issuer = HeldIssuer()
    issuer.make("k1")
    key_set_server.body = issuer
    jwt = {"secret": None, "jwks_url": key_set_server.url, "algorithms": ["ES256"]}
    with running_server(tmp_path, {"auth": {"jwt": jwt, "anonymous": True}}) as server:
        async with wire(server.ws_url) as client, wire(server.ws_url) as other:
            token = issuer.sign("k1", named="" if known else "k2")
            await client.say(type="authenticate", method="jwt", token=token)
            await client.subscribe("first", "SELECT * FROM app.notes")
            await client.say(type="unsubscribe", subscription_id="first")
            await client.subscribe("second", "SELECT * FROM app.notes", {"last_rows": 0})
            # Another connection is served meanwhile.
            await other.live("s", "SELECT * FROM app.orders")
            issuer.published.set()
            if not known:
                await client.hear_type("auth_error")
                assert (await client.closed())[0] == 1008
                return
            assert (await client.hear_type("auth_success"))["user"] == "alice"
            assert (await client.hear_type("subscription_ack"))["subscription_id"] == "first"
            assert (await client.hear_type("subscription_ack"))["subscription_id"] == "second"
            await client.hear_type("initial_data_batch")
