"""The rows that are posted, and how their arrival can be proved.

Every row carries `x_load`: `<n, ten digits>.<monotonic ns, 19 digits>.<padding>`, where n counts up
from 1 within a run and the padding repeats n's digits. The client checks the padding against n,
measures the delay from the stamp, and adds up n per subscription: count and sum together prove
that exactly the posted rows arrived.
"""

import time
from collections.abc import Callable

Shape = Callable[[int, str], str]
"""Row n with its `x_load` text, as one JSON object."""


def load_text(n: int, stamp: int, padding: int) -> str:
    """The value of `x_load` for row n, stamped in nanoseconds, with `padding` bytes at its end."""
    digits = f"{n:010d}"
    return f"{digits}.{stamp:019d}.{(digits * (padding // 10 + 1))[:padding]}"


class RowMaker:
    """Makes rows one after the other and remembers what they add up to."""

    def __init__(self, shape: Shape | None = None, *, size: int = 200, padding: int | None = None):
        self._shape = shape or plain_shape
        bare = len(self._shape(1, load_text(1, time.monotonic_ns(), 0)))
        self.padding = max(0, size - bare) if padding is None else padding
        self.made = 0

    def row(self) -> str:
        """The next row, stamped now."""
        self.made += 1
        return self._shape(self.made, load_text(self.made, time.monotonic_ns(), self.padding))

    @staticmethod
    def sum_between(first: int, last: int) -> int:
        """What the numbers first..last add up to, as the client counts (modulo 2**64)."""
        return ((first + last) * (last - first + 1) // 2) % 2**64


def plain_shape(n: int, text: str) -> str:
    """About ten columns; 200 bytes with the usual padding."""
    return (
        f'{{"id":{n},"x_load":"{text}","g":{n % 1000},"c0":{n % 7},"c1":{n % 11},"c2":{n % 13},'
        f'"c3":"ab","c4":true,"c5":null}}'
    )


def change_payload(rows: list[str], subscription_id: str = "live") -> bytes:
    """The message that a server sends for these rows: what the floor's loop sends too."""
    numbered = ",".join(f'{row[:-1]},"_seq":"{n:07d}"}}' for n, row in enumerate(rows, 1))
    return (
        f'{{"type":"change","subscription_id":"{subscription_id}","change_type":"insert",'
        f'"rows":[{numbered}]}}'
    ).encode()
