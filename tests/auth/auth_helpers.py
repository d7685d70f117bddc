"""An issuer with real keys, and its key set behind a real HTTP server."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import get_default_algorithms

SECRET = "a secret of more than thirty-two bytes"


def claims(**changes: Any) -> dict[str, Any]:
    """Claims that hold for an hour; None takes a claim away."""
    made = {"sub": "alice", "exp": int(time.time()) + 3600} | changes
    return {name: value for name, value in made.items() if value is not None}


def token(**changes: Any) -> str:
    """A token of `claims`, signed with SECRET."""
    return jwt.encode(claims(**changes), SECRET, "HS256")


class Issuer:
    """Signs tokens with named keys and publishes their public halves."""

    def __init__(self) -> None:
        self._keys: dict[str, tuple[Any, str]] = {}
        self._published: list[dict[str, Any]] = []

    def make(self, kid: str, algorithm: str = "ES256", **entry: Any) -> None:
        """A new key, published at once; `entry` changes its entry in the key set (None: away)."""
        key = new_private_key(algorithm)
        self._keys[kid] = (key, algorithm)
        public = get_default_algorithms()[algorithm].to_jwk(key.public_key(), as_dict=True)
        made = {**public, "kid": kid, "use": "sig", "alg": algorithm} | entry
        self._published.append({name: value for name, value in made.items() if value is not None})

    def withdraw(self, kid: str) -> None:
        self._published = [entry for entry in self._published if entry.get("kid") != kid]

    def sign(self, kid: str, *, named: str | None = "", **changes: Any) -> str:
        """A token signed with a key; `named` is the kid it carries instead (None: none)."""
        key, algorithm = self._keys[kid]
        name = kid if named == "" else named
        headers = {} if name is None else {"kid": name}
        return jwt.encode(claims(**changes), key, algorithm, headers)

    def key_set(self) -> bytes:
        return json.dumps({"keys": self._published}).encode()


class KeySetServer:
    """Serves what `body` holds at `url`, with `status`, counting the requests."""

    def __init__(self) -> None:
        self.body: bytes | Issuer = b"{}"
        self.status = 200
        self.location: str | None = None
        self.requests = 0
        self.third_request = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests += 1
                if outer.requests >= 3:
                    outer.third_request.set()
                self.send_response(outer.status)
                if outer.location is not None:
                    self.send_header("Location", outer.location)
                body = outer.body.key_set() if isinstance(outer.body, Issuer) else outer.body
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/keys"


def new_private_key(algorithm: str) -> Any:
    if algorithm.startswith(("RS", "PS")):
        return rsa.generate_private_key(65537, 2048)
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    curves = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
    return ec.generate_private_key(curves[algorithm])


def public_pem(key: Any) -> str:
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem.decode()
