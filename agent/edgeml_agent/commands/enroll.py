"""`edgeml-agent enroll`: join a fleet with a token. The device makes its key, and gets all other files from the host.

The token names the host's authority by its digest: a host with another one receives nothing. An interrupted enrollment
is repeated with the same key, for which the host takes the token again.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import ssl
import tomllib
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from edgeml_core import enrollment, names
from edgeml_core.enrollment import (
    ANSWER_MAX_BYTES,
    AUTHORITY_PATH,
    CERTIFICATE_FILE,
    ENROLL_PATH,
    ISSUED_FILE,
    EnrollAnswer,
    EnrollRequest,
    Token,
)
from edgeml_core.errors import DeviceError, EdgemlError, RejectedError, TransportError, UsageError
from edgeml_io import files

#: Seconds for an answer of the host, which signs the device meanwhile.
TIMEOUT_S: Final = 60.0
#: Bytes of an authority's certificate.
AUTHORITY_MAX_BYTES: Final = 64 * 1024
CONFIG_FILE: Final = "agent.toml"
#: The key until the host has answered.
PENDING_KEY_FILE: Final = "enrolling.key"
_FOLDER_MODE: Final = 0o700
_SECRET_MODE: Final = 0o600


class Enrolled(msgspec.Struct, frozen=True, kw_only=True):
    """The device's id, its configuration, and whether a configuration that was there before is kept."""

    device: str
    config: str
    kept: bool


def enroll(url: str, token: str, out_dir: Path, *, device: str | None = None, store: str | None = None) -> Enrolled:
    """Join a fleet, and write the device's folder.

    Args:
        url: of the host: `https://HOST[:PORT]`.
        token: from the fleet's operator.
        out_dir: gets agent.toml and all files that it names. A configuration of the same device is kept.
        device: an id that is unique in the fleet; None takes this host's name.
        store: an absolute path for releases; None is `store` beside agent.toml.

    Raises:
        UsageError: `usage`; `device-exists`.
        RejectedError: `token-unknown`, `token-used`, `token-expired`, `document-format`, `certificate-invalid`.
        TransportError: `host-unreachable`; `host-refused`, when the host isn't the one that has made the token.
        DeviceError: `store-failed`, when the folder can't be written.
    """
    parsed, address = enrollment.parse_token(token), _address(url)
    device = names.require_name(device or socket.gethostname().partition(".")[0].lower(), "device")
    has_config = _check_own(out_dir, device)
    try:
        out_dir.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        key = _pending_key(out_dir / PENDING_KEY_FILE)
        answer = _ask(address, parsed, EnrollRequest(secret=parsed.secret, device=device, csr=_csr(key), store=store))
        _write(out_dir, answer, key, has_config=has_config)
    except OSError as error:
        raise DeviceError("store-failed", f"{out_dir} can't be written: {error}", "name another folder") from error
    return Enrolled(device=device, config=str(out_dir / CONFIG_FILE), kept=has_config)


def _address(url: str) -> tuple[str, int]:
    hint = "use https://HOST:PORT, as `edgeml device token` prints it"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError("usage", f"the URL {url!r} is malformed", hint) from error
    if parts.scheme != "https" or not host or parts.path not in ("", "/") or parts.username:
        raise UsageError("usage", f"the URL {url!r} isn't the address of a host", hint)
    return host, port or 443


def _check_own(out_dir: Path, device: str) -> bool:
    """Return whether the folder has a configuration of this device; refuse another one's.

    Raises:
        UsageError: `usage`.
    """
    path = out_dir / CONFIG_FILE
    try:
        found = tomllib.loads(path.read_text())["device"]["id"]
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError("usage", f"{path} can't be read: {error}", "name an empty folder with -o") from error
    if found != device:
        raise UsageError("usage", f"{path} belongs to device {found!r}", "name another folder with -o, or that id")
    return True


def _pending_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return the key of an interrupted enrollment, or a new one, which is on the disk before it is used."""
    try:
        key = load_pem_private_key(path.read_bytes(), None)
        if isinstance(key, ec.EllipticCurvePrivateKey):
            return key
    except (FileNotFoundError, ValueError, TypeError):
        pass  # there is none that can be used
    key = ec.generate_private_key(ec.SECP256R1())
    files.write(path, _key_pem(key), mode=_SECRET_MODE)
    return key


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _csr(key: ec.EllipticCurvePrivateKey) -> str:
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.PEM).decode()


def _ask(address: tuple[str, int], token: Token, request: EnrollRequest) -> EnrollAnswer:
    """Send the request to the host that the token names."""
    unchecked = ssl.create_default_context()
    unchecked.check_hostname = False
    unchecked.verify_mode = ssl.CERT_NONE  # nothing is sent or trusted until the digest agrees
    authority = _exchange(address, unchecked, AUTHORITY_PATH, AUTHORITY_MAX_BYTES)
    try:
        der = x509.load_pem_x509_certificate(authority).public_bytes(Encoding.DER)
    except ValueError:
        der = b""
    if hashlib.sha256(der).digest() != token.authority_sha256:
        message = f"the host at {address[0]} isn't the one that has made the token"
        raise TransportError("host-refused", message, "check the URL; if it is right, another host answers there")
    context = ssl.create_default_context(cadata=authority.decode())
    answer = _exchange(address, context, ENROLL_PATH, ANSWER_MAX_BYTES, msgspec.json.encode(request))
    decoded = enrollment.decode(answer, EnrollAnswer, ANSWER_MAX_BYTES)
    enrollment.check_files(decoded.files)
    return decoded


def _exchange(
    address: tuple[str, int], context: ssl.SSLContext, path: str, max_bytes: int, body: bytes | None = None
) -> bytes:
    """Get a path, or post a body to it, and return the body of the answer."""
    host, port = address
    connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)
    try:
        connection.request("GET" if body is None else "POST", path, body)
        response = connection.getresponse()
        answer = response.read(max_bytes + 1)
    except ssl.SSLCertVerificationError as error:
        message = f"the host's certificate isn't for {host}: {error.verify_message}"
        raise TransportError("host-refused", message, "use the name that the host was started with") from error
    except (OSError, http.client.HTTPException) as error:
        hint = "check the URL, and that `edgeml fleet serve` runs there"
        raise TransportError("host-unreachable", f"https://{host}:{port}: {error}", hint) from error
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise _refusal(response.status, answer)
    return answer


def _refusal(status: int, answer: bytes) -> EdgemlError:
    """Return the host's error, by its code."""
    try:
        found = json.loads(answer)["error"]
        code, message, hint = (str(found.get(key, "")) for key in ("code", "message", "hint"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return TransportError("host-unreachable", f"the host answers with status {status}", "check the URL")
    if code in ("usage", "device-exists"):
        return UsageError(code, message, hint)
    if code == "internal":
        return TransportError("host-unreachable", message, "see the host's log")
    return RejectedError(code, message, hint)


def _write(out_dir: Path, answer: EnrollAnswer, key: ec.EllipticCurvePrivateKey, *, has_config: bool) -> None:
    """Write the folder; agent.toml is last but for the pending key, which is removed."""
    made = {name: content.encode() for name, content in answer.files.items()}
    issued = made.pop(ISSUED_FILE)
    try:
        is_own = x509.load_pem_x509_certificate(issued).public_key() == key.public_key()
    except ValueError:
        is_own = False
    if not is_own:
        raise RejectedError("certificate-invalid", "the host's certificate isn't for this device's key")
    made[CERTIFICATE_FILE] = _key_pem(key) + issued
    config = made.pop(CONFIG_FILE)
    if not has_config:
        made[CONFIG_FILE] = config
    for name, content in made.items():
        path = out_dir / name
        path.parent.mkdir(mode=_FOLDER_MODE, exist_ok=True)
        files.write(path, content, mode=_SECRET_MODE)
    (out_dir / PENDING_KEY_FILE).unlink(missing_ok=True)
