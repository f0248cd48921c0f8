"""Send notices to a webhook: one signed POST each, in their order, with retries. Nothing here blocks the service.

The body is signed as `HMAC-SHA256(secret, TIME.BODY)` in the header `Edgeml-Signature: t=TIME,v1=HEX`. A receiver
computes it, too, and refuses old times. No redirect is followed.
"""

from __future__ import annotations

import hashlib
import hmac
import ssl
import time
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from edgeml_core.errors import TransportError, UsageError
from edgeml_io import http_client, password_file, tls

#: Seconds for one attempt, from the name's look-up to the answer.
TIMEOUT_S: Final = 10.0
#: Characters of a secret, at least: 16 random ones of base64 are 96 bits.
SECRET_MIN_CHARS: Final = 16
#: Answers that no repetition changes: the receiver refuses this body.
REFUSED: Final = frozenset({400, 413, 422})
_LOCAL: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_HINT: Final = "write https://HOST[:PORT]/PATH; http is for this machine alone"


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """A receiver of notices."""

    url: SplitResult
    secret: bytes
    context: ssl.SSLContext | None

    @property
    def name(self) -> str:
        """Return the address without its path and query, which may have a token."""
        return f"{self.url.scheme}://{self.url.netloc}"


def parse(url: str, secret_file: Path | None, ca: Path | None = None) -> Webhook:
    """Read a webhook's address and files.

    Args:
        url: `https://HOST[:PORT]/PATH`.
        secret_file: has the secret that signs.
        ca: PEM file of the receiver's authority; None takes those of the system.

    Raises:
        UsageError: `usage`, for a bad address, or a secret or `ca` that can't be used.
    """
    try:
        parts = urlsplit(url)
        port_is_right = parts.port != 0
    except ValueError:
        raise UsageError("usage", "the webhook's address is malformed", _HINT) from None
    is_allowed = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOCAL)
    is_plain = url.isascii() and url.isprintable() and " " not in url and "@" not in parts.netloc
    if not (is_allowed and parts.hostname and is_plain and port_is_right):
        raise UsageError("usage", "the webhook's address isn't https://HOST[:PORT]/PATH", _HINT)
    if secret_file is None:
        raise UsageError("usage", "a webhook needs a secret that signs its notices", "name --webhook-secret-file FILE")
    secret = password_file.read(secret_file)
    if len(secret) < SECRET_MIN_CHARS:
        hint = "make one with: python -c 'import secrets; print(secrets.token_urlsafe())'"
        message = f"the webhook's secret has {len(secret)} characters, at least {SECRET_MIN_CHARS} are needed"
        raise UsageError("usage", message, hint)
    try:
        context = tls.client_context(ca=ca, cert=None, key=None) if parts.scheme == "https" else None
    except OSError as error:
        raise UsageError("usage", f"the webhook's ca can't be used: {error}", "name a PEM file") from error
    return Webhook(url=parts, secret=secret.encode(), context=context)


def signature(secret: bytes, body: bytes, now_s: int) -> str:
    """Sign a body, as the header has it."""
    digest = hmac.new(secret, b"%d." % now_s + body, hashlib.sha256).hexdigest()
    return f"t={now_s},v1={digest}"


async def post(webhook: Webhook, body: bytes) -> int:
    """Send one notice, and return the status of the answer.

    Raises:
        TransportError: `webhook-failed`, when there is no answer within `TIMEOUT_S`.
    """
    connection = http_client.Connection(webhook.url, webhook.context, TIMEOUT_S)
    try:
        status = await http_client.run(connection, partial(_post, webhook=webhook, body=body), timeout_s=TIMEOUT_S)
    except TimeoutError as error:
        raise failed(webhook, f"gave no answer within {TIMEOUT_S:g} s") from error
    except http_client.FAILURES as error:
        raise failed(webhook, f"can't be reached: {error}") from error
    connection.close()
    return status


def _post(connection: HTTPConnection, *, webhook: Webhook, body: bytes) -> int:
    url = webhook.url
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "edgeml",
        "Connection": "close",
        "Edgeml-Signature": signature(webhook.secret, body, int(time.time())),
    }
    connection.request("POST", (url.path or "/") + (f"?{url.query}" if url.query else ""), body, headers)
    return connection.getresponse().status


def failed(webhook: Webhook, problem: str) -> TransportError:
    """Make the error of an attempt that failed."""
    hint = "check the receiver, and --webhook and --webhook-ca; the notice is sent again"
    return TransportError("webhook-failed", f"the webhook {webhook.name} {problem}", hint)
