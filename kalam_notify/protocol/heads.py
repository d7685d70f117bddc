"""What a subscriber's messages start with: the only bytes of a delivery that are its own."""

from functools import lru_cache

import orjson

from kalam_notify.protocol.deflate import deflate_head


class DeflatedHead:
    """A head for a connection that negotiated compression: as it is, and as DEFLATE blocks."""

    __slots__ = ("deflated", "plain")

    def __init__(self, plain: bytes) -> None:
        self.plain = plain
        self.deflated = deflate_head(plain)


Head = bytes | DeflatedHead
"""The start of one kind of message of one subscription.

Heads are compared by identity: subscriptions with the same id hold the same object, and the
fan-out makes one run of frames for all of them.
"""


@lru_cache(maxsize=4096)
def change_head(subscription_id: str, deflates: bool) -> Head:
    """What a `change` starts with, up to and including the comma after its id."""
    return _head(b"change", subscription_id, deflates)


@lru_cache(maxsize=256)
def batch_head(subscription_id: str, deflates: bool) -> Head:
    """The same for an `initial_data_batch`."""
    return _head(b"initial_data_batch", subscription_id, deflates)


def _head(kind: bytes, subscription_id: str, deflates: bool) -> Head:
    name = orjson.dumps(subscription_id)
    plain = b'{"type":"%b","subscription_id":%b,' % (kind, name)
    return DeflatedHead(plain) if deflates else plain
