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


def test_an_unknown_role_is_named_beside_those_that_are_known() -> None:
    text = token(role="root")
    assert refused(TokenVerifier(HS), text) == (
        "the token's role is unknown: 'root'; known are user, service, dba, system"
    )
    mapped = JwtSettings(secret=SECRET, roles={"authenticated": "user", "dba": "service"})
    assert refused(TokenVerifier(mapped), text).endswith(
        "known are user, service, system, authenticated, dba"
    )
    assert len(refused(TokenVerifier(HS), token(role="r" * 10_000))) < 200
    assert refused(TokenVerifier(HS), token(role="a\n\u202eb")).isprintable()


SUPABASE = {"authenticated": "user", "service_role": "service"}


@pytest.mark.parametrize(
    ("role_claim", "roles", "named", "expected"),
    [
        ("role", SUPABASE, {"role": "authenticated"}, Role.USER),
        ("role", SUPABASE, {"role": "service_role"}, Role.SERVICE),
        ("role", SUPABASE, {"role": "dba"}, Role.DBA),
        ("role", {"dba": "user"}, {"role": "dba"}, Role.USER),
        ("role", SUPABASE, {}, Role.USER),
        ("app_role", {}, {"app_role": "service"}, Role.SERVICE),
        ("app_role", {}, {"role": "dba"}, Role.USER),
        ("app_metadata.role", {}, {"app_metadata": {"role": "dba"}}, Role.DBA),
        ("app_metadata.role", {}, {"app_metadata": {}}, Role.USER),
        ("app_metadata.role", {}, {"app_metadata": "role"}, Role.USER),
        ("https://a.b/role", {}, {"https://a.b/role": "service"}, Role.SERVICE),
        (
            "realm_access.roles",
            {"feeder": "service", "staff": "user"},
            {"realm_access": {"roles": ["offline_access", "staff", "feeder"]}},
            Role.SERVICE,
        ),
        ("cognito:groups", {"admins": "dba"}, {"cognito:groups": ["admins", 5, None]}, Role.DBA),
    ],
)
def test_a_foreign_issuers_roles_are_found_and_mapped(role_claim, roles, named, expected) -> None:
    settings = JwtSettings(secret=SECRET, role_claim=role_claim, roles=roles)
    assert TokenVerifier(settings).verify(token(**named)).role is expected


@pytest.mark.parametrize("met", [["a"], [], ["service"], [["staff"]], "Staff", "anonymous", 1, {}])
def test_names_that_are_not_mapped_are_refused(met) -> None:
    settings = JwtSettings(secret=SECRET, roles={"staff": "user"})
    text = jwt.encode({**claims(), "role": met}, SECRET, "HS256")
    assert "role is unknown" in refused(TokenVerifier(settings), text)


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.ANONYMOUS])
def test_a_token_that_is_signed_here_has_its_role_whatever_roles_are_called(role) -> None:
    settings = JwtSettings(
        secret=SECRET, role_claim="a.b", roles={"dba": "user", "boss": "dba", "user": "user"}
    )
    assert TokenVerifier(settings).verify(sign(settings, "bob", role=role)).role is role


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


def test_any_of_several_secrets_verifies_and_the_first_one_signs() -> None:
    old, new = SECRET, "another secret of more than thirty-two bytes"
    rotating = JwtSettings(secret=(new, old))
    for secret in (old, new):
        assert TokenVerifier(rotating).verify(jwt.encode(claims(), secret, "HS256"))
    assert TokenVerifier(JwtSettings(secret=new)).verify(sign(rotating, "bob"))
    assert "signature" in refused(TokenVerifier(JwtSettings(secret=new)), sign(HS, "bob"))


def test_any_of_several_public_keys_verifies_in_one_file_or_in_several(tmp_path) -> None:
    keys = [new_private_key(name) for name in ("ES256", "RS256", "ES256")]
    both = tmp_path / "two.pem"
    both.write_text("\ufeffthe old one:\n" + public_pem(keys[0]) + "\n" + public_pem(keys[1]))
    settings = JwtSettings(
        public_key=(str(both), public_pem(keys[2])), algorithms=("ES256", "RS256")
    )
    verifier = TokenVerifier(settings)
    for key, algorithm in zip(keys, ("ES256", "RS256", "ES256"), strict=True):
        assert verifier.verify(jwt.encode(claims(), key, algorithm))
    assert "signature" in refused(verifier, jwt.encode(claims(), new_private_key("ES256"), "ES256"))


def test_a_key_file_is_read_again_by_the_verifier_of_a_reload(tmp_path) -> None:
    old, new = new_private_key("ES256"), new_private_key("ES256")
    file = tmp_path / "key.pem"
    file.write_text(public_pem(old))
    settings = JwtSettings(public_key=str(file), algorithms=("ES256",))
    before = TokenVerifier(settings)
    text = jwt.encode(claims(), old, "ES256")
    assert before.verify(text)
    file.write_text(public_pem(new))
    after = TokenVerifier(settings, before=before)
    assert "signature" in refused(after, text)
    assert after.verify(jwt.encode(claims(), new, "ES256"))
    file.unlink()
    with pytest.raises(ConfigurationFault, match=r"auth\.jwt\.public_key"):
        TokenVerifier(settings, before=after)
