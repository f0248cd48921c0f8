"""The address where devices enroll themselves with a token: two paths over HTTPS, for programs.

`GET /v1/authority` has the certificate of the servers' authority, whose digest is in each token: a device recognizes
its host by it before it sends anything. `POST /v1/enroll` takes an `EnrollRequest`. Tokens are judged by
`edgeml.repository.tokens`. Strangers reach this port: connections are few, short and small.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NoReturn

import h11
import msgspec

from edgeml.fleet.recorder import Events
from edgeml.repository import RepositoryFolder, broker_folder, layout, tokens
from edgeml.repository.device_ca import BROKER_CA
from edgeml_core import enrollment, names
from edgeml_core.enrollment import AUTHORITY_PATH, ENROLL_PATH, REQUEST_MAX_BYTES, EnrollRequest
from edgeml_core.errors import EdgemlError, UsageError

_log = logging.getLogger(__name__)

DEFAULT_PORT: Final = 8443
#: Connections at one time; the newest of more are closed. A request takes some milliseconds.
CONNECTIONS_MAX: Final = 64
#: Seconds for a whole exchange, TLS and a slow network included.
EXCHANGE_TIMEOUT_S: Final = 20.0
#: Bytes of a request's line and headers.
HEAD_MAX_BYTES: Final = 8 * 1024
#: Seconds between two looks whether the server's certificate is due.
RENEW_EVERY_S: Final = 3600.0
#: Seconds between two events about refused devices.
REFUSED_EVENT_EVERY_S: Final = 1.0
_READ_BYTES: Final = 16 * 1024
#: The folder of its certificate, in the repository's.
FOLDER: Final = "enroll"
_FOLDER_MODE: Final = 0o700
_DUE_HINT: Final = f"put {BROKER_CA}.pem into the repository's keys, and restart `edgeml fleet serve`"

#: A status, and a body in JSON or PEM.
_Answer = tuple[int, bytes]


class EnrollmentServer:
    """The server of one repository.

    Args:
        repository: opened, with the keys that sign devices and certificates.
        broker_url: the broker's address, for the configuration of devices.
        events: receives each enrollment, and each refusal.
    """

    def __init__(self, repository: RepositoryFolder, broker_url: str, events: Events) -> None:
        self._repository = repository
        self._broker_url = broker_url
        self._events = events
        self._context: ssl.SSLContext
        self._open = 0
        self._refused_s = -math.inf
        #: One, since the repository lets one device enroll at a time; those that wait take no thread of other parts.
        self._thread = ThreadPoolExecutor(1)
        self._routes: dict[tuple[str, str], Callable[[bytes], _Answer]] = {
            ("GET", AUTHORITY_PATH): self._authority,
            ("POST", ENROLL_PATH): self._enroll,
        }

    async def run(self, name: str, port: int) -> NoReturn:
        """Serve `https://NAME:PORT` on all interfaces until cancelled.

        Raises:
            UsageError: `usage`, when the port is taken; `repo-invalid`, when it has no certificate and can't issue one.
        """
        self._context = await asyncio.to_thread(self._tls_context, name)
        try:
            server = await asyncio.start_server(self._on_connection, port=port)
        except OSError as error:
            message = f"devices can't enroll on port {port}: {error.strerror}"
            raise UsageError("usage", message, "choose another port with --enroll NAME:PORT") from error
        url = f"https://{f'[{name}]' if ':' in name else name}:{port}"
        await asyncio.to_thread(self._repository.enrollments.set_address, "enroll", url)
        self._events.event("enrollment", f"devices with a token enroll at {url}", url=url)
        async with server:
            while True:
                if ends := await asyncio.to_thread(
                    broker_folder.due, self._repository.folder / FOLDER, layout.utc_now()
                ):
                    text = f"the certificate of the enrollment port expires on {ends:%Y-%m-%d}: {_DUE_HINT}"
                    self._events.event("certificate-due", text)
                await asyncio.sleep(RENEW_EVERY_S)
                await self._renew(name)

    async def _renew(self, name: str) -> None:
        """Serve with another certificate, if it is due; the present one stays while none can be issued."""
        if self._repository.authorities.asks(BROKER_CA):
            return  # nobody may type a passphrase now
        try:
            loop = asyncio.get_running_loop()
            self._context = await loop.run_in_executor(self._thread, self._tls_context, name)
        except (EdgemlError, OSError) as error:
            text = f"the certificate of the enrollment port can't be renewed: {error}"
            self._events.event("certificates-failed", text, message=str(error))

    def _tls_context(self, name: str) -> ssl.SSLContext:
        folder = self._repository.folder / FOLDER
        with self._repository.locked():
            folder.mkdir(mode=_FOLDER_MODE, exist_ok=True)
            broker_folder.certify(self._repository, folder, (name,), layout.utc_now())
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(folder / broker_folder.CERTIFICATE_FILE, folder / broker_folder.KEY_FILE)
        return context

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= CONNECTIONS_MAX:
                async with asyncio.timeout(EXCHANGE_TIMEOUT_S):
                    await writer.start_tls(self._context, ssl_handshake_timeout=EXCHANGE_TIMEOUT_S)
                    await self._exchange(reader, writer)
                    writer.close()
                    await writer.wait_closed()
        except (OSError, TimeoutError, h11.RemoteProtocolError) as error:
            _log.debug("a connection to the enrollment port failed: %s", error)
        finally:
            writer.transport.abort()
            self._open -= 1

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read one request, and write its answer."""
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_MAX_BYTES)
        head, body = None, b""
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await reader.read(_READ_BYTES))
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > REQUEST_MAX_BYTES:
                    return
            else:
                break
        if head is None or not isinstance(event, h11.EndOfMessage):
            return
        route = self._routes.get((head.method.decode(), head.target.decode(errors="replace")))
        status, answer = 404, b""
        if route is not None:
            status, answer = await asyncio.get_running_loop().run_in_executor(self._thread, route, body)
        headers = [("content-length", str(len(answer))), ("connection", "close")]
        for part in (h11.Response(status_code=status, headers=headers), h11.Data(answer), h11.EndOfMessage()):
            writer.write(http.send(part) or b"")
        await writer.drain()

    def _authority(self, _body: bytes) -> _Answer:
        return 200, self._repository.authorities.path(BROKER_CA).read_bytes()

    def _enroll(self, body: bytes) -> _Answer:
        """Enroll a device; run in a thread, since it signs and writes."""
        device = "a device"
        try:
            request = enrollment.decode(body, EnrollRequest)
            device = request.device if names.is_name(request.device) else device
            answer = tokens.redeem(self._repository, request, self._broker_url, layout.utc_now())
        except EdgemlError as error:
            is_input = error.code != "repo-invalid"
            self._report_refusal(device, error)
            shown = error.to_dict() if is_input else {"code": "internal", "message": "the host can't enroll now"}
            return (400 if is_input else 500), json.dumps({"error": shown}).encode()
        self._events.event("enrolled", f"enrolled {device}", device=device)
        return 200, msgspec.json.encode(answer)

    def _report_refusal(self, device: str, error: EdgemlError) -> None:
        """Report a refusal, at most one in `REFUSED_EVENT_EVERY_S`: strangers must not fill the log."""
        now_s = time.monotonic()
        if now_s - self._refused_s >= REFUSED_EVENT_EVERY_S:
            self._refused_s = now_s
            text = f"refused to enroll {device}: error[{error.code}]: {error.message}"
            self._events.event("enroll-refused", text, device=device, **error.to_dict())
