"""PyJWT's signatures, without what it would do again with every token."""

import jwt
from jwt.algorithms import HMACAlgorithm


class _PreparedSecret(HMACAlgorithm):
    """HMAC with a secret that has been looked at once, when the key ring was made.

    PyJWT looks at it with every token: whether it is a public key by mistake (half of the time that
    a verification takes) and long enough (the operator is told at start).
    """

    def prepare_key(self, key: str | bytes) -> bytes:
        return key.encode() if isinstance(key, str) else key

    def check_key_length(self, key: bytes) -> str | None:
        return None


def _signatures() -> jwt.PyJWS:
    jws = jwt.PyJWS()
    hashes = {"256": HMACAlgorithm.SHA256, "384": HMACAlgorithm.SHA384, "512": HMACAlgorithm.SHA512}
    for bits, digest in hashes.items():
        jws.unregister_algorithm(f"HS{bits}")
        jws.register_algorithm(f"HS{bits}", _PreparedSecret(digest))
    return jws


signatures = _signatures()
