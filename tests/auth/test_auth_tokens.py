"""Which tokens hold, and whom they stand for."""

import base64
import json
import time
from typing import Any

import jwt
import pytest
from auth_helpers import SECRET, claims, new_private_key, public_pem, token

from kalam_notify.auth import KeyNotYetKnown, TokenVerifier, sign
from kalam_notify.config import JwtSettings
from kalam_notify.errors import AuthenticationFailed, ConfigurationFault
from kalam_notify.model import Role

HS = JwtSettings(secret=SECRET)


def refused(verifier: TokenVerifier, text: str, now: float | None = None) -> str:
    with pytest.raises(AuthenticationFailed) as caught:
        verifier.verify(text, now)
    assert not isinstance(caught.value, KeyNotYetKnown)
    return caught.value.message


def b64(value: object) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def test_a_token_stands_for_its_user_role_and_claims() -> None:
    expires = int(time.time()) + 60
    identity = TokenVerifier(HS).verify(token(sub="bob", role="dba", tenant="acme", exp=expires))
    assert (identity.user_id, identity.role) == ("bob", Role.DBA)
    assert identity.claims["tenant"] == "acme"
    assert identity.expires_at == expires


def test_a_token_without_a_role_is_a_users() -> None:
    assert TokenVerifier(HS).verify(token()).role is Role.USER


@pytest.mark.parametrize("role", ["root", "anonymous", "", "Service", None, 2, ["service"], {}])
def test_an_unknown_role_is_refused(role) -> None:
    text = jwt.encode({**claims(), "role": role}, SECRET, "HS256")
    assert "role is unknown" in refused(TokenVerifier(HS), text)


@pytest.mark.parametrize("user", ["a", "x" * 128, "Zoë 123", "用户"])
def test_users_of_up_to_128_printable_characters_hold(user) -> None:
    assert TokenVerifier(HS).verify(token(sub=user)).user_id == user


@pytest.mark.parametrize("user", ["", "x" * 129, "a\nb", "a\x00", "\u202e", "\ud800", 5, ["a"]])
def test_other_users_are_refused(user) -> None:
    header, payload = {"alg": "HS256"}, {"sub": user, "exp": time.time() + 60}
    signed = f"{b64(header)}.{b64(payload)}"
    text = jwt.PyJWS().encode(json.dumps(payload).encode(), SECRET, "HS256")
    assert signed
    assert "sub" in refused(TokenVerifier(HS), text)


def test_a_token_without_user_is_refused() -> None:
    assert "sub" in refused(TokenVerifier(HS), token(sub=None))


def test_a_token_without_expiry_is_refused() -> None:
    assert "exp" in refused(TokenVerifier(HS), token(exp=None))


@pytest.mark.parametrize(
    "exp", ["tomorrow", True, float("inf"), float("nan"), 10**400, [], -(2**70)]
)
def test_an_expiry_that_is_no_time_is_refused(exp) -> None:
    payload = json.dumps({"sub": "a", "exp": exp}).encode()
    assert "exp" in refused(TokenVerifier(HS), jwt.PyJWS().encode(payload, SECRET, "HS256"))


def test_a_token_holds_until_its_expiry_and_leeway_cached_or_not() -> None:
    verifier = TokenVerifier(HS)
    text = token(exp=1000)
    assert verifier.verify(text, now=1059.9).user_id == "alice"
    assert verifier.verify(text, now=1059.9).user_id == "alice"
    assert "expired" in refused(verifier, text, now=1060.0)
    assert "expired" in refused(TokenVerifier(HS), text, now=1060.0)


def test_a_token_does_not_hold_before_its_time() -> None:
    text = token(nbf=1000, exp=5000)
    assert "not valid yet" in refused(TokenVerifier(HS), text, now=939)
    assert TokenVerifier(HS).verify(text, now=940)


def test_issuer_and_audience_are_checked_when_they_are_set() -> None:
    verifier = TokenVerifier(JwtSettings(secret=SECRET, issuer="me", audience="you"))
    assert verifier.verify(token(iss="me", aud="you"))
    assert verifier.verify(token(iss="me", aud=["them", "you"]))
    for wrong in ({"aud": "you"}, {"iss": "I", "aud": "you"}, {"iss": "me ", "aud": "you"}):
        assert "issuer" in refused(verifier, token(**wrong))
    for wrong in ({"iss": "me"}, {"iss": "me", "aud": "yours"}, {"iss": "me", "aud": {"you": 1}}):
        assert "audience" in refused(verifier, token(**wrong))
    assert TokenVerifier(HS).verify(token(iss="anybody", aud="anything"))


def test_a_signature_of_another_secret_is_refused() -> None:
    text = jwt.encode(claims(), SECRET + "x", "HS256")
    assert "signature" in refused(TokenVerifier(HS), text)
    assert "signature" in refused(TokenVerifier(HS), token()[:-2] + "AA")


def test_only_allowed_algorithms_hold() -> None:
    stronger = jwt.encode(claims(), SECRET * 2, "HS512")
    assert "algorithm" in refused(TokenVerifier(JwtSettings(secret=SECRET * 2)), stronger)
    assert TokenVerifier(JwtSettings(secret=SECRET * 2, algorithms=("HS256", "HS512"))).verify(
        stronger
    )


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "", None, 5, ["HS256"], "RS256"])
def test_an_unsigned_token_is_refused(alg) -> None:
    text = f"{b64({'alg': alg, 'typ': 'JWT'})}.{b64(claims())}."
    refused(TokenVerifier(HS), text)


def test_a_public_key_is_never_taken_for_a_secret() -> None:
    pem = public_pem(new_private_key("RS256"))
    settings = JwtSettings(secret=SECRET, public_key=pem, algorithms=("HS256", "RS256"))
    header, payload = b64({"alg": "HS256"}), b64(claims())
    import hashlib
    import hmac

    mac = hmac.new(pem.encode(), f"{header}.{payload}".encode(), hashlib.sha256).digest()
    assert "signature" in refused(TokenVerifier(settings), f"{header}.{payload}.{b64(mac)}")


MALFORMED = [
    "",
    ".",
    "..",
    "a.b",
    "a.b.c",
    "not a token",
    "Bearer x.y.z",
    "é.é.é",
    "\ud800.a.b",
    "\x00",
    f"{b64([])}.{b64({})}.AA",
    f"{b64(b'[' * 1000)}.{b64({})}.AA",
    f"{b64({'alg': 'HS256', 'kid': 5})}.{b64({})}.AA",
    f"{b64({'alg': 'HS256', 'crit': ['x']})}.{b64({})}.AA",
    f"{b64({'alg': 'HS256', 'b64': False})}..AA",
    "a" * 20_000,
    f"{b64({'alg': 'HS256', 'x': 'y' * 3000})}.{b64({})}.AA",
]


@pytest.mark.parametrize("text", MALFORMED)
def test_what_is_no_token_is_refused(text) -> None:
    refused(TokenVerifier(HS), text)


@pytest.mark.parametrize(
    "payload", [b"", b"5", b"[]", b"\xff", b"[" * 5000, b'{"sub": "a"', b"null"]
)
def test_a_signed_payload_that_is_no_object_is_refused(payload) -> None:
    refused(TokenVerifier(HS), jwt.PyJWS().encode(payload, SECRET, "HS256"))


@pytest.mark.parametrize("algorithm", ["RS256", "PS384", "ES256", "ES384", "ES512", "EdDSA"])
def test_public_keys_of_every_family_verify_their_own_tokens_only(algorithm, tmp_path) -> None:
    key, stranger = new_private_key(algorithm), new_private_key(algorithm)
    file = tmp_path / "issuer.pem"
    file.write_text(public_pem(key))
    for text in (public_pem(key), str(file), public_pem(key).replace("\n", "\\n")):
        verifier = TokenVerifier(JwtSettings(public_key=text, algorithms=(algorithm,)))
        assert verifier.verify(jwt.encode(claims(), key, algorithm)).user_id == "alice"
        assert "signature" in refused(verifier, jwt.encode(claims(), stranger, algorithm))


def test_the_cache_is_bounded_and_answers_with_the_same_identity() -> None:
    verifier = TokenVerifier(HS, cached_tokens=2)
    texts = [token(sub=name) for name in "abc"]
    first = verifier.verify(texts[0])
    assert verifier.verify(texts[0]) is first
    verifier.verify(texts[1])
    verifier.verify(texts[2])
    assert verifier.verify(texts[0]) is not first
    assert len(verifier._cache) == 2


def test_a_refused_token_is_not_remembered() -> None:
    verifier = TokenVerifier(HS)
    refused(verifier, token(role="root"))
    assert not verifier._cache


def test_a_signed_token_holds_for_its_own_settings() -> None:
    settings = JwtSettings(secret=SECRET, issuer="me", audience="you", algorithms=("HS384",))
    text = sign(settings, "bob", role=Role.SERVICE, ttl=10, claims={"tenant": "acme"}, now=1000)
    identity = TokenVerifier(settings).verify(text, now=1001)
    assert (identity.user_id, identity.role, identity.expires_at) == ("bob", Role.SERVICE, 1010.0)
    assert identity.claims["tenant"] == "acme"
    assert jwt.get_unverified_header(text)["alg"] == "HS384"


def test_a_short_secret_signs_and_verifies_without_a_word(recwarn) -> None:
    settings = JwtSettings(secret="short")
    assert TokenVerifier(settings).verify(sign(settings, "bob"))
    assert not recwarn.list


def test_only_a_secret_can_sign() -> None:
    with pytest.raises(ConfigurationFault, match="give a secret"):
        sign(JwtSettings(), "bob")
    with pytest.raises(ConfigurationFault, match="only HS256"):
        sign(JwtSettings(jwks_url="https://a.b", algorithms=("RS256",)), "bob")


@pytest.mark.parametrize(
    "wrong",
    [
        {"user": ""},
        {"user": "a\n"},
        {"user": "a", "role": Role.ANONYMOUS},
        {"user": "a", "claims": {"exp": 1}},
    ],
)
def test_a_token_that_no_server_would_take_is_not_signed(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        sign(HS, **wrong)
