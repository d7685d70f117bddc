"""Standard Webhooks' signatures, by the standard's own vectors and tests; secrets in headers."""

import pytest

from kalam_notify.auth.webhooks import TOLERANCE_SECONDS, Webhook, sign, signing_key
from kalam_notify.errors import AuthenticationFailed

# libraries/javascript/src/webhook.test.ts and the other libraries of standard-webhooks.
SECRET = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
AT = 1614265330
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
OTHER = "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc="


def headers(**changed: str | None) -> dict[str, str]:
    named = {"webhook-id": ID, "webhook-timestamp": str(AT), "webhook-signature": SIGNATURE}
    named |= {name.replace("_", "-"): value for name, value in changed.items()}  # type: ignore[misc]
    return {name: value for name, value in named.items() if value is not None}


def judge(secrets: list[str], given: dict[str, str], body: bytes = BODY, now: float = AT) -> None:
    webhook = Webhook(secrets, lambda: now)
    if not webhook.judge_headers(given):
        webhook.judge_body(given, body)


def test_the_published_vector_is_what_is_signed() -> None:
    key = signing_key(f"whsec_{SECRET}")
    assert key is not None
    assert f"v1,{sign(key, ID, str(AT), BODY).decode()}" == SIGNATURE


@pytest.mark.parametrize("secret", [f"whsec_{SECRET}", SECRET, f"v1,whsec_{SECRET}"])
def test_it_is_verified_with_the_prefix_and_without(secret: str) -> None:
    judge([secret], headers())


@pytest.mark.parametrize(
    "changed",
    [
        {"webhook_id": None},
        {"webhook_timestamp": None},
        {"webhook_timestamp": "hello"},
        {"webhook_timestamp": "-1"},
        {"webhook_timestamp": "1" * 5000},
        {"webhook_signature": None},
        {"webhook_signature": "v1,dawfeoifkpqwoekfpqoekf"},
        {"webhook_signature": SIGNATURE[:8]},
        {"webhook_signature": "v1,"},
        {"webhook_signature": SIGNATURE.replace("v1,", "v2,")},
        {"webhook_signature": SIGNATURE.replace("v1,", "")},
        {"webhook_signature": "v1,é"},
        {"webhook_id": "msg_other"},
        {"webhook_timestamp": str(AT + 1)},
    ],
)
def test_a_header_that_is_missing_or_changed_is_refused(changed: dict[str, str | None]) -> None:
    with pytest.raises(AuthenticationFailed):
        judge([f"whsec_{SECRET}"], headers(**changed))


def test_a_changed_body_is_refused() -> None:
    with pytest.raises(AuthenticationFailed):
        judge([f"whsec_{SECRET}"], headers(), BODY + b" ")


@pytest.mark.parametrize("away", [-TOLERANCE_SECONDS, TOLERANCE_SECONDS])
def test_a_timestamp_holds_for_five_minutes(away: int) -> None:
    judge([f"whsec_{SECRET}"], headers(), now=AT + away)
    with pytest.raises(AuthenticationFailed):
        judge([f"whsec_{SECRET}"], headers(), now=AT + away + (1 if away > 0 else -1))


def test_one_of_several_signatures_is_enough() -> None:
    every = " ".join([OTHER, OTHER.replace("v1", "v2"), SIGNATURE, OTHER])
    judge([f"whsec_{SECRET}"], headers(webhook_signature=every))
    with pytest.raises(AuthenticationFailed):
        judge([f"whsec_{SECRET}"], headers(webhook_signature=f"{OTHER} {OTHER}"))


def test_one_of_two_secrets_is_enough_while_they_change() -> None:
    new = "whsec_" + "A" * 32
    judge([new, f"whsec_{SECRET}"], headers())
    judge([f"whsec_{SECRET}", new], headers())
    with pytest.raises(AuthenticationFailed):
        judge([new], headers())


@pytest.mark.parametrize(
    "secret", ["whsec_", "whsec_AAAA", "whsec_" + "A" * 100, "whsec_" + "!" * 32]
)
def test_a_signing_secret_has_24_to_64_bytes(secret: str) -> None:
    assert signing_key(secret) is None


PLAIN = "an-event-secret-of-hasura"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("authorization", f"Bearer {PLAIN}"),
        ("authorization", PLAIN),
        ("x-webhook-secret", PLAIN),
        ("x-hasura-webhook-secret", PLAIN),
        ("x-supabase-webhook-secret", PLAIN),
    ],
)
def test_a_plain_secret_stands_in_a_header(name: str, value: str) -> None:
    judge([PLAIN], {name: value})
    judge(["another-secret", PLAIN], {name: value})
    for wrong in (value[:-1], value + "x", "", "Bearer "):
        with pytest.raises(AuthenticationFailed):
            judge([PLAIN], {name: wrong})


def test_a_secret_that_signs_is_never_taken_from_a_header() -> None:
    secret = f"whsec_{SECRET}"
    for name in ("authorization", "x-webhook-secret"):
        for value in (secret, f"Bearer {secret}", SECRET):
            with pytest.raises(AuthenticationFailed):
                judge([secret], {name: value})


def test_no_header_at_all_is_refused() -> None:
    for secrets in ([PLAIN], [f"whsec_{SECRET}"], [PLAIN, f"whsec_{SECRET}"]):
        with pytest.raises(AuthenticationFailed):
            judge(secrets, {})
