"""What a node signs in with: a `.creds` file of NATS, and the files of TLS.

A .creds file holds a JWT, and the seed of the Ed25519 key that it was given to, as an "nkey"
(https://github.com/nats-io/nkeys): base 32 of two bytes of kind, the key, and a CRC-16. The server
sends a nonce, and is sent its signature. Both are read once, at the start.
"""

import base64
import binascii
import re
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kalam_notify.errors import StorageFault

_BLOCK = r"-+BEGIN {name}-+\s+([A-Za-z0-9._=-]+?)\s+-+END {name}-+"
_JWT = re.compile(_BLOCK.format(name="NATS USER JWT"))
_SEED = re.compile(_BLOCK.format(name="USER NKEY SEED"))
_USER_SEED = bytes([18 << 3 | 20 >> 2, (20 << 3 & 31) << 3])
"""Five bits that say it is a seed (S is the 18th letter from A), five of whose (U, the 20th)."""


class Security(NamedTuple):
    """How to sign in. None where there is no need."""

    context: ssl.SSLContext | None
    jwt: Callable[[], bytearray] | None
    sign: Callable[[str], bytes] | None


def read_security(
    credentials: Path | None, ca: Path | None, cert: Path | None, key: Path | None, *, tls: bool
) -> Security:
    """Read the files; raises StorageFault that names the one that is of no use."""
    context = _context(ca, cert, key) if tls or ca or cert or key else None
    if credentials is None:
        return Security(context, None, None)
    jwt, private = read_credentials(credentials)
    return Security(
        context,
        lambda: bytearray(jwt, "ascii"),
        lambda nonce: base64.b64encode(private.sign(nonce.encode())),
    )


def read_credentials(path: Path) -> tuple[str, Ed25519PrivateKey]:
    """JWT and key of a .creds file."""
    try:
        text = path.read_text("ascii")
    except (OSError, UnicodeError) as fault:
        raise StorageFault(
            f"the NATS credentials {path} cannot be read: {fault}. Name a .creds file that"
            " this user may read in log.nats.credentials"
        ) from fault
    jwt, seed = _JWT.search(text), _SEED.search(text)
    if jwt is None or seed is None:
        raise StorageFault(
            f"{path} holds no NATS user JWT with its seed: make it with `nsc generate creds`"
        )
    return jwt[1], Ed25519PrivateKey.from_private_bytes(_user_key(path, seed[1]))


def _user_key(path: Path, seed: str) -> bytes:
    padded = seed + "=" * (-len(seed) % 8)
    try:
        raw = base64.b32decode(padded)
    except binascii.Error:
        raw = b""
    body, crc = raw[:-2], raw[-2:]
    # XMODEM is the CRC-16 that binascii has; the nkey holds it with its low byte first.
    if len(body) != 34 or body[:2] != _USER_SEED or _crc(body) != crc:
        raise StorageFault(
            f"the seed in {path} is no user's nkey, or damaged: make the file again with"
            " `nsc generate creds`"
        )
    return body[2:]


def _crc(body: bytes) -> bytes:
    return binascii.crc_hqx(body, 0).to_bytes(2, "little")


def _context(ca: Path | None, cert: Path | None, key: Path | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as fault:
        raise StorageFault(
            f"log.nats.tls.ca: {ca} cannot be used: {fault}. Name a file of PEM certificates"
        ) from fault
    if cert is not None or key is not None:
        try:
            if cert is None:
                raise ValueError("log.nats.tls.cert is needed beside log.nats.tls.key")
            # Never ask for a passphrase on a terminal.
            context.load_cert_chain(cert, key, password=lambda: b"")
        except (OSError, ssl.SSLError, ValueError) as fault:
            raise StorageFault(
                f"log.nats.tls.cert: {cert} with key {key} cannot be used: {fault}. Name PEM files"
                " of a certificate and its key, without passphrase"
            ) from fault
    return context
