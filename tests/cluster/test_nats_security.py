"""How a node signs in: passwords, TLS, and the credentials that `nsc` makes."""

import base64
import binascii
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cluster.nats_kit import NatsServer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from kalam_notify.errors import StorageFault
from kalam_notify.log.nats.credentials import read_credentials
from kalam_notify.log.nats.link import Link, NatsPlace

# -- what it takes to be believed --------------------------------------------------------------


@asynccontextmanager
async def link_to(url: str, **options: Any) -> AsyncIterator[Link]:
    link = Link(NatsPlace((url,), "S"), **options)
    await link.start()
    try:
        yield link
    finally:
        await link.close()


def with_user(url: str, user: str) -> str:
    return url.replace("://", f"://{user}@")


def server_with(tmp_path: Path, extra: str) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path / "server", extra=extra).start()
    yield server
    server.close()


class Certificates:
    """An authority's certificate, and one for 127.0.0.1 that it signed, with its key."""

    def __init__(self, directory: Path) -> None:
        authority, key = ec.generate_private_key(ec.SECP256R1()), self._key()
        self.ca, self.cert, self.key = (directory / f"{name}.pem" for name in ("ca", "cert", "key"))
        root = self._sign("authority", authority, "authority", authority, is_ca=True)
        leaf = self._sign("node", key, "authority", authority, is_ca=False)
        self.ca.write_bytes(root.public_bytes(serialization.Encoding.PEM))
        self.cert.write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
        self.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )

    @staticmethod
    def _key() -> ec.EllipticCurvePrivateKey:
        return ec.generate_private_key(ec.SECP256R1())

    @staticmethod
    def _sign(
        name: str,
        key: ec.EllipticCurvePrivateKey,
        issuer: str,
        signer: ec.EllipticCurvePrivateKey,
        *,
        is_ca: bool,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        names = [
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, one)]) for one in (name, issuer)
        ]
        return (
            x509.CertificateBuilder()
            .subject_name(names[0])
            .issuer_name(names[1])
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]),
                critical=False,
            )
            .sign(signer, hashes.SHA256())
        )


_KINDS = {"O": 14 << 3, "A": 0, "U": 20 << 3}


class Nkey:
    """A key as NATS writes them: base 32 of its kind, the key and a CRC."""

    def __init__(self, kind: str) -> None:
        self.private = Ed25519PrivateKey.generate()
        prefix = _KINDS[kind]
        raw = self.private.public_key().public_bytes_raw()
        self.public = self.text(bytes([prefix]) + raw)
        head = bytes([(18 << 3) | (prefix >> 5), (prefix & 31) << 3])
        self.seed = self.text(head + self.private.private_bytes_raw())

    @staticmethod
    def text(body: bytes) -> str:
        crc = binascii.crc_hqx(body, 0).to_bytes(2, "little")
        return base64.b32encode(body + crc).decode().rstrip("=")

    def jwt(self, subject: "Nkey", name: str, nats: dict[str, Any]) -> str:
        claims = {
            "jti": hashlib.sha256(name.encode()).hexdigest(),
            "iat": int(datetime.now(UTC).timestamp()),
            "iss": self.public,
            "name": name,
            "sub": subject.public,
            "nats": {"version": 2, **nats},
        }
        parts = [{"typ": "JWT", "alg": "ed25519-nkey"}, claims]
        signed = ".".join(self._base64(json.dumps(part).encode()) for part in parts)
        return f"{signed}.{self._base64(self.private.sign(signed.encode()))}"

    @staticmethod
    def _base64(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).decode().rstrip("=")


class Accounts:
    """An operator, its system account and one for us, and a user of that."""

    def __init__(self) -> None:
        operator, system, ours, user = Nkey("O"), Nkey("A"), Nkey("A"), Nkey("U")
        limits = {"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1}
        limits |= {"conn": -1, "leaf": -1, "wildcards": True}
        disk = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
        self._jwts = {
            system.public: operator.jwt(system, "SYS", {"type": "account", "limits": limits}),
            ours.public: operator.jwt(ours, "K", {"type": "account", "limits": limits | disk}),
        }
        operators = {"type": "operator", "system_account": system.public}
        self._operator = operator.jwt(operator, "operator", operators)
        self._system = system.public
        everything = {"type": "user", "subs": -1, "data": -1, "payload": -1}
        self.user_key = user.private
        self.user_jwt, self.user_seed = ours.jwt(user, "kalam", everything), user.seed

    @property
    def configuration(self) -> str:
        known = "\n".join(f"{key}: {jwt}" for key, jwt in self._jwts.items())
        return "\n".join(
            [
                f"operator: {self._operator}",
                f"system_account: {self._system}",
                "resolver: MEMORY",
                f"resolver_preload: {{\n{known}\n}}",
            ]
        )

    def write_creds(self, path: Path, seed: str | None = None) -> Path:
        path.write_text(
            f"-----BEGIN NATS USER JWT-----\n{self.user_jwt}\n------END NATS USER JWT------\n\n"
            "************************* IMPORTANT *************************\n"
            "NKEY Seed printed below can be used to sign and prove identity.\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{seed or self.user_seed}\n"
            "------END USER NKEY SEED------\n"
        )
        return path


# -- signing in --------------------------------------------------------------------------------


def test_the_files_are_read_as_nsc_writes_them(tmp_path: Path) -> None:
    accounts = Accounts()
    jwt, key = read_credentials(accounts.write_creds(tmp_path / "k.creds"))
    assert jwt == accounts.user_jwt
    assert accounts.user_seed.startswith("SU")
    assert key.sign(b"nonce") == accounts.user_key.sign(b"nonce")


async def test_credentials_are_signed_in_with(tmp_path: Path) -> None:
    accounts = Accounts()
    creds = accounts.write_creds(tmp_path / "k.creds")
    for server in server_with(tmp_path, accounts.configuration):
        async with link_to(server.url, credentials=creds) as link:
            assert await link.wait_connected(30)
            assert (await link.ensure_stream()).messages == 0
        async with link_to(server.url) as link:
            assert not await link.wait_connected(0.5)


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        (None, "cannot be read"),
        ("", "nsc generate creds"),
        ("seed", "no user's nkey, or damaged"),
        ("SUAAAA", "no user's nkey, or damaged"),
        ("an account's", "no user's nkey, or damaged"),
    ],
)
async def test_credentials_of_no_use_are_told_with_their_file(
    tmp_path: Path, text: str | None, cure: str
) -> None:
    path = tmp_path / "k.creds"
    if text == "an account's":
        Accounts().write_creds(path, Nkey("A").seed)
    elif text:
        Accounts().write_creds(path, text)
    elif text is not None:
        path.write_text(text)
    with pytest.raises(StorageFault, match=cure) as told:
        await Link(NatsPlace(("nats://127.0.0.1:1",), "S"), credentials=path).start()
    assert str(path) in str(told.value)


async def test_a_password_and_a_token_are_signed_in_with(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for server in server_with(tmp_path, 'authorization { user: "u", password: "ge/heim" }'):
        async with link_to(with_user(server.url, "u:wrong")) as link:
            assert not await link.wait_connected(0.5)
        assert "Authorization Violation" in caplog.text
        assert "wrong" not in caplog.text
        async with link_to(with_user(server.url, "u:ge%2Fheim")) as link:
            assert await link.wait_connected(30)
            assert link.server == server.url
    for server in server_with(tmp_path, 'authorization { token: "t0k" }'):
        async with link_to(with_user(server.url, "t0k")) as link:
            assert await link.wait_connected(30)


async def test_a_server_with_a_certificate_is_believed_by_its_authority_only(
    tmp_path: Path,
) -> None:
    pem, others = Certificates(tmp_path), tmp_path / "others"
    others.mkdir()
    extra = f'tls {{ cert_file: "{pem.cert}", key_file: "{pem.key}" }}'
    for server in server_with(tmp_path, extra):
        secure = server.url.replace("nats:", "tls:")
        async with link_to(secure, ca=pem.ca) as link:
            assert await link.wait_connected(30)
            await link.ensure_stream()
            assert (await link.publish(b"x" * 3_000_000, "m", timeout=30)).seq == 1
        async with link_to(secure, ca=Certificates(others).ca) as link:
            assert not await link.wait_connected(0.5)
        async with link_to(secure) as link:
            assert not await link.wait_connected(0.5)


async def test_a_server_that_wants_a_certificate_gets_it(tmp_path: Path) -> None:
    pem = Certificates(tmp_path)
    files = f'cert_file: "{pem.cert}", key_file: "{pem.key}", ca_file: "{pem.ca}"'
    for server in server_with(tmp_path, f"tls {{ {files}, verify: true }}"):
        async with link_to(server.url, ca=pem.ca, cert=pem.cert, key=pem.key) as link:
            assert await link.wait_connected(30)


async def test_tls_that_is_asked_for_is_not_done_without(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Or a password would go over the wire for all to read."""
    async with link_to(with_user(nats_server.url.replace("nats:", "tls:"), "u:p")) as link:
        assert not await link.wait_connected(0.5)
    assert "does not ask for TLS" in caplog.text


@pytest.mark.parametrize("wrong", ["ca", "cert", "key"])
async def test_tls_files_of_no_use_are_told(tmp_path: Path, wrong: str) -> None:
    pem = Certificates(tmp_path)
    files = {"ca": pem.ca, "cert": pem.cert, "key": pem.key, wrong: tmp_path / "nothing.pem"}
    with pytest.raises(StorageFault, match=r"nothing\.pem.*Name"):
        await Link(NatsPlace(("nats://127.0.0.1:1",), "S"), **files).start()


async def test_a_key_without_its_certificate_is_told(tmp_path: Path) -> None:
    pem = Certificates(tmp_path)
    with pytest.raises(StorageFault, match="cert is needed"):
        await Link(NatsPlace(("nats://127.0.0.1:1",), "S"), key=pem.key).start()
