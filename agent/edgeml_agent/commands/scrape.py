"""A snapshot of the running agent: its own `/v1/models` and `/metrics`, over HTTP as any client reads them."""

from __future__ import annotations

import http.client
import re
import ssl
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from edgeml_agent.http_api import auth
from edgeml_agent.settings import ServeSettings
from edgeml_core import decoding
from edgeml_core.errors import TransportError, UsageError

#: Seconds for each of the two requests.
TIMEOUT_S: Final = 5.0
#: Bytes of an answer; both pages stay far below.
ANSWER_MAX_BYTES: Final = 4 * 1024**2
#: The address of a server that listens on all addresses.
_ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing is bound here
_SAMPLE: Final = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_CERTIFICATE: Final = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_ESCAPES: Final = {r"\\": "\\", r"\n": "\n", r"\"": '"'}


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One model in the answer of `/v1/models`."""

    id: str
    version: str
    task: str


class _Models(msgspec.Struct, frozen=True):
    data: tuple[Model, ...]


class Sample(NamedTuple):
    """One sample of the metrics page."""

    name: str
    labels: Mapping[str, str]
    value: float


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Both pages at one moment, on the clock `time.monotonic`."""

    at_s: float
    models: tuple[Model, ...]
    samples: tuple[Sample, ...]

    def of(self, name: str, **labels: str) -> Iterator[Sample]:
        """Yield the samples of a metric that have these labels."""
        for sample in self.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                yield sample

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of these samples; 0 if there are none."""
        return sum(sample.value for sample in self.of(name, **labels))


def take_snapshot(serve: ServeSettings) -> Snapshot:
    """Read both pages of the agent now.

    Raises:
        UsageError: `config-invalid`, when the settings have no fixed port.
        TransportError: `agent-unreachable`, when no agent answers at its address.
    """
    hint = "check that `edgeml-agent run` runs with this agent.toml"
    where = f"{serve.http.host}:{serve.http.port}"
    try:
        models = decoding.from_json(_get(serve, "/v1/models"), _Models).data
        samples = tuple(parse(_get(serve, "/metrics").decode()))
    except (OSError, http.client.HTTPException, msgspec.MsgspecError, ValueError) as error:
        raise TransportError("agent-unreachable", f"no agent answers at {where}: {error}", hint) from error
    return Snapshot(at_s=time.monotonic(), models=models, samples=samples)


def parse(page: str) -> Iterator[Sample]:
    """Yield the samples of a page in Prometheus' text format, as `edgeml_agent.serve.metrics` writes it."""
    for line in page.splitlines():
        if found := _SAMPLE.fullmatch(line):
            name, labels, value = found.groups(default="")
            yield Sample(name, {key: _unescaped(text) for key, text in _LABEL.findall(labels)}, float(value))


def _get(serve: ServeSettings, path: str) -> bytes:
    host, port = serve.http.host, serve.http.port
    if port == 0:
        hint = "set [serve] http to a fixed port"
        raise UsageError(
            "config-invalid", "[serve] http has port 0, so the agent takes another port at each start", hint
        )
    token = auth.rules(host, serve.token_file).token
    connection = _connection(_ANYWHERE.get(host, host), port, serve.cert)
    try:
        _connect(connection, serve.cert)
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise http.client.HTTPException(f"it answers {response.status} to {path}")
        return response.read(ANSWER_MAX_BYTES)
    finally:
        connection.close()


def _connection(host: str, port: int, cert: Path | None) -> http.client.HTTPConnection:
    if cert is None:
        return http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE  # `_connect` compares the certificate itself
    return http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=tls)


def _connect(connection: http.client.HTTPConnection, cert: Path | None) -> None:
    """Connect. Over TLS nothing is sent, least of all the token, unless the server has the agent's own certificate."""
    connection.connect()
    if cert is not None and isinstance(connection.sock, ssl.SSLSocket):
        own = _CERTIFICATE.search(cert.read_text())
        if own is None or connection.sock.getpeercert(binary_form=True) != ssl.PEM_cert_to_DER_cert(own[0]):
            raise ssl.SSLError(f"the server has another certificate than the first in {cert}")


def _unescaped(text: str) -> str:
    return re.sub(r"\\.", lambda found: _ESCAPES.get(found[0], found[0]), text)
