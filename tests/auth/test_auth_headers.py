"""API keys, and the headers a request authenticates with."""

import hashlib

import pytest
from auth_helpers import SECRET, token

from kalam_notify.auth import Authenticator, bearer_token
from kalam_notify.config import ApiKey, AuthSettings, JwtSettings
from kalam_notify.errors import AuthenticationFailed
from kalam_notify.model import Role


def api_key(name: str, key: str, role: str = "service") -> ApiKey:
    return ApiKey(name, hashlib.sha256(key.encode()).hexdigest(), role)


@pytest.fixture
def authenticator() -> Authenticator:
    keys = (api_key("feeder", "key-1"), api_key("admin", "key-2", "dba"))
    return Authenticator(AuthSettings(jwt=JwtSettings(secret=SECRET), api_keys=keys))


def test_an_api_key_stands_for_its_name_and_role(authenticator) -> None:
    feeder, admin = (authenticator.identify(None, key) for key in ("key-1", "key-2"))
    assert (feeder.user_id, feeder.role, feeder.expires_at) == ("feeder", Role.SERVICE, None)
    assert (admin.user_id, admin.role) == ("admin", Role.DBA)


@pytest.mark.parametrize(
    "key", ["", "key-3", "KEY-1", "\ud800", hashlib.sha256(b"key-1").hexdigest()]
)
def test_other_api_keys_are_refused(authenticator, key) -> None:
    with pytest.raises(AuthenticationFailed, match="API key"):
        authenticator.identify(None, key)


def test_a_wrong_api_key_is_refused_whatever_token_comes_with_it(authenticator) -> None:
    with pytest.raises(AuthenticationFailed, match="API key"):
        authenticator.identify(f"Bearer {token()}", "key-3")


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER   ", "Bearer\t", " bearer \t"])
def test_a_bearer_token_stands_for_its_user(authenticator, scheme) -> None:
    assert authenticator.identify(scheme + token(), None).user_id == "alice"


async def test_authorize_answers_what_identify_answers(authenticator) -> None:
    assert (await authenticator.authorize(f"Bearer {token()}", None)).user_id == "alice"
    assert (await authenticator.authorize(None, "key-1")).user_id == "feeder"


def test_a_request_without_either_header_is_refused(authenticator) -> None:
    with pytest.raises(AuthenticationFailed, match="Bearer"):
        authenticator.identify(None, None)


@pytest.mark.parametrize("value", ["", "Basic YTpi", "token", "Digest a=b", "BearerX a", "Basic"])
def test_another_scheme_is_no_token(authenticator, value) -> None:
    assert bearer_token(value) is None
    with pytest.raises(AuthenticationFailed, match="send a Bearer token"):
        authenticator.identify(value, None)
    assert authenticator.identify(value, "key-1").user_id == "feeder"


@pytest.mark.parametrize("value", ["Bearer", "Bearer ", "bearer", "Bearer a b", "Bearer \t"])
def test_a_bearer_header_without_a_token_is_refused(authenticator, value) -> None:
    assert bearer_token(value) is not None
    with pytest.raises(AuthenticationFailed, match="malformed"):
        authenticator.identify(value, None)


@pytest.mark.parametrize("spoiled", ["{}\n", " {}", "\ufeff{}", "{}\r\n", "\t{} "])
def test_white_space_around_a_token_is_not_part_of_it(authenticator, spoiled) -> None:
    assert authenticator.tokens.verify(spoiled.format(token())).user_id == "alice"


def test_what_is_refused_is_counted_by_reason(authenticator) -> None:
    for authorization, api_key in (
        (None, None),
        ("Basic YTpi", None),
        (None, "key-3"),
        ("Bearer x", None),
        (f"Bearer {token(exp=1)}", None),
        (f"Bearer {token(role='root')}", None),
        (f"Bearer {token()}x", None),
    ):
        with pytest.raises(AuthenticationFailed):
            authenticator.identify(authorization, api_key)
    assert authenticator.tokens.failures == {
        "missing": 2,
        "api_key": 1,
        "malformed": 1,
        "expired": 1,
        "role": 1,
        "signature": 1,
    }
