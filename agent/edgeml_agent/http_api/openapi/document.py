"""The OpenAPI 3.1 document, made of `operations` and of the types named there.

Source: https://spec.openapis.org/oas/v3.1.0; schemas are JSON Schema 2020-12, which msgspec writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final, get_args

import msgspec

from edgeml_agent.http_api import errors, schemas
from edgeml_agent.http_api.openapi.operations import APIS, JSON, Body, Operation, Schema
from edgeml_core.errors import CODES
from edgeml_runtime import tasks

VERSION: Final = "3.1.0"
_REF: Final = "#/components/schemas/{name}"
_PARAMETER: Final = re.compile(r"\{(\w+)\}")
_PARAMETERS: Final[Mapping[str, Schema]] = {
    "name": {"description": "the model", "schema": {"type": "string", "minLength": 1}},
    "version": {"description": "of the model", "schema": {"type": "string", "minLength": 1}},
}
#: Codes that any operation can answer. `unauthorized` joins them where a token is demanded, `overloaded` where a
#: request waits until models are loaded.
_COMMON: Final = ("input-invalid", "origin-refused")
_NOT_READY: Final = "the models of the last run are still being loaded"
_UNCHANGED: Final = "unchanged since the tag in If-None-Match was given"
_ABOUT: Final = (
    "The models that this device serves, by four APIs. Bodies may come packed as gzip or deflate (Content-Encoding). "
    "A request waits while the models of the last run are being loaded. Errors have the form of their API."
)


def encoded(version: str, *, needs_token: bool) -> bytes:
    """Write the document as JSON.

    Args:
        version: the agent's.
        needs_token: whether the server demands a token.
    """
    schemas = _Schemas()
    paths: dict[str, dict[str, object]] = {}
    for api, operations in APIS.items():
        for it in operations:
            written = _operation(it, api, schemas, needs_token=needs_token and not it.is_public)
            paths.setdefault(it.path, {})[it.method] = written
    components: dict[str, object] = {"schemas": schemas.components}
    if needs_token:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return msgspec.json.encode(
        {
            "openapi": VERSION,
            "info": {"title": "edgeml-agent", "version": version, "description": _ABOUT},
            "tags": [{"name": api} for api in APIS],
            "paths": paths,
            "components": components,
        }
    )


class _Schemas:
    """The schemas of all types in the document, each written once."""

    def __init__(self) -> None:
        bodies = [body for api in APIS.values() for it in api for body in (*it.takes.values(), *it.gives.values())]
        self._kinds = [*dict.fromkeys(kind for body in (*bodies, *_REFUSALS, *_ANSWERS) for kind in _kinds(body))]
        written, self.components = msgspec.json.schema_components(self._kinds, schema_hook=_anything, ref_template=_REF)
        self._written = dict(zip(self._kinds, written, strict=True))
        answers = {"type": "array", "items": {"anyOf": [self.of(kind) for kind in _ANSWERS]}}
        self.components[schemas.Predicted.__name__]["properties"]["outputs"] = answers

    def of(self, body: Any) -> Any:  # noqa: ANN401 - a schema's parts are of any type
        """The schema of a body, whose types have become references."""
        if isinstance(body, type):
            return self._written[body]
        if isinstance(body, Mapping):
            return {key: self.of(value) for key, value in body.items()}
        return [self.of(it) for it in body] if isinstance(body, list) else body


def _anything(kind: type) -> dict[str, Any]:
    """The schema of a field that an API checks itself."""
    if kind is object:
        return {"description": "checked together with the other fields"}  # msgspec takes no empty schema
    raise NotImplementedError


_REFUSALS: Final = (schemas.Refusal, schemas.ProtocolRefusal, schemas.OpenAIRefusal)
#: The answers of tasks over HTTP; likelihoods are for checks only.
_ANSWERS: Final = tuple(it for it in get_args(tasks.Answer) if it is not tasks.LikelihoodAnswer)


def _kinds(body: object) -> Iterator[type]:
    """Yield the types that a body is made of."""
    if isinstance(body, type):
        yield body
    elif isinstance(body, Mapping | list):
        for it in body.values() if isinstance(body, Mapping) else body:
            yield from _kinds(it)


def _operation(it: Operation, api: str, schemas: _Schemas, *, needs_token: bool) -> dict[str, object]:
    words = re.findall(r"\w+", it.path) or ["page"]
    written: dict[str, object] = {
        "operationId": "_".join((it.method, *words)),
        "tags": [api],
        "summary": it.summary,
        "parameters": [*_parameters(it)],
        "responses": _responses(it, schemas, needs_token=needs_token),
    }
    if it.takes:
        written["requestBody"] = {"required": it.needs_body, "content": _content(it.takes, schemas)}
    if needs_token:
        written["security"] = [{"token": []}]
    return written


def _parameters(it: Operation) -> Iterator[dict[str, object]]:
    for name in _PARAMETER.findall(it.path):
        yield {"name": name, "in": "path", "required": True, **_PARAMETERS[name]}
    for name, described in it.headers.items():
        yield {"name": name, "in": "header", "required": False, **described}


def _responses(it: Operation, schemas: _Schemas, *, needs_token: bool) -> dict[str, Any]:
    written: dict[str, Any] = {"200": {"description": "the answer", "content": _content(it.gives, schemas)}}
    by_status: dict[int, list[str]] = {}
    demanded = [*(["unauthorized"] if needs_token else []), *(["overloaded"] if it.waits else [])]
    for code in dict.fromkeys((*it.fails, *_COMMON, *demanded)):
        by_status.setdefault(errors.STATUS[code], []).append(CODES[code])
    refusal = _content({JSON: it.error_form.schema}, schemas)
    for status, meanings in sorted(by_status.items()):
        written[str(status)] = {"description": "; ".join(meanings), "content": refusal}
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            seconds = {"description": "seconds until there is room", "schema": {"type": "integer"}}
            written[str(status)] |= {"headers": {"Retry-After": seconds}}
    if it.tells_readiness:
        written["503"] = {"description": _NOT_READY, "content": _content(it.gives, schemas)}
    if it.has_tag:
        written["304"] = {"description": _UNCHANGED}
    return written


def _content(bodies: Mapping[str, Body], schemas: _Schemas) -> dict[str, object]:
    return {kind: {} if body is None else {"schema": schemas.of(body)} for kind, body in bodies.items()}
