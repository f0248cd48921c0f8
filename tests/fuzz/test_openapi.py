"""Schemathesis on the OpenAPI document that the server itself tells: all answers are as it says, whatever is asked.

Of its checks one is left out: that all that fits the schemas is taken. A text fits them, but not a picture's model.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import schemathesis
from schemathesis.engine import events, from_schema

from fuzz import campaign
from fuzz.request import AUTHORIZATION
from fuzz.site import MODELS, Site, hold_answer

PART = "openapi"
UNLOADED = ("noise",)
#: Inputs of the deterministic phases, which come whatever the number asked for; about.
FIXED = 1500


def test_every_answer_is_as_the_document_says(site: Site) -> None:
    """Statuses, types, bodies and headers; wrong requests are refused; no request gets by without the token."""
    raw = json.loads(site.ask("GET", "/openapi.json")[2])
    varied = sum(
        bool(it["parameters"] or "requestBody" in it) for path in raw["paths"].values() for it in path.values()
    )
    schema = schemathesis.openapi.from_dict(raw, config=_config(max(1, (campaign.inputs(PART) - FIXED) // varied)))
    schema.config.update(base_url=site.url)
    _name_models(schema)
    failures: list[str] = []
    for event in from_schema(schema).execute():
        failures += _judged(event)
    assert not failures, "\n\n".join(failures[:10])
    assert campaign.part(PART).inputs >= campaign.inputs(PART) // 4
    site.hold()


def _config(most: int) -> schemathesis.Config:
    return schemathesis.Config.from_dict(
        {
            "seed": campaign.SEED,
            "continue-on-failure": True,
            "headers": AUTHORIZATION,
            "generation": {"max-examples": most, "database": "none"},
            "checks": {
                "positive_data_acceptance": {"enabled": False},
                # A request that sets itself a deadline of microseconds has missed it by its turn.
                "not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", "504"]},
            },
            "phases": {"stateful": {"enabled": False}},
        }
    )


def _name_models(schema: Any) -> None:
    """Most of what is asked is asked of models that are there."""

    @schema.hook
    def map_path_parameters(context: Any, path_parameters: dict[str, Any]) -> dict[str, Any]:
        given = dict(path_parameters or {})
        if "name" in given:
            others = UNLOADED if context.operation.path.endswith("/unload") else MODELS
            given["name"] = _one((*others, given["name"]), given["name"])
        if "version" in given:
            given["version"] = _one(("1.0", given["version"]), given["version"])
        return given

    @schema.hook
    def map_body(context: Any, body: Any) -> Any:
        if isinstance(body, dict) and isinstance(body.get("model"), str):
            body["model"] = _one(("writer", "nurse", "meaning", body["model"]), body["model"])
        return body


def _one(of: Sequence[str], given: object) -> str:
    """One of several, always the same for what was given."""
    return of[zlib.crc32(repr(given).encode()) % len(of)]


def _judged(event: Any) -> Iterator[str]:
    """What is wrong with the answers of one scenario; each is counted."""
    match event:
        case events.NonFatalError(info=info):
            yield str(info)
        case events.FatalError(exception=error):
            yield repr(error)
        case events.ScenarioFinished(recorder=recorder):
            for case_id, it in recorder.interactions.items():
                if it.response is not None:
                    hold_answer(PART, it.response.status_code, it.response.elapsed, recorder.label)
                for check in recorder.checks.get(case_id, ()):
                    if failure := check.failure_info:
                        yield f"{recorder.label}: {failure.failure}\n{failure.code_sample}"
