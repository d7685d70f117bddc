"""Whether a webhook comes from whom it should: signatures, and secrets in headers.

Signatures are those of Standard Webhooks 1.0
(https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md):
HMAC-SHA256 over `id.timestamp.body`, in base64, under a secret that is base64 itself, usually with
`whsec_` in front. A request may carry several signatures and there may be several secrets, for
while they are changed: one of each must fit. A timestamp holds for five minutes, before and after.

Senders that cannot sign (Supabase's and Hasura's triggers) put the secret itself into a header.
Nothing is compared but in constant time, and everything is compared with everything: how long it
takes tells neither which secret fits nor how much of it.
"""

import hashlib
import hmac
import re
from base64 import b64decode, b64encode
from binascii import Error
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from kalam_notify.errors import AuthenticationFailed

TOLERANCE_SECONDS: Final = 300
PREFIX: Final = "whsec_"
KEY_BYTES: Final = (24, 64)

HEADERS: Final = (
    "authorization",
    "x-webhook-secret",
    "x-hasura-webhook-secret",
    "x-supabase-webhook-secret",
)
"""Where a secret that does not sign may stand. In `Authorization`, behind `Bearer` or alone."""

# An id may hold no full stop, for that is what parts it from the timestamp.
_ID = re.compile(r"[!-~]{1,240}", re.ASCII)
_TIMESTAMP = re.compile(r"\d{1,12}", re.ASCII)
_MOST_SIGNATURES = 32


def signing_key(secret: str) -> bytes | None:
    """The key of a `whsec_…` secret; None where it is no such secret, or of another length."""
    # Supabase's own has the version of the signature in front of it.
    text = secret.removeprefix("v1,")
    if not text.startswith(PREFIX):
        return None
    return _decoded(text.removeprefix(PREFIX))


def _decoded(text: str) -> bytes | None:
    try:
        key = b64decode(text, validate=True)
    except (Error, ValueError):
        return None
    return key if KEY_BYTES[0] <= len(key) <= KEY_BYTES[1] else None


class Webhook:
    """What the requests of one hook are judged by. `clock` gives Unix time in seconds."""

    def __init__(self, secrets: Sequence[str], clock: Callable[[], float]) -> None:
        self._clock = clock
        # A secret that does not say what it is for may sign as well.
        signing = (signing_key(secret) or _decoded(secret) for secret in secrets)
        self._keys = [key for key in signing if key is not None]
        self._plain = [secret.encode() for secret in secrets if signing_key(secret) is None]

    def judge_headers(self, headers: Mapping[str, str]) -> bool:
        """Before the body is taken in: True where it need not be seen, False where it is signed.

        `headers` are by lower-case name. Raises AuthenticationFailed.
        """
        if self._has_secret(headers):
            return True
        if not self._keys or (self._plain and "webhook-signature" not in headers):
            raise AuthenticationFailed("no header with a secret of this hook", reason="webhook")
        self._signed_head(headers)
        return False

    def _has_secret(self, headers: Mapping[str, str]) -> bool:
        fits = False
        for name in HEADERS:
            given = headers.get(name, "").encode("latin-1", "replace")
            given = given.removeprefix(b"Bearer ").removeprefix(b"bearer ").strip()
            for secret in self._plain:
                fits |= hmac.compare_digest(given, secret)
        return fits

    def _signed_head(self, headers: Mapping[str, str]) -> tuple[str, str, list[str]]:
        """Id, timestamp and signatures of version 1; raises AuthenticationFailed."""
        message, at = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
        if not _ID.fullmatch(message) or not _TIMESTAMP.fullmatch(at):
            raise AuthenticationFailed(
                "a signed webhook has webhook-id and webhook-timestamp, in seconds",
                reason="webhook",
            )
        if abs(int(at) - self._clock()) > TOLERANCE_SECONDS:
            raise AuthenticationFailed(
                f"webhook-timestamp is more than {TOLERANCE_SECONDS} s away", reason="webhook"
            )
        every = headers.get("webhook-signature", "").split(" ")[:_MOST_SIGNATURES]
        signatures = [one.removeprefix("v1,") for one in every if one.startswith("v1,")]
        if not signatures:
            raise AuthenticationFailed("webhook-signature has none of version v1", reason="webhook")
        return message, at, signatures

    def judge_body(self, headers: Mapping[str, str], body: bytes) -> None:
        """Whether the body is signed by one of the secrets; raises AuthenticationFailed."""
        message, at, signatures = self._signed_head(headers)
        fits = False
        for key in self._keys:
            expected = sign(key, message, at, body)
            for signature in signatures:
                fits |= hmac.compare_digest(signature.encode("latin-1", "replace"), expected)
        if not fits:
            raise AuthenticationFailed("no signature fits", reason="webhook")


def sign(key: bytes, message: str, at: str, body: bytes) -> bytes:
    """The signature, in base64, of a message's id, its timestamp and its body."""
    signed = f"{message}.{at}.".encode("latin-1") + body
    return b64encode(hmac.digest(key, signed, hashlib.sha256))
