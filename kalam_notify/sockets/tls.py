"""The TLS that the server does by itself, and its renewal while it runs."""

import ssl
from pathlib import Path

from kalam_notify.config import TlsSettings
from kalam_notify.errors import ConfigurationFault, Fault


class Tls:
    """A certificate and its key, as files; `context` is what listeners accept connections with.

    Raises ConfigurationFault for unusable files.
    """

    def __init__(self, cert: Path, key: Path) -> None:
        self._cert = cert
        self._key = key
        self.context = self._fresh()

    def renew(self) -> None:
        """Read the files again: connections from now on are shown what they hold.

        Raises ConfigurationFault for unusable files, and goes on with what it had.
        """
        # Loading into a context is not undone where certificate and key turn out not to fit.
        self._fresh()
        self._load(self.context)

    def _fresh(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._load(context)
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        try:
            # A key that wants a password is refused: OpenSSL would ask for it on the terminal.
            context.load_cert_chain(self._cert, self._key, password="")
        except (OSError, ssl.SSLError) as error:
            cure = f"give a certificate and its key as PEM files ({error})"
            raise ConfigurationFault(
                [Fault("file", "server.tls", str(self._cert), cure)]
            ) from error


def tls_of(settings: TlsSettings) -> Tls | None:
    """What the configuration asks for; raises ConfigurationFault for unusable files."""
    if settings.cert is None or settings.key is None:
        return None
    return Tls(settings.cert, settings.key)
