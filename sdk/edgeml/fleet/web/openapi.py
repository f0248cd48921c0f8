"""The OpenAPI 3.1 document of the REST API, made of the operation table and the types named there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, get_args

import msgspec

import edgeml_core
from edgeml.fleet.web import http_errors
from edgeml.fleet.web.operations import API, JSON, Act, Body, Failed, Operation, Query
from edgeml_core.errors import CODES

VERSION: Final = "3.1.0"
_REF: Final = "#/components/schemas/{name}"
_PARAMETER: Final = re.compile(r"\{(\w+)\}")
#: Codes that any operation can answer; the second ones, where an account is needed.
_COMMON: Final = ("input-invalid", "origin-refused", "overloaded", "store-failed", "route-unknown")
_DEMANDED: Final = ("unauthorized", "forbidden")
_ABOUT: Final = (
    "The devices, rollouts and releases of a fleet. A program sends a token in the header Authorization: Bearer TOKEN. "
    "A page in a browser has a session, and sends its CSRF token with every change in the header X-CSRF-Token."
)


def encoded() -> bytes:
    """Write the document as JSON."""
    kinds = [*dict.fromkeys(_types())]
    written, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    schemas = dict(zip(kinds, written, strict=True))
    paths: dict[str, dict[str, object]] = {}
    for it in API:
        paths.setdefault(it.path, {})[it.method.lower()] = _operation(it, schemas)
    return msgspec.json.encode(
        {
            "openapi": VERSION,
            "info": {"title": "edgeml fleet", "version": edgeml_core.__version__, "description": _ABOUT},
            "paths": paths,
            "components": {
                "schemas": components,
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            },
        }
    )


def _types() -> Iterator[type]:
    yield Failed
    for it in API:
        yield from (body for body in (*it.gives.values(), it.takes) if isinstance(body, type))


def _operation(it: Operation, schemas: Mapping[type, Any]) -> dict[str, object]:
    written: dict[str, object] = {
        "operationId": it.endpoint,
        "summary": it.summary,
        "parameters": [*_parameters(it)],
        "responses": _responses(it, schemas),
    }
    if it.takes is not None:
        written["requestBody"] = {"required": True, "content": _content({JSON: it.takes}, schemas)}
    if it.role is not None:
        written["security"] = [{"token": []}]
        written["description"] = f"Needs the role {it.role}."
    return written


def _parameters(it: Operation) -> Iterator[dict[str, object]]:
    for name in _PARAMETER.findall(it.path):
        schema = {"enum": list(get_args(Act))} if name == "act" else {"type": "string", "minLength": 1}
        yield {"name": name, "in": "path", "required": True, "schema": schema}
    if it.query is not Query:
        ((_, components),) = [msgspec.json.schema_components([it.query], ref_template=_REF)]
        for name, schema in components[it.query.__name__]["properties"].items():
            yield {"name": name, "in": "query", "required": False, "schema": schema}


def _responses(it: Operation, schemas: Mapping[type, Any]) -> dict[str, object]:
    written: dict[str, Any] = {"200": {"description": "the answer", "content": _content(it.gives, schemas)}}
    codes = (*it.fails, *_COMMON, *(_DEMANDED if it.role is not None else ()))
    if it.takes is not None:
        codes = (*codes, "body-too-large", "content-unsupported")
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys(codes):
        by_status.setdefault(http_errors.status_of(code), []).append(CODES[code])
    refusal = _content({JSON: Failed}, schemas)
    for status, meanings in sorted(by_status.items()):
        written[str(status)] = {"description": "; ".join(meanings), "content": refusal}
    return written


def _content(bodies: Mapping[str, Body], schemas: Mapping[type, Any]) -> dict[str, object]:
    return {kind: {"schema": schemas[body] if isinstance(body, type) else body} for kind, body in bodies.items()}
