"""TLS of the HTTP server: the certificate and its key, from files."""

from __future__ import annotations

import ssl
from pathlib import Path

from edgeml_core.errors import UsageError


def context(cert: Path, key: Path) -> ssl.SSLContext:
    """Load the certificate of a server, for TLS 1.2 or newer.

    Args:
        cert: PEM, the server's own certificate first, then those between it and the authority.
        key: PEM, without a password.

    Raises:
        UsageError: `config-invalid`, when they can't be read or don't belong together.
    """
    loaded = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    loaded.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        loaded.load_cert_chain(cert, key, password=_none)
    except (OSError, ValueError) as error:
        hint = "give PEM files that belong together and that the agent may read; the key without a password"
        message = f"[serve] cert {str(cert)!r} and key {str(key)!r} can't be used: {error}"
        raise UsageError("config-invalid", message, hint) from error
    return loaded


def _none() -> str:
    """Refuse a password; OpenSSL would ask for one at a terminal."""
    raise ValueError("the key has a password")
