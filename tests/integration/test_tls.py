"""The same server behind TLS: the transport does the writing, nothing else changes."""

import asyncio
import datetime
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from helpers.server import Server, insert
from helpers.views import View
from helpers.wire import wire
from workers_kit import until

PAD = "x" * 20_000


def write_certificate(cert_file: Path, key_file: Path) -> None:
    """A new certificate for localhost that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """Files of a certificate and its key."""
    files = tmp_path / "cert.pem", tmp_path / "key.pem"
    write_certificate(*files)
    return files


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def test_views_are_exact_over_tls_for_fast_and_slow_readers(
    start_server: Callable[..., Server], certificate: tuple[Path, Path]
) -> None:
    cert, key = map(str, certificate)
    server = start_server(server={"tls": {"cert": cert, "key": key}})
    assert server.url.startswith("https://")
    token = server.token()
    async with (
        wire(server.ws_url, token, ssl=trusting(), max_queue=1) as slow,
        wire(server.ws_url, token, ssl=trusting()) as fast,
    ):
        for client in (slow, fast):
            for name in ("a", "b"):
                await client.live(name, "SELECT * FROM app.orders", {})
        for number in range(10):
            rows = [insert("app.orders", {"id": n, "r": number, "pad": PAD}) for n in range(100)]
            await asyncio.to_thread(server.post, *rows)
        await asyncio.to_thread(server.post, insert("app.orders", {"id": "end"}))
        for client in (fast, slow):
            views = {"a": View(), "b": View()}
            for view in views.values():
                view.ready = True
            while not all("end" in view.rows for view in views.values()):
                message = await client.hear(60)
                views[message["subscription_id"]].apply(message)
            assert {row.get("r") for row in views["a"].rows.values()} == {9, None}
            assert views["a"].rows == views["b"].rows


def test_a_key_that_does_not_fit_its_certificate_starts_nothing(
    certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    settings = {
        "server": {"tls": {"cert": str(certificate[0]), "key": str(other)}},
        "auth": {"anonymous": True},
    }
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "kalam_notify", "serve", "--config", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert str(certificate[0]) in line
    assert str(other) in line


def shown(server: Server) -> str:
    """The certificate that a new connection is shown."""
    host, port = server.url.removeprefix("https://").split(":")
    return ssl.get_server_certificate((host, int(port)), timeout=10)


def wait_for_log(server: Server, text: str, times: int) -> None:
    until(lambda: server.errors.count(text) >= times, f"{times} times: {text}")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_renewed_certificate_is_shown_after_a_reload_and_a_broken_one_is_not(
    start_server: Callable[..., Server], certificate: tuple[Path, Path], workers: int
) -> None:
    cert, key = certificate
    settings = {"cert": str(cert), "key": str(key)}
    server = start_server(server={"tls": settings, "workers": workers})
    assert shown(server) == cert.read_text()
    write_certificate(cert, key)
    renewed = cert.read_text()
    server.signal(signal.SIGHUP)
    wait_for_log(server, "configuration reloaded", workers)
    assert [shown(server) for _ in range(6)] == [renewed] * 6
    # A certificate whose key has not been written yet.
    write_certificate(cert, cert.with_name("elsewhere.pem"))
    server.signal(signal.SIGHUP)
    wait_for_log(server, "the certificate was not renewed", workers)
    assert [shown(server) for _ in range(6)] == [renewed] * 6
