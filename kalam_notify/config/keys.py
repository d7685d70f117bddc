"""The keys of `auth.jwt`: secrets, and public keys as PEM text or as the paths of PEM files."""

import re
from pathlib import Path
from typing import TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import HMACAlgorithm
from jwt.exceptions import InvalidKeyError

from kalam_notify.config.readers import BadValue

PublicKey: TypeAlias = (
    rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | ed448.Ed448PublicKey
)

_CURVES = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}
SMALLEST_RSA_BITS = 2048
_PUBLIC_KEY_CURE = "give a public key as PEM (-----BEGIN PUBLIC KEY-----)"
_PATH = re.compile(r"[^\s\x00-\x1f]{1,250}\.(?:pem|crt|cer|der|key|pub)")
_PEM_BLOCK = re.compile(r"-----BEGIN [^-]*-----.*?-----END [^-]*-----", re.DOTALL)


def prepare_secret(secret: str) -> bytes:
    """The secret of the HS algorithms; BadValue for one that is a public key by mistake."""
    try:
        return HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret)
    except InvalidKeyError:
        raise BadValue("this is a public key or a certificate: give a random secret") from None


def load_public_keys(text: str) -> list[PublicKey]:
    """The keys in PEM text or in the file it names; BadValue tells what is wrong with them."""
    pem = _pem_text(text)
    if "PRIVATE KEY" in pem:
        raise BadValue("this is a private key: give its public half, keep this one elsewhere")
    # What stands before, between and behind the keys is for people.
    blocks = _PEM_BLOCK.findall(pem)
    if not blocks:
        raise BadValue(_PUBLIC_KEY_CURE)
    return [_public_key(block) for block in blocks]


def _public_key(pem: str) -> PublicKey:
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise BadValue(_PUBLIC_KEY_CURE) from None
    if not isinstance(key, PublicKey):
        raise BadValue("give an RSA, EC, Ed25519 or Ed448 public key")
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < SMALLEST_RSA_BITS:
        raise BadValue(f"give an RSA key of at least {SMALLEST_RSA_BITS} bits")
    return key


def _pem_text(text: str) -> str:
    if "-----BEGIN" in text:
        # An environment variable often carries its line ends as the two characters \n.
        return text.replace("\\n", "\n")
    try:
        return Path(text).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as fault:
        # Only what is surely a path is shown: it may be a key, and not the public one.
        which = f" ({text}: {_reason(fault)})" if _PATH.fullmatch(text) else ""
        cure = f"give PEM text, or the path of a PEM file that can be read{which}"
        raise BadValue(cure) from None


def _reason(fault: Exception) -> str:
    return (isinstance(fault, OSError) and fault.strerror) or "not text"


def fits(key: object, algorithm: str) -> bool:
    """Whether signatures of this algorithm can be verified with this key."""
    if algorithm.startswith(("RS", "PS")):
        return isinstance(key, rsa.RSAPublicKey) and key.key_size >= SMALLEST_RSA_BITS
    if algorithm.startswith("ES"):
        curve = _CURVES[algorithm]
        return isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == curve
    return algorithm == "EdDSA" and isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey)
