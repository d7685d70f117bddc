"""What a renewed or a revoked token does to a conversation."""

from typing import Any

import pytest

from kalam_notify.model import Identity, Role, UserId, same_claims
from kalam_notify.protocol import close
from kalam_notify.protocol.session import IdentityChanged, Reply, Session, State


def alice(**claims: Any) -> Identity:
    return Identity(UserId("alice"), Role.USER, claims)


def renewed(before: Identity, after: Identity) -> bool:
    """Whether a renewed token has every subscription judged anew."""
    session = Session(anonymous_allowed=False)
    session.verified(before)
    return any(isinstance(action, IdentityChanged) for action in session.verified(after))


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, True), (1, 1.0), (True, 1.0), (0, False), (0, 0.0), (0.0, -0.0), ("1", 1), (None, False)],
)
def test_claims_of_unlike_types_are_other_claims_however_deep(one: Any, other: Any) -> None:
    for wrap in (
        lambda value: value,
        lambda value: [value],
        lambda value: {"a": value},
        lambda value: {"a": [{"b": [value]}]},
    ):
        before, after = alice(level=wrap(one)), alice(level=wrap(other))
        assert renewed(before, after)
        assert not renewed(before, alice(level=wrap(one)))
        assert not same_claims(before, after)


def test_the_order_of_claims_is_no_difference() -> None:
    assert not renewed(alice(a=1, b={"c": 1, "d": 2}), alice(b={"d": 2, "c": 1}, a=1))


def test_claims_that_come_and_go_are_a_difference() -> None:
    assert renewed(alice(), alice(a=None))
    assert renewed(alice(a=None), alice())


def test_big_integers_and_odd_text_can_be_compared() -> None:
    odd = {"n": 10**30, "t": "\ud800", "f": float("inf")}
    assert not renewed(alice(**odd), alice(**odd))
    assert renewed(alice(**odd), alice(**{**odd, "n": 10**30 + 1}))


def test_a_revoked_token_ends_the_conversation_once() -> None:
    session = Session(anonymous_allowed=False)
    session.verified(alice())
    told, ending = session.revoked()
    assert isinstance(told, Reply)
    assert b"auth_error" in told.payload
    assert ending == close.AUTH_REVOKED
    assert session.state is State.CLOSED
    assert not session.revoked()
