"""Published keys: fetched when they are needed, seldom enough, and never trusted too far."""

import asyncio
import base64
import contextlib
import json
import socket
import threading

import jwt
import pytest
from auth_helpers import SECRET, Issuer, KeySetServer, claims, token

from kalam_notify.auth import Authenticator, KeyNotYetKnown, TokenVerifier, key_set
from kalam_notify.auth.fetch import FetchFailed, fetch_key_set
from kalam_notify.auth.key_set import KeySet
from kalam_notify.auth.keys import PublishedKey, parse_key_set
from kalam_notify.config import AuthSettings, JwtSettings
from kalam_notify.errors import AuthenticationFailed, KeysUnavailable

PUBLISHED = b"thirty-three characters of secret"
ALL = ("RS256", "RS384", "ES256", "ES384", "EdDSA")


def verifier_of(server: KeySetServer, issuer: Issuer) -> TokenVerifier:
    server.body = issuer
    return TokenVerifier(JwtSettings(jwks_url=server.url, algorithms=ALL))


async def test_the_first_token_has_the_key_set_fetched(key_set_server, issuer) -> None:
    issuer.make("one")
    verifier = verifier_of(key_set_server, issuer)
    with pytest.raises(KeyNotYetKnown):
        verifier.verify(issuer.sign("one"))
    await verifier.refresh()
    assert verifier.verify(issuer.sign("one")).user_id == "alice"
    assert key_set_server.requests == 1


@pytest.mark.parametrize("algorithm", ALL)
async def test_keys_of_every_family_can_be_published(key_set_server, issuer, algorithm) -> None:
    issuer.make("one", algorithm)
    verifier = verifier_of(key_set_server, issuer)
    assert (await verifier.authenticate(issuer.sign("one"))).user_id == "alice"


async def test_a_key_published_without_algorithm_serves_its_whole_family(
    key_set_server, issuer
) -> None:
    issuer.make("one", "RS384", alg=None, use=None)
    verifier = verifier_of(key_set_server, issuer)
    assert await verifier.authenticate(issuer.sign("one"))


async def test_a_key_serves_no_other_algorithm_than_the_published_one(
    key_set_server, issuer
) -> None:
    issuer.make("one", "RS256", alg="RS384")
    verifier = verifier_of(key_set_server, issuer)
    with pytest.raises(AuthenticationFailed):
        await verifier.authenticate(issuer.sign("one"))


async def test_a_token_without_key_id_is_tried_with_every_key(key_set_server, issuer) -> None:
    for kid in ("one", "two", "three"):
        issuer.make(kid)
    verifier = verifier_of(key_set_server, issuer)
    assert await verifier.authenticate(issuer.sign("two", named=None))


async def test_many_callers_share_one_request(key_set_server, issuer) -> None:
    issuer.make("one")
    verifier = verifier_of(key_set_server, issuer)
    text = issuer.sign("one")
    found = await asyncio.gather(*(verifier.authenticate(text) for _ in range(50)))
    assert {identity.user_id for identity in found} == {"alice"}
    assert key_set_server.requests == 1


async def test_a_cancelled_caller_leaves_the_fetch_to_the_others(key_set_server, issuer) -> None:
    issuer.make("one")
    verifier = verifier_of(key_set_server, issuer)
    impatient = asyncio.create_task(verifier.authenticate(issuer.sign("one")))
    patient = asyncio.create_task(verifier.authenticate(issuer.sign("one")))
    await asyncio.sleep(0)
    impatient.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await impatient
    assert await patient


async def test_a_new_key_holds_from_its_first_token_on(key_set_server, issuer) -> None:
    issuer.make("one")
    verifier = verifier_of(key_set_server, issuer)
    await verifier.refresh()
    for kid in ("two", "three"):
        issuer.make(kid)
        assert await verifier.authenticate(issuer.sign(kid))
    assert key_set_server.requests == 3


async def test_a_new_key_holds_even_while_a_fetch_from_before_is_under_way(issuer) -> None:
    issuer.make("one")
    under_way, go_on = threading.Event(), threading.Event()
    documents = [issuer.key_set()]

    def fetch(url: str) -> tuple[PublishedKey, ...]:
        document = documents[-1]
        under_way.set()
        assert go_on.wait(20)
        return parse_key_set(json.loads(document))

    verifier = TokenVerifier(JwtSettings(jwks_url="https://a.b/c", algorithms=ALL))
    verifier.key_set = KeySet("https://a.b/c", fetch=fetch)
    earlier = asyncio.create_task(verifier.refresh())
    await asyncio.to_thread(under_way.wait)
    issuer.make("two")
    documents.append(issuer.key_set())
    later = asyncio.create_task(verifier.authenticate(issuer.sign("two")))
    await asyncio.sleep(0)
    go_on.set()
    assert (await later).user_id == "alice"
    await earlier


async def test_made_up_key_ids_are_refused_and_cause_few_requests(key_set_server, issuer) -> None:
    issuer.make("one")
    verifier = verifier_of(key_set_server, issuer)
    await verifier.refresh()
    for number in range(100):
        with pytest.raises(AuthenticationFailed):
            await verifier.authenticate(issuer.sign("one", named=f"made-up-{number}"))
    assert key_set_server.requests <= 2 * key_set.BURST
    assert await verifier.authenticate(issuer.sign("one"))


async def test_an_unknown_key_is_not_refused_while_it_cannot_be_looked_for(
    key_set_server, issuer
) -> None:
    issuer.make("one")
    verifier = verifier_of(key_set_server, issuer)
    await verifier.refresh()
    issuer.make("two")
    key_set_server.status = 500
    for _ in range(2 * key_set.BURST):
        with pytest.raises(KeysUnavailable):
            await verifier.authenticate(issuer.sign("two"))
    assert await verifier.authenticate(issuer.sign("one")), "known keys go on to hold"
    assert verifier.failures == {"keys_unavailable": 2 * key_set.BURST}


async def test_a_forged_signature_under_a_known_key_id_causes_no_request(
    key_set_server, issuer
) -> None:
    issuer.make("one")
    issuer.make("other")
    issuer.withdraw("other")
    verifier = verifier_of(key_set_server, issuer)
    await verifier.refresh()
    with pytest.raises(AuthenticationFailed, match="signature"):
        await verifier.authenticate(issuer.sign("other", named="one"))
    assert key_set_server.requests == 1


async def test_keys_outlive_a_reload_that_names_the_same_address(key_set_server, issuer) -> None:
    issuer.make("one")
    verifier = verifier_of(key_set_server, issuer)
    await verifier.refresh()
    key_set_server.status = 500
    same = JwtSettings(jwks_url=key_set_server.url, algorithms=ALL, leeway=5.0)
    assert TokenVerifier(same, before=verifier).verify(issuer.sign("one"))
    other = JwtSettings(jwks_url=f"{key_set_server.url}/other", algorithms=ALL)
    successor = TokenVerifier(other, before=verifier)
    assert successor.lacks_keys
    with pytest.raises(KeysUnavailable):
        await successor.authenticate(issuer.sign("one"))


async def test_a_withdrawn_key_holds_no_longer_not_even_from_the_cache(
    key_set_server, issuer
) -> None:
    issuer.make("one")
    issuer.make("two")
    verifier = verifier_of(key_set_server, issuer)
    text = issuer.sign("one")
    assert await verifier.authenticate(text)
    issuer.withdraw("one")
    await verifier.refresh()
    with pytest.raises(AuthenticationFailed):
        verifier.verify(text)


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b'{"keys": 5}', b"[" * 5000, b"\xff"])
async def test_a_document_that_is_no_key_set_leaves_the_keys_as_they_were(
    key_set_server, issuer, body
) -> None:
    issuer.make("one")
    verifier = verifier_of(key_set_server, issuer)
    await verifier.refresh()
    key_set_server.body = body
    await verifier.refresh()
    assert verifier.verify(issuer.sign("one"))
    assert key_set_server.requests == 2


async def test_unusable_entries_of_a_key_set_are_left_out(key_set_server, issuer) -> None:
    issuer.make("one", use="enc")
    issuer.make("two", kty="oct", k="c2VjcmV0")
    issuer.make("three", x="!")
    issuer.make("four", alg=5)
    issuer.make("good")
    verifier = verifier_of(key_set_server, issuer)
    assert await verifier.authenticate(issuer.sign("good"))
    for kid in ("one", "two", "three", "four"):
        with pytest.raises(AuthenticationFailed):
            verifier.verify(issuer.sign(kid))


async def test_a_published_symmetric_key_signs_nothing(key_set_server) -> None:
    entry = {"kty": "oct", "kid": "k", "alg": "HS256", "k": base64.b64encode(PUBLISHED).decode()}
    key_set_server.body = json.dumps({"keys": [entry]}).encode()
    settings = JwtSettings(
        jwks_url=key_set_server.url, secret=SECRET, algorithms=("HS256", "RS256")
    )
    verifier = TokenVerifier(settings)
    await verifier.refresh()
    with pytest.raises(AuthenticationFailed):
        verifier.verify(jwt.encode(claims(), PUBLISHED, "HS256", {"kid": "k"}))


async def test_without_any_keys_it_is_not_known_whether_a_token_holds(issuer) -> None:
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{placeholder.getsockname()[1]}/"
        issuer.make("one")
        verifier = TokenVerifier(
            JwtSettings(jwks_url=url, algorithms=(*ALL, "HS256"), secret=SECRET)
        )
        with pytest.raises(KeysUnavailable):
            await verifier.authenticate(issuer.sign("one"))
        assert verifier.lacks_keys
        assert await verifier.authenticate(token()), "the secret needs no key set"
        with pytest.raises(AuthenticationFailed):
            await verifier.authenticate(token()[:-6] + "AAAAAA")


async def test_keep_fresh_fetches_until_it_is_cancelled(
    key_set_server, issuer, monkeypatch
) -> None:
    issuer.make("one")
    monkeypatch.setattr(key_set, "LIFETIME", 0.0)
    verifier = verifier_of(key_set_server, issuer)
    keeper = asyncio.create_task(verifier.keep_fresh())
    await asyncio.to_thread(key_set_server.third_request.wait)
    keeper.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeper
    await verifier.refresh()


async def test_keep_fresh_without_a_key_set_is_done_at_once() -> None:
    await TokenVerifier(JwtSettings(secret=SECRET)).keep_fresh()


def test_an_error_status_fails_the_fetch(key_set_server) -> None:
    key_set_server.status = 503
    with pytest.raises(FetchFailed, match="503"):
        fetch_key_set(key_set_server.url)


def test_a_document_beyond_the_limit_fails_the_fetch(key_set_server) -> None:
    key_set_server.body = b'{"keys": []}' + b" " * 1000
    with pytest.raises(FetchFailed, match="larger than 500"):
        fetch_key_set(key_set_server.url, limit=500)
    assert fetch_key_set(key_set_server.url, limit=1012) == ()


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/keys"])
def test_a_redirect_out_of_http_fails_the_fetch(key_set_server, location) -> None:
    key_set_server.status, key_set_server.location = 302, location
    with pytest.raises(FetchFailed):
        fetch_key_set(key_set_server.url)


def test_a_server_that_trickles_is_given_up(key_set_server) -> None:
    key_set_server.body = b" " * 200_000
    with pytest.raises(FetchFailed, match="too long"):
        fetch_key_set(key_set_server.url, total=0.0)


async def test_authorize_fetches_keys_for_a_bearer_token(key_set_server, issuer) -> None:
    issuer.make("one")
    key_set_server.body = issuer
    jwt_settings = JwtSettings(jwks_url=key_set_server.url, algorithms=ALL)
    authenticator = Authenticator(AuthSettings(jwt=jwt_settings))
    identity = await authenticator.authorize(f"Bearer {issuer.sign('one')}", None)
    assert identity.user_id == "alice"
