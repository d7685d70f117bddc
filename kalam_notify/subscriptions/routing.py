"""Which filters see a change, and as what, from their answers to its two images."""

from collections.abc import Hashable, Sequence
from typing import TypeVar

from kalam_notify.model import Change
from kalam_notify.subscriptions.deltas import Delta, delta

N = TypeVar("N", bound=Hashable)


def one_image(
    change: Change, before: Sequence[N] | None, after: Sequence[N] | None
) -> Sequence[tuple[N, Delta]]:
    """For a change with one image (or none), and who matches it."""
    if after is not None:
        seen = delta(change, False, True)
        assert seen is not None
        return [(node, seen) for node in after]
    if before is not None and change.kind == "delete":
        return [(node, Delta.DELETE) for node in before]
    return ()


def both_images(
    change: Change, before: Sequence[N], after: Sequence[N]
) -> Sequence[tuple[N, Delta]]:
    """For a change with an old image and a new one, and who matches each."""
    routed = []
    left = dict.fromkeys(before)
    for node in after:
        was_in = node in left
        if was_in:
            del left[node]
        seen = delta(change, was_in, True)
        if seen is not None:
            routed.append((node, seen))
    for node in left:
        seen = delta(change, True, False)
        if seen is not None:
            routed.append((node, seen))
    return routed
